"""Our networks with seeded weights give the logits that torchvision's, timm's and Keras's gave, stored in tests/golden.

``python -m tests.parity.golden NAME`` writes them, where those libraries are installed.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from cnnjax import models, weights
from cnnjax.weights import leaves as rules
from cnnjax.weights.detect import layout_of
from tests.fixtures.networks import jit
from tests.parity import seeded

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


CIFAR = [name for name in NAMES if name.startswith("cifar_")]
KERAS = [name for name in NAMES if name.endswith("_keras")]


def seeded_network(golden, name):
    """The network, and its variables from a seeded state dict in the reference's form."""
    fields = golden.get("fields", {}) | ({"dense": tuple(golden["dense"])} if "dense" in golden else {})
    model = models.create(golden.get("network", name), num_classes=golden["classes"], **fields)
    leaves = [leaf for leaf in rules.leaves(model, layout_of(model, golden["source"])) if leaf.key]
    keys = {leaf.key: rules.theirs(leaf, np.zeros(leaf.shape, np.float32)).shape for leaf in leaves}
    draw = seeded.keras if golden["source"] == "keras" else seeded.state
    return model, weights.convert(draw(keys), model, golden["source"])


def assert_close(found, golden, logits):
    expected = np.array(golden[logits])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=logits)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_the_logits_are_the_references(name):
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    model, variables = seeded_network(golden, name)
    images = seeded.images(len(golden["logits"]), golden["size"])
    assert_close(jit(lambda variables, x: model.apply(variables, x)[0])(variables, images), golden, "logits")


@pytest.mark.parametrize("name", [*CIFAR, *KERAS])
@pytest.mark.slow
def test_so_are_those_of_training(name):
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    model, variables = seeded_network(golden, name)
    images = seeded.images(len(golden["training"]), golden["size"])
    train = jit(lambda variables, x: model.apply(variables, x, True, mutable=["batch_stats"])[0][0])
    assert_close(train(variables, images), golden, "training")


def test_seeded_tensors_depend_on_their_key_and_shape_alone():
    """The files of this test hold logits for these very draws."""
    tensors = seeded.state({"a.weight": (4, 3, 2, 2), "b.weight": (3,), "b.bias": (3,), "b.running_var": (3,)})
    np.testing.assert_array_equal(tensors["a.weight"], seeded.state({"a.weight": (4, 3, 2, 2)})["a.weight"])
    np.testing.assert_array_equal(tensors["a.weight"].ravel(), seeded.state({"a.weight": (4, 12)})["a.weight"].ravel())
    for key, centre in (("b.weight", 1), ("b.bias", 0), ("b.running_var", 1)):
        assert np.abs(tensors[key] - centre).max() <= 0.1
    np.testing.assert_allclose(tensors["a.weight"].ravel()[:3], [-0.40567064, -0.04844223, -0.43634385], rtol=1e-6)
