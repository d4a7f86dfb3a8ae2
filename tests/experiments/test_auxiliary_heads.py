"""The rule of the experiment on auxiliary heads on made-up rows."""

import numpy as np
import pytest

from experiments import auxiliary_heads


def fabricated(noise=0.004, seeds=16, **changes):
    """Errors and losses in favour of the lectures, unless changed: (without, with) for each metric."""
    random = np.random.default_rng(0)
    means = {
        "test_error": (0.10, 0.05),
        "test_error_auxiliary1": (0.90, 0.10),
        "train_loss": (0.10, 0.10),
        "test_loss": (0.40, 0.30),
        **changes,
    }
    return [
        {
            "assignment": {"auxiliary_weight": weight},
            "seed": seed,
            "status": "done",
            "classes": 10,
            "metrics": {name: pair[place] + noise * random.standard_normal() for name, pair in means.items()},
        }
        for place, weight in enumerate(auxiliary_heads.WEIGHTS)
        for seed in range(seeds)
    ]


def verdicts(rows):
    return {verdict.id: verdict.verdict for verdict in auxiliary_heads.verdict(rows)}


def test_all_is_reproduced():
    assert set(verdicts(fabricated()).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("intermediate-output-works", {"test_error_auxiliary1": (0.9, 0.6)}),
        ("deeper-is-better", {"test_error_auxiliary1": (0.9, 0.02)}),
        ("lower-error", {"test_error": (0.05, 0.07)}),
        ("regularises", {"test_loss": (0.3, 0.4)}),
        ("regularises", {"train_loss": (0.2, 0.05)}),
    ],
)
def test_each_claim_can_be_refuted(claim, changes):
    assert verdicts(fabricated(**changes))[claim] == "refuted"


def test_noise_decides_nothing():
    assert verdicts(fabricated(noise=0.3, test_error=(0.1, 0.1)))["lower-error"] == "inconclusive"


def test_a_diverged_run_counts_with_the_error_of_chance():
    rows = fabricated(noise=0.0, seeds=4)
    rows[-1].update(status="diverged", metrics={})
    found = {verdict.id: verdict for verdict in auxiliary_heads.verdict(rows)}
    assert found["lower-error"].effect == pytest.approx((3 * (0.05 - 0.10) + (0.9 - 0.10)) / 4)
