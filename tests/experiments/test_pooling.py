"""The rule of the pooling experiment on made-up rows, and its windows by hand."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import pooling

TRUE = {  # way -> (test error, changed at 1 pixel, changed at 4 pixels)
    "max": (0.03, 0.06, 0.80),
    "average": (0.03, 0.08, 0.78),
    "blur": (0.03, 0.04, 0.70),
    "stride": (0.03, 0.12, 0.90),
}
TRAINED = [claim.id for claim in pooling.CLAIMS if claim.test != "exact"]


def fabricated(means=TRUE, noise=0.002, seeds=8):
    """One run for each way and seed, with metrics scattered about their means."""
    random = np.random.default_rng(0)
    rows = []
    for pool, (error, near, far) in means.items():
        for seed in range(seeds):
            jitter = noise * random.standard_normal(3)
            metrics = {
                "test_error": error + jitter[0],
                "test_changed_shift1": near + jitter[1],
                "test_changed_shift4": far + jitter[2],
            }
            rows.append({"assignment": {"model.pool": pool}, "seed": seed, "status": "done", "metrics": metrics})
    return rows


@pytest.fixture(scope="module")
def measured():
    return pooling.measure("smoke", DataConfig())


def outcomes(rows, measured):
    return {verdict.id: verdict.verdict for verdict in pooling.verdict(rows, measured)}


def test_effects_that_are_there_are_reproduced(measured):
    assert set(outcomes(fabricated(), measured).values()) == {"reproduced"}


def test_reversed_effects_are_refuted(measured):
    reversed_ = {"max": (0.03, 0.5, 0.3), "blur": (0.03, 0.6, 0.5), "stride": (0.12, 0.2, 0.4)}
    found = outcomes(fabricated(reversed_), measured)
    assert {found[name] for name in TRAINED} == {"refuted"}


def test_noise_decides_nothing(measured):
    same = dict.fromkeys(("max", "blur", "stride"), (0.3, 0.3, 0.3))
    found = outcomes(fabricated(same, noise=0.1), measured)
    assert {found[name] for name in TRAINED} == {"inconclusive"}


def test_a_diverged_run_counts_with_the_error_of_chance(measured):
    rows = fabricated()
    lost = next(row for row in rows if row["assignment"]["model.pool"] == "stride")
    lost.update(status="diverged", classes=10, metrics={})
    found = {verdict.id: verdict for verdict in pooling.verdict(rows, measured)}
    assert found["strided-as-accurate"].n == 8
    assert found["strided-as-accurate"].effect == pytest.approx((0.9 - 0.03) / 8, abs=0.005)


def test_predictions_that_never_change_have_a_logarithm(measured):
    never = {"max": (0.03, 0.0, 0.8), "blur": (0.03, 0.0, 0.7), "stride": (0.03, 0.1, 0.9)}
    assert outcomes(fabricated(never, noise=0.0), measured)["advantage-fades"] == "reproduced"


@pytest.mark.parametrize("window", pooling.WINDOWS)
def test_the_maximum_holds_inside_the_window_and_a_strided_output_at_one_place(window):
    found = pooling.window_responses(window)
    assert [each["maximum"] for each in found] == [1.0] * window + [0.0] * window
    assert [each["subsampled"] for each in found] == [1.0] + [0.0] * (2 * window - 1)
    assert {each["deviation"] for each in found} == {0.0}


def test_a_maximum_that_lets_go_too_early_is_refuted(measured):
    broken = [{**row, "metrics": {**row["metrics"], "deviation": -1.0}} for row in measured[:1]]
    assert outcomes(fabricated(), broken)["max-forgives-shifts-inside-its-window"] == "refuted"


def test_a_style_that_remembers_places_is_refuted(measured):
    assert all(abs(row["metrics"]["content"]) < 0.1 for row in measured if "shuffled_side" in row["assignment"])
    broken = [
        {**row, "metrics": {"style": 0.1, "content": -1.0}} for row in measured if "shuffled_side" in row["assignment"]
    ]
    found = outcomes(fabricated(), broken)
    assert found["style-forgets-places"] == found["content-knows-places"] == "refuted"
