"""The networks for CIFAR against torch, in evaluation and in training, with what training leaves behind."""

import jax
import numpy as np
import pytest

from cnnjax import models, tree, weights
from tests.fixtures.networks import jit
from tests.parity import cifar, seeded
from tests.parity.reference import TOLERANCE, Reference, build, logits, state_dict


def converted(module, model):
    """The torch module's arrays as variables of ours."""
    return weights.convert(state_dict(module), model, "akamaster")


def assert_close(actual, expected, label):
    difference, largest = np.abs(np.asarray(actual) - expected).max(), np.abs(expected).max()
    assert difference <= TOLERANCE * largest, f"{label}: {difference / largest:.2g} of the largest"


@pytest.mark.parametrize("size", [8, 9])  # where the strides divide the sides, and where they do not
@pytest.mark.parametrize("shortcut", ["none", "A", "B"])
def test_evaluation_and_training(torch, shortcut, size):
    module = build(Reference(cifar.build(torch, 20, shortcut, width=4)))
    name = "plain20_cifar" if shortcut == "none" else "resnet20_cifar"
    model = models.create(name, shortcut=shortcut, width=4)
    variables, x = converted(module, model), seeded.images(4, size)

    @jit
    def compute(variables, x):
        evaluated = model.apply(variables, x)[0]
        (trained, _), updates = model.apply(variables, x, True, mutable=["batch_stats"])
        return evaluated, trained, updates["batch_stats"]

    evaluated, trained, statistics = compute(variables, x)
    assert_close(evaluated, logits(module, x), "evaluation")
    assert_close(trained, logits(module, x, train=True), "training")
    after = converted(module, model)["batch_stats"]
    for path, ours, theirs in zip(tree.names(after), *map(jax.tree.leaves, (statistics, after)), strict=True):
        assert_close(ours, theirs, path)
