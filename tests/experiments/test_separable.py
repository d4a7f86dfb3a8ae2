"""The rules of the separable experiment on made-up rows, and its counts by hand."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import separable

TRAINED = ("small-price", "not-worse-at-equal-cost")


def fabricated(errors, noise=0.002, seeds=8, draw=0):
    """Runs of each net about its mean test error."""
    random = np.random.default_rng(draw)
    return [
        {
            "assignment": dict(separable.NETS[net]),
            "seed": seed,
            "status": "done",
            "metrics": {"test_error": error + noise * random.standard_normal()},
        }
        for net, error in errors.items()
        for seed in range(seeds)
    ]


def timed(ratio, spread=0.1, turns=8):
    random = np.random.default_rng(1)
    return [
        {
            "assignment": {"timed_side": 8, "channels": 8},
            "seed": turn,
            "status": "done",
            "metrics": {"seconds_full": 1.0, "seconds_separable": ratio * 2 ** (spread * random.standard_normal())},
        }
        for turn in range(turns)
    ]


@pytest.fixture(scope="module")
def counted():
    return [row for row in separable.measure("smoke", DataConfig()) if "layer" in row["assignment"]]


def outcomes(rows, measured):
    return {verdict.id: verdict.verdict for verdict in separable.verdict(rows, measured)}


def test_effects_that_are_there_are_reproduced(counted):
    rows = fabricated({"full": 0.10, "separable": 0.11, "wide": 0.09})
    assert set(outcomes(rows, counted + timed(0.5)).values()) == {"reproduced"}


def test_reversed_effects_are_refuted(counted):
    found = outcomes(fabricated({"full": 0.05, "separable": 0.1, "wide": 0.08}), counted + timed(2.0))
    assert {found[name] for name in (*TRAINED, "takes-less-time")} == {"refuted"}


def test_noise_decides_nothing(counted):
    rows = fabricated(dict.fromkeys(separable.NETS, 0.3), noise=0.1, draw=3)
    found = outcomes(rows, counted + timed(1.0, spread=1.0))
    assert {found[name] for name in (*TRAINED, "takes-less-time")} == {"inconclusive"}


def test_a_diverged_run_counts_with_the_error_of_chance(counted):
    rows = fabricated(dict.fromkeys(separable.NETS, 0.1), noise=0.0)
    lost = next(row for row in rows if separable.name_of(row["assignment"], rows) == "wide")
    lost.update(status="diverged", classes=10, metrics={})
    found = {verdict.id: verdict for verdict in separable.verdict(rows, counted)}
    assert found["not-worse-at-equal-cost"].effect == pytest.approx((0.9 - 0.1) / 8)


def test_the_lectures_multiplications():
    assert separable.costs(0) == {
        "full": 2160, "depthwise": 432, "pointwise": 240, "separable": 672,
        "ratio": pytest.approx(672 / 2160), "formula": pytest.approx(1 / 5 + 1 / 9),
    }  # fmt: skip


def test_another_count_refutes_the_exact_claims(counted):
    broken = [{**row, "metrics": {**row["metrics"], "full": 2161, "ratio": 0.3}} for row in counted[:1]]
    found = outcomes(fabricated(dict.fromkeys(separable.NETS, 0.1)), broken)
    assert found["lecture-example"] == found["cost-ratio"] == "refuted"


@pytest.mark.slow
def test_the_wide_net_costs_about_as_much_as_the_full_one():
    from cnnjax import models
    from cnnjax.analysis import multiply_adds

    def cost(net, stages, side, width):
        model = models.create(
            "mobilenet_v1", num_classes=10, stages=stages, width_multiplier=width,
            separable=separable.NETS[net]["model.separable"],
        )  # fmt: skip
        return multiply_adds(model, (side, side, 3))

    quick = {
        net: cost(net, separable.STAGES, 16, fields["model.width_multiplier"]) for net, fields in separable.NETS.items()
    }
    assert quick["wide"] == pytest.approx(quick["full"], rel=0.2)
    paper = {net: cost(net, separable.SEPARABLE, 32, width) for net, width in separable.PAPER_WIDTHS.items()}
    assert paper["wide"] == pytest.approx(paper["full"], rel=0.2)
