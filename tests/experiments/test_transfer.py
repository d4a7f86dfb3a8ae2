"""The rules of the transfer experiment on made-up rows, and its conditions."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import transfer

FEW, MANY = 10, 500
TRUE = {  # way -> (test error with few, with many, early validation error)
    "scratch": (0.50, 0.10, 0.40),
    "head": (0.30, 0.20, 0.30),
    "late": (0.38, 0.10, 0.25),
    "all": (0.40, 0.10, 0.20),
}


def assignment(way, size):
    conditions = transfer.grid("quick", DataConfig("digits"))
    found = next(each for each in conditions if transfer.way_of(each) == way)
    return {**found, "frozen": list(found["frozen"]), "train_size": size}  # as it comes back from a file


def fabricated(errors=TRUE, noise=0.004, seeds=8, draw=0):
    random = np.random.default_rng(draw)
    rows = []
    for way, (few, many, early) in errors.items():
        for size, error in ((FEW, few), (MANY, many)):
            for seed in range(seeds):
                jitter = noise * random.standard_normal(2)
                rows.append(
                    {
                        "assignment": assignment(way, size),
                        "seed": seed,
                        "status": "done",
                        "metrics": {"test_error": error + jitter[0]},
                        "history": [{"step": 25, "valid_error": early + jitter[1]}, {"step": 100, "valid_error": 0.0}],
                    }
                )
    return rows


def outcomes(rows):
    return {verdict.id: verdict.verdict for verdict in transfer.verdict(rows)}


def test_effects_that_are_there_are_reproduced():
    assert set(outcomes(fabricated()).values()) == {"reproduced"}


def test_reversed_effects_are_refuted():
    against = {
        "scratch": (0.2, 0.10, 0.1), "head": (0.5, 0.15, 0.3), "late": (0.4, 0.30, 0.3), "all": (0.3, 0.20, 0.3),
    }  # fmt: skip
    assert set(outcomes(fabricated(against)).values()) == {"refuted"}


def test_noise_decides_nothing():
    same = dict.fromkeys(transfer.WAYS, (0.3, 0.3, 0.3))
    assert set(outcomes(fabricated(same, noise=0.1, draw=1)).values()) == {"inconclusive"}


def test_a_diverged_run_counts_with_the_error_of_chance():
    rows = fabricated(dict.fromkeys(transfer.WAYS, (0.3, 0.3, 0.3)), noise=0.0)
    lost = next(row for row in rows if transfer.way_of(row["assignment"]) == "head")
    lost.update(status="diverged", classes=5, metrics={}, history=[])
    found = {verdict.id: verdict for verdict in transfer.verdict(rows)}
    assert found["needs-less-data"].effect == pytest.approx((0.8 - 0.3) / 8)


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_conditions(preset, name):
    grid = transfer.grid(preset, DataConfig(name), weights="somewhere.safetensors")
    assert list(dict.fromkeys(map(transfer.way_of, grid))) == list(transfer.WAYS)
    assert all(bool(each["weights"]) == (transfer.way_of(each) != "scratch") for each in grid)
    sizes = [each["train_size"] for each in grid if transfer.way_of(each) == "head"]
    assert sizes == sorted(set(sizes))
    assert len(sizes) >= 2


def test_source_and_target_share_no_class():
    source, _ = transfer.source("quick", DataConfig("digits"))
    target = transfer.spec("quick", DataConfig("digits"))
    assert set(source.data.classes).isdisjoint(target.data.classes)
    assert sorted((*source.data.classes, *target.data.classes)) == list(range(10))
    assert (source.model, source.model_fields) == (target.model, target.model_fields)
