"""The verdict on weight decay from made-up runs, and the identities that hold without any."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from cnnjax.report import figures
from experiments import regularization

STRENGTHS = (0.0, 1e-3, 1e-2)
GOOD = {0.0: (0.1, 0.9), 1e-3: (0.2, 0.5), 1e-2: (0.8, 1.1)}  # c -> training loss, test loss


def made(losses, decoupled=None, seeds=6, noise=0.01, valid=None):
    """Rows of both normalisations in which c leads to ``losses``; decoupled decay to the same ones by default."""
    rows = []
    for seed in range(seeds):
        shift = 0.1 * seed  # seeds differ more than conditions: only pairs tell
        for norm in regularization.NORMS:
            for c, (train, test) in losses.items():
                wobble = noise * np.random.default_rng([seed, norm == "none", int(1e6 * c)]).standard_normal()
                metrics = {
                    "train_loss": train + shift, "test_loss": test + shift + wobble,
                    "valid_loss": (valid or {}).get(c, test) + shift,
                }  # fmt: skip
                rows.append(row({"model.norm": norm, "l2": c}, seed, metrics))
                if c:
                    other = metrics | {"test_loss": metrics["test_loss"] + (decoupled or 0.0) * (1 + 0.01 * seed)}
                    decay = regularization.equal_decay(c)
                    rows.append(row({"model.norm": norm, "weight_decay": decay}, seed, other))
    return rows


def row(assignment, seed, metrics, status="done"):
    return {"assignment": assignment, "seed": seed, "status": status, "metrics": metrics}


def outcomes(rows):
    return {v.id: v.verdict for v in regularization.verdict(rows, [])}


def test_a_penalty_that_helps_and_hurts_where_it_should():
    found = outcomes(made(GOOD))
    exact = {claim.id for claim in regularization.CLAIMS if claim.test == "exact"}
    assert {name for name, verdict in found.items() if verdict == "reproduced"} == set(found) - exact
    assert {found[name] for name in exact} == {"inconclusive"}  # nothing was measured


def test_a_penalty_that_does_the_opposite():
    # Chosen by a validation loss that deceives: the test split decides, and it alone.
    found = outcomes(
        made({0.0: (0.5, 0.6), 1e-3: (0.1, 0.9), 1e-2: (0.2, 1.1)}, valid={0.0: 5.0, 1e-3: 0.1, 1e-2: 5.0})
    )
    names = ("penalty-shrinks-gap", "penalty-improves-test", "too-much-underfits", "batch-norm-too")
    assert {found[name] for name in names} == {"refuted"}


def test_noise_decides_nothing():
    found = outcomes(made(dict.fromkeys(STRENGTHS, (0.5, 0.5)), noise=0.3, valid={0.0: 2.0, 1e-3: 1.0, 1e-2: 2.0}))
    assert {found[name] for name in ("penalty-improves-test", "batch-norm-too")} == {"inconclusive"}


def test_decay_that_differs_is_not_equivalent():
    assert outcomes(made(GOOD, decoupled=0.001))["decay-with-momentum"] == "reproduced"
    assert outcomes(made(GOOD, decoupled=0.1))["decay-with-momentum"] == "refuted"


def test_the_penalty_is_chosen_on_validation_and_never_one_that_diverges():
    rows = made(GOOD, valid={0.0: 1.0, 1e-3: 2.0, 1e-2: 0.5})
    assert regularization.chosen_penalty(rows, "none") == 1e-2
    rows = [
        each | {"status": "diverged"} if each["assignment"] == {"model.norm": "none", "l2": 1e-2} and not each["seed"]
        else each for each in rows
    ]  # fmt: skip
    assert regularization.chosen_penalty(rows, "none") == 0.0
    assert regularization.chosen_penalty(rows, "batch") == 1e-2


def test_the_grid_pairs_every_penalty_with_decay_of_its_strength():
    points = regularization.grid("quick", DataConfig())
    for norm in regularization.NORMS:
        penalties = [p["l2"] for p in points if p["model.norm"] == norm and p.get("l2")]
        decays = [p["weight_decay"] for p in points if p["model.norm"] == norm and "weight_decay" in p]
        assert decays == pytest.approx([20 * c for c in penalties])  # 2 c / (1 - 0.9)


@pytest.mark.slow
def test_the_identities_hold_for_what_they_are_said_of_and_for_nothing_else():
    assert regularization.descent_differences((0.1,))[0.1] <= 1e-5
    assert regularization.descent_differences((0.1,), ratio=1.0)[0.1] > 1e-3
    assert regularization.adam_difference(0.1) <= 1e-4
    assert regularization.size_differences((10.0,))[10.0] <= 1e-4
    assert regularization.size_differences((10.0,), norm="none")[10.0] > 0.1


def test_the_penalty_alone_is_judged_and_drawn_too():
    rows = [each for each in made(GOOD) if "l2" in each["assignment"]]
    found = outcomes(rows)
    assert (found["penalty-improves-test"], found["decay-with-momentum"]) == ("reproduced", "inconclusive")
    forms = next(figure for figure in regularization.FIGURES if isinstance(figure, figures.Drawing))
    assert figures.draw(forms, rows).axes
