"""The verdicts of the weight-sharing experiment on made-up rows, and what it measures without training."""

import numpy as np
import pytest

from cnnjax import claims, models, tree
from cnnjax.data import DataConfig
from experiments import weight_sharing

SEEDS = range(8)
FEW, MOST = 64, 1024
PRESENT = {"dense": 0.30, "local": 0.25, "strided": 0.20, "pooled": 0.15}


def noise(seed, scale=0.002):
    return float(np.random.default_rng(seed).normal(0, scale))


def rows(few=PRESENT, shuffled=None, moved=None, spread=0.002):
    """Runs whose test errors are these plus noise that differs from net to net."""
    shuffled = shuffled or {"dense": 0.05, "pooled": 0.08}
    moved = moved or {"dense": 0.50, "pooled": 0.20}
    made = []

    def add(net, size, permuted, seed, errors):
        assignment = {"model": weight_sharing.NETS[net], "train_size": size, "data.permute_pixels": permuted}
        number = seed + 100 * list(PRESENT).index(net) + 1000 * permuted + size
        metrics = {name: value + noise(number, spread) for name, value in errors.items()}
        made.append(claims.measured(assignment, seed, {"train_error": 0.0, **metrics}))

    for seed in SEEDS:
        for net, error in few.items():
            add(net, FEW, False, seed, {"test_error": error})
            add(net, MOST, False, seed, {"test_error": 0.05, "test_error_shift1": moved.get(net, 0.4)})
        for net, error in shuffled.items():
            add(net, MOST, True, seed, {"test_error": error})
    return made


def outcomes(made):
    measured = weight_sharing.measure("smoke", DataConfig())
    return {verdict.id: verdict.verdict for verdict in weight_sharing.verdict(made, measured)}


TRAINED = (
    "convolution-overfits-less", "locality-overfits-less", "sharing-overfits-less", "dense-ignores-order",
    "convolution-needs-order", "dense-suffers-from-shifts",
)  # fmt: skip


def test_effects_that_are_there_are_reproduced():
    found = outcomes(rows())
    assert {found[claim] for claim in TRAINED} == {"reproduced"}


def test_reversed_effects_are_refuted():
    reversed_few = dict(zip(PRESENT, sorted(PRESENT.values()), strict=True))
    made = rows(reversed_few, shuffled={"dense": 0.10, "pooled": 0.02}, moved={"dense": 0.10, "pooled": 0.40})
    found = outcomes(made)
    assert {found[claim] for claim in TRAINED} == {"refuted"}


def test_noise_is_inconclusive():
    same = dict.fromkeys(PRESENT, 0.2)
    moved = dict.fromkeys(PRESENT, 0.4)
    found = outcomes(rows(same, shuffled={"dense": 0.05, "pooled": 0.05}, moved=moved, spread=0.05))
    assert {found[claim] for claim in TRAINED} == {"inconclusive"}


def test_a_diverged_run_counts_with_the_error_of_chance():
    made = rows()
    for row in made:
        if row["assignment"]["model"] == weight_sharing.NETS["pooled"] and row["assignment"]["train_size"] == FEW:
            row.update(status="diverged", metrics={}, classes=10)
    verdicts = {v.id: v for v in weight_sharing.verdict(made, [])}
    claim = verdicts["convolution-overfits-less"]
    assert claim.n == len(SEEDS)  # both errors are those of chance, so the gap is 0
    assert claim.effect == pytest.approx(-PRESENT["dense"], abs=0.005)


@pytest.mark.slow
def test_exact_identities_hold_and_broken_ones_are_refuted():
    measured = weight_sharing.measure("quick", DataConfig())
    exact = {claim.id for claim in weight_sharing.CLAIMS if claim.test == claims.EXACT}

    def judged(found):
        return {v.id: v.verdict for v in weight_sharing.verdict(rows(), found) if v.id in exact}

    assert set(judged(measured).values()) == {"reproduced"}
    for row in measured:
        row["metrics"] = {name: value + 1 for name, value in row["metrics"].items() if name != "formula"} | {
            name: value for name, value in row["metrics"].items() if name == "formula"
        }
    assert set(judged(measured).values()) == {"refuted"}


@pytest.mark.parametrize("net", weight_sharing.NETS)
def test_formula_of_the_parameters(net):
    by_hand = {
        "dense": 4 * 4 * 2 * (64 + 1) + 2 * 2 * 3 * (32 + 1),
        "local": 4 * 4 * 2 * (9 + 1) + 2 * 2 * 3 * (18 + 1),
        "strided": 2 * (9 + 1) + 3 * (18 + 1),
        "pooled": 2 * (9 + 1) + 3 * (18 + 1),
    }[net] + 10 * (2 * 2 * 3 + 1)
    assert weight_sharing.parameters(net, (2, 3), (8, 8, 1)) == by_hand


def test_the_nets_have_the_same_hidden_units():
    for net in weight_sharing.NETS:
        fields = weight_sharing._fields(net, (2, 3))
        net = models.create(fields.pop("model"), **{name.removeprefix("model."): v for name, v in fields.items()})
        shapes = models.parameter_shapes(net, (8, 8, 1))
        assert shapes["params"]["head"]["kernel"].shape[0] == 2 * 2 * 3
        assert tree.count(shapes["params"]["head"]) == 10 * (2 * 2 * 3 + 1)


def test_a_small_dataset_gives_smaller_training_sets():
    sizes = weight_sharing.train_sizes("quick", DataConfig("shapes", examples=160))
    assert sizes == (10, 40, 160)
    assert weight_sharing.train_sizes("quick", DataConfig("shapes", examples=50_000))[-1] == 4096
    assert weight_sharing.train_sizes("paper", DataConfig("shapes", examples=50_000))[-1] == 50_000
