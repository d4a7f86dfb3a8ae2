"""The rules of the activations experiment on made-up rows, and its arbitrary heads."""

import math

import pytest

from cnnjax.data import DataConfig
from experiments import activations

LENGTH = 100
RATES = (0.01, 0.1)


def run(assignment, seed, reached, valid_reached, status="done", **metrics):
    """A run evaluated every 5 steps, whose errors fall from 0.9 to 0.1 at the given steps (None: never)."""
    history = [
        {
            "step": step,
            "train_error": 0.1 if reached and step >= reached else 0.9,
            "valid_error": 0.1 if valid_reached and step >= valid_reached else 0.9,
        }
        for step in range(5, LENGTH + 1, 5)
    ]
    metrics = {"valid_error": 0.1 if valid_reached else 0.9} | metrics
    return {"assignment": assignment, "seed": seed, "status": status, "metrics": metrics, "history": history}


def fabricated(steps, yes=1.0, linear=(0.101, 0.09)):
    """``steps``: (activation, rate) -> training and validation steps, for each of 8 seeds a little later."""
    rows = []
    for seed in range(8):
        for (name, rate), (reached, valid) in steps.items():
            assignment = {"model.activation": name, "model.kernel_init": "any", "learning_rate": rate}
            later = 5 * (seed % 2)
            rows.append(run(assignment, seed, reached and reached + later, valid and valid + later))
        for head, (positive, right) in {"identity": linear, "relu": (yes, 0.1)}.items():
            assignment = {"model.head_activation": head, "loss": "sigmoid", "learning_rate": 0.05}
            found = {"test_positive": positive, "test_true_positive": right}
            rows.append(run(assignment, seed, 10, 10, **found))
    return rows


def every(relu, tanh, sigmoid):
    """The same training and validation steps at both rates, but twice as many at the lower."""
    found = {}
    for name, steps in (("relu", relu), ("tanh", tanh), ("sigmoid", sigmoid)):
        found[name, 0.1] = (steps, steps)
        found[name, 0.01] = (steps and 2 * steps, steps and 2 * steps)
    return found


@pytest.fixture(scope="module")
def measured():
    return activations.measure("smoke", DataConfig())


def outcomes(rows, measured):
    return {verdict.id: verdict.verdict for verdict in activations.verdict(rows, measured)}


@pytest.mark.slow
def test_effects_that_are_there_are_reproduced(measured):
    found = activations.verdict(fabricated(every(10, 40, None)), measured)
    assert {verdict.verdict for verdict in found} == {"reproduced"}
    seed_means = [math.log2(10 / 40), math.log2(15 / 45)]
    assert found[0].effect == pytest.approx(sum(seed_means) / 2)


def test_reversed_effects_are_refuted(measured):
    rows = fabricated(every(45, 10, 20), yes=0.5, linear=(0.501, 0.01))
    found = outcomes(rows, measured)
    assert found.pop("relu-head-always-says-yes") == "reproduced"
    assert set(found.values()) == {"refuted"}


def test_a_run_that_never_gets_there_counts_with_its_length(measured):
    (_, sigmoid, *_) = activations.verdict(fabricated(every(10, 40, None)), measured)
    expected = [math.log2(10 / LENGTH), math.log2(15 / LENGTH)]
    assert sigmoid.effect == pytest.approx(sum(expected) / 2)


def test_the_rate_is_chosen_on_validation(measured):
    steps = every(10, 40, 80)
    steps["relu", 0.01] = (90, 5)  # the fastest on validation, the slowest on training
    rows = fabricated(steps)
    assert activations.chosen_rates(rows) == {"relu": 0.01, "tanh": 0.1, "sigmoid": 0.1}
    assert outcomes(rows, measured)["relu-faster-than-tanh"] == "refuted"


def test_among_rates_that_never_get_there_the_final_validation_error_decides():
    steps = {(name, rate): (None, None) for name in activations.INITIAL for rate in RATES}
    rows = fabricated(steps)
    for row in rows:
        if row["assignment"]["learning_rate"] == 0.01:
            row["metrics"]["valid_error"] = 0.5
    assert set(activations.chosen_rates(rows).values()) == {0.01}


def test_a_diverged_run_counts_with_the_length_and_not_a_number_reaches_nothing():
    rows = fabricated(every(10, 40, 80))
    lost = next(row for row in rows if row["assignment"].get("model.activation") == "relu")
    lost.update(status="diverged", classes=10, metrics={})
    for entry in lost["history"]:
        entry["train_error"] = math.nan
    lost["history"] = lost["history"][:3]
    rate, seed = lost["assignment"]["learning_rate"], lost["seed"]
    assert activations.log2_steps(rows, "train_error", "relu", rate)[seed] == math.log2(LENGTH)


def test_precision_without_any_yes_is_zero():
    rows = fabricated(every(10, 40, 80), linear=(0.0, 0.0))
    assert set(activations.precision(rows, "identity").values()) == {0.0}


def test_heads_at_arbitrary_weights(measured):
    relu = [row["metrics"] for row in measured if row["assignment"]["head"] == "relu"]
    linear = [row["metrics"] for row in measured if row["assignment"]["head"] == "identity"]
    assert {found["yes"] for found in relu} == {1.0}
    assert all(found["precision"] == pytest.approx(found["prevalence"]) for found in relu)
    assert all(found["prevalence"] == pytest.approx(0.1) for found in relu + linear)
    assert all(0 < found["yes"] < 1 for found in linear)


def test_one_answer_of_no_refutes_the_exact_claim(measured):
    broken = [{**row, "metrics": {**row["metrics"], "yes": 0.999}} for row in measured]
    assert outcomes(fabricated(every(10, 40, 80)), broken)["relu-head-always-says-yes"] == "refuted"
