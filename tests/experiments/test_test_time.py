"""The verdicts of the test-time experiment on made-up outputs, and the arithmetic of ensembles."""

import numpy as np
import pytest

from cnnjax import claims
from cnnjax.data import DataConfig
from cnnjax.sweep.kept import encoded
from experiments import test_time as experiment

CROP = 0.25
EXAMPLES, CLASSES = 400, 4
LABELS = np.arange(EXAMPLES, dtype=np.int32) % CLASSES


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def nets(count, shared=0.0, own=1.0):
    """Outputs that are right but for noise: one part shared by all nets, one of each net's own."""
    rng = np.random.default_rng(0)
    truth = 1.5 * np.eye(CLASSES)[LABELS] + shared * rng.standard_normal((EXAMPLES, CLASSES))
    return [(softmax(truth + own * rng.standard_normal(truth.shape)), LABELS) for _ in range(count)]


def rows(members, gain=0.05):
    """Runs with these outputs, of which several views lower the error by ``gain`` on average."""
    made = []
    for seed, (probabilities, labels) in enumerate(members):
        error = float(np.mean(probabilities.argmax(-1) != labels))
        views = error - gain + 0.01 * np.random.default_rng(seed).standard_normal()
        for crop in (0.0, CROP):
            row = claims.measured({"crop": crop}, seed, {"test_error": error, "test_error_crops5": float(views)})
            made.append({**row, "outputs": encoded({"probabilities": probabilities, "labels": labels})})
    return made


def outcomes(made):
    measured = experiment.measure("quick", DataConfig())
    return {verdict.id: verdict for verdict in experiment.verdict(made, measured)}


@pytest.mark.slow
def test_effects_that_are_there_are_reproduced():
    found = outcomes(rows(nets(32)))
    assert {verdict.verdict for verdict in found.values()} == {"reproduced"}
    assert found["ensemble-beats-its-members"].n == 4
    assert found["views-beat-the-centre"].n == 32


@pytest.mark.slow
def test_nets_that_all_err_alike_gain_nothing():
    alike = nets(1, own=0.0, shared=1.0) * 32
    found = outcomes(rows(alike, gain=0.0))
    assert found["ensemble-beats-its-members"].verdict == "inconclusive"
    assert found["ensemble-beats-its-members"].effect == 0
    assert found["views-beat-the-centre"].verdict == "inconclusive"


@pytest.mark.slow
def test_a_vote_that_makes_things_worse_is_refuted():
    """One confident wrong net in each pair overrules the right one."""
    right, wrong = 0.6 * np.eye(CLASSES)[LABELS] + 0.1, 0.96 * np.eye(CLASSES)[(LABELS + 1) % CLASSES] + 0.01
    rng = np.random.default_rng(1)
    made = []
    for pair in range(4):
        mixed = np.where(rng.uniform(size=(EXAMPLES, 1)) < 0.3 + 0.02 * pair, wrong, right)
        other = np.where(rng.uniform(size=(EXAMPLES, 1)) < 0.3, wrong, right)
        made += [(mixed.astype(np.float32), LABELS), (other.astype(np.float32), LABELS)]
    found = outcomes(rows(made, gain=-0.05))
    assert found["ensemble-beats-its-members"].effect > 0
    assert found["ensemble-beats-its-members"].verdict == "refuted"
    assert found["views-beat-the-centre"].verdict == "refuted"


@pytest.mark.slow
def test_diverged_runs_are_in_no_ensemble():
    made = rows(nets(9))
    for row in made:
        if row["seed"] == 4:
            row.update(status="diverged", metrics={}, outputs=None)
    assert len(experiment.members(made, CROP)) == 8
    assert outcomes(made)["views-beat-the-centre"].n == 8


@pytest.mark.parametrize(("count", "size"), [(64, 8), (24, 8), (23, 4), (12, 4), (11, 2), (2, 2), (0, 2)])
def test_ensembles_are_as_large_as_leaves_three_of_them(count, size):
    assert experiment.judged_size(count) == size


def test_groups_are_disjoint():
    assert experiment.groups(list(range(7)), 3) == [[0, 1, 2], [3, 4, 5]]


def test_the_loss_of_an_ensemble_is_at_most_the_mean_loss_of_its_members():
    """Jensen's inequality: minus the logarithm is convex."""
    for own in (0.1, 1.0, 3.0):
        group = nets(8, own=own)
        mean = np.mean([experiment.scores([net])[1] for net in group])
        assert experiment.scores(group)[1] < mean


def test_scores_of_one_net():
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5], [0.9, 0.1], [0.25, 0.75]], np.float32)
    error, loss = experiment.scores([(probabilities, np.array([0, 0, 1, 1], np.int32))])
    assert error == 0.25
    assert loss == pytest.approx(-np.log([0.75, 0.5, 0.1, 0.75]).mean(), rel=1e-6)


def test_ten_views_are_judged_where_they_were_measured():
    made = rows(nets(4))
    assert experiment.views(made) == "test_error_crops5"
    for row in made:
        row["metrics"]["test_error_crops10"] = 0.0
    assert experiment.views(made) == "test_error_crops10"


def test_shifts_in_training_reach_as_far_as_the_views():
    """On 8x8 an eighth of the side is 1 pixel, a quarter of the padding; on 16x16 it is 2."""
    assert [point["crop"] for point in experiment.grid("quick", DataConfig())] == [0.0, 0.25]
    assert [point["crop"] for point in experiment.grid("quick", DataConfig("shapes"))] == [0.0, 0.5]
    assert [point["crop"] for point in experiment.grid("paper", DataConfig("shapes"))] == [0.0, 1.0]
    assert "flip" not in experiment.spec("paper", DataConfig()).augment
