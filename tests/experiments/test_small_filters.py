"""The rules of the small-filters experiment on made-up rows, and its counts by hand."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import small_filters

TRAINED = [claim.id for claim in small_filters.CLAIMS if claim.test != "exact"]


def fabricated(chains, depths, noise=0.002, seeds=8, draw=0):
    """Runs of each chain (side, convolutions) and of each depth's net, about their mean test errors.

    Assignments are as they come back from a file: with lists, and with the depth's nets unnamed.
    """
    random = np.random.default_rng(draw)
    conditions = [
        ({"model.kernel_size": side, "model.stages": [[8, times], [16, times]]}, error)
        for (side, times), error in chains.items()
    ]
    conditions += [({"model.stages": [[8, 1], [16, depth - 1]]}, error) for depth, error in depths.items()]
    return [
        {
            "assignment": assignment,
            "seed": seed,
            "status": "done",
            "metrics": {"test_error": error + noise * random.standard_normal()},
        }
        for assignment, error in conditions
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def measured():
    return small_filters.measure("smoke", DataConfig())


def outcomes(rows, measured):
    return {verdict.id: verdict.verdict for verdict in small_filters.verdict(rows, measured)}


def test_effects_that_are_there_are_reproduced(measured):
    rows = fabricated({(7, 1): 0.1, (3, 3): 0.08, (5, 1): 0.09, (3, 2): 0.09}, {4: 0.2, 6: 0.3, 8: 0.1})
    assert set(outcomes(rows, measured).values()) == {"reproduced"}


def test_reversed_effects_are_refuted(measured):
    rows = fabricated({(7, 1): 0.05, (3, 3): 0.1, (5, 1): 0.05, (3, 2): 0.1}, {4: 0.1, 8: 0.2})
    found = outcomes(rows, measured)
    assert {found[name] for name in TRAINED} == {"refuted"}


def test_noise_decides_nothing(measured):
    rows = fabricated(dict.fromkeys(small_filters.CHAINS, 0.3), {4: 0.3, 8: 0.3}, noise=0.1, draw=1)
    found = outcomes(rows, measured)
    assert {found[name] for name in TRAINED} == {"inconclusive"}


def test_a_diverged_run_counts_with_the_error_of_chance(measured):
    rows = fabricated(dict.fromkeys(small_filters.CHAINS, 0.1), {4: 0.1, 8: 0.1}, noise=0.0)
    lost = next(row for row in rows if small_filters.chain(row["assignment"]) == (3, 3))
    lost.update(status="diverged", classes=10, metrics={})
    found = {verdict.id: verdict for verdict in small_filters.verdict(rows, measured)}
    assert found["three-small-not-worse"].n == 8
    assert found["three-small-not-worse"].effect == pytest.approx((0.9 - 0.1) / 8)


def test_costs_are_those_of_the_paper():
    found = {kind: small_filters.cost(*kind, channels=3) for kind in small_filters.CHAINS}
    assert {kind: each["weights"] for kind, each in found.items()} == {(7, 1): 49, (3, 3): 27, (5, 1): 25, (3, 2): 18}
    assert all(each["weights"] == each["multiply_adds"] for each in found.values())


def test_the_receptive_field_grows_by_the_side_less_one(measured):
    found = {small_filters._kind(row): row["metrics"].get("receptive_field") for row in measured[:4]}
    assert found == {(side, times): 1 + times * (side - 1) for side, times in small_filters.CHAINS}


def test_a_wider_field_refutes_the_exact_claim(measured):
    broken = [{**row, "metrics": {"receptive_field": 9}} for row in measured[:1]]
    rows = fabricated(dict.fromkeys(small_filters.CHAINS, 0.1), {4: 0.1, 8: 0.1})
    assert outcomes(rows, broken)["same-receptive-field"] == "refuted"


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_every_condition_of_the_grid_belongs_to_one_part(preset):
    grid = small_filters.grid(preset, DataConfig())
    chains = [small_filters.chain(assignment) for assignment in grid]
    assert [each for each in chains if each] == list(small_filters.CHAINS)
    depths = [small_filters.depth(assignment) for assignment in grid if not small_filters.chain(assignment)]
    assert len(set(depths)) == len(depths) >= 2
