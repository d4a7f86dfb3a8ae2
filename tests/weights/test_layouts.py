"""Files of AlexNet and VGG, made by our own layouts: which network they fit, and how a flattened map is turned."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, tree, weights
from cnnjax.typing import UsageError
from cnnjax.weights import leaves as rules
from cnnjax.weights.detect import detect, fitting, layout_of
from tests.fixtures.networks import filled, jit
from tests.fixtures.torch_files import safetensors

SOURCES = {"alexnet": ("torchvision",), "vgg": ("torchvision", "timm")}
FITTING = {
    "alexnet": ["alexnet"],
    "alexnet_one_column": ["alexnet_one_column"],
    "vgg11": ["vgg11", "vgg11_lrn"],  # local response normalisation has no arrays
    "vgg16": ["vgg16"],
    "vgg16_1x1": ["vgg16_1x1"],
    "vgg16_bn": ["vgg16_bn"],
}


def sources(name):
    return SOURCES["alexnet" if name.startswith("alexnet") else "vgg"]


def full(name, source):
    """The state dict of a published network, without memory for its numbers."""
    model = models.create(name)
    found = rules.leaves(model, layout_of(model, source))
    return {leaf.key: np.broadcast_to(np.float32(0), file_shape(leaf)) for leaf in found}


def file_shape(leaf):
    if len(leaf.shape) == 1:
        return leaf.shape
    *sides, reads, units = leaf.shape
    if leaf.convolution:
        *sides, reads = leaf.flattened or (1, 1, reads)
    return units, reads, *sides


@pytest.mark.parametrize(("name", "source"), [(name, source) for name in FITTING for source in sources(name)])
@pytest.mark.slow
def test_files_are_told_apart(name, source):
    tensors = full(name, source)
    assert fitting(tensors) == FITTING[name]
    assert detect(tensors, models.create(name)) == source


def test_the_error_names_the_network_that_a_file_fits():
    tensors = full("vgg16", "torchvision")
    with pytest.raises(UsageError, match=r"does not fit this VGG; it fits vgg16\. Missing: features\.1\.running_mean"):
        weights.convert(tensors, models.create("vgg16_bn"))
    with pytest.raises(UsageError, match="does not fit this AlexNet; it fits vgg16"):
        weights.convert(tensors, models.create("alexnet_one_column"))


@pytest.mark.parametrize("dense", [(), (6, 5)])
@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg11_bn"])
@pytest.mark.slow
def test_a_flattened_map_has_its_channels_first_in_the_file(name, dense):
    fields = {"features": (2, 2, 2, 2, 4)} if name == "alexnet" else {"stages": ((3, 1), (4, 2)), "map_size": 2}
    side = 6 if name == "alexnet" else 2
    model = models.create(name, **fields, dense=dense, num_classes=3)
    variables = filled(model, (model.min_size, model.min_size, 3))
    first = "dense1" if dense else "head"
    kernel = variables["params"][first]["kernel"]
    units = kernel.shape[1]
    expected = kernel.reshape(side, side, 4, units).transpose(3, 2, 0, 1)
    for source in sources(name):
        tensors = weights.export(variables, model, source)
        file = tensors[f"{layout_of(model, source).modules[first]}.weight"]
        assert file.shape == (expected.shape if source == "timm" and dense else (units, side * side * 4))
        np.testing.assert_array_equal(file.reshape(expected.shape), expected)
        again = weights.convert(tensors, model, source)
        assert tree.leaf_digests(again) == tree.leaf_digests(variables)


@pytest.mark.slow
def test_the_convolutions_of_vgg_alone(tmp_path):
    """A file without dense layers, such as those that style transfer and detection use, and the endpoints from it."""
    stages = ((4, 1), (6, 2))
    model = models.create("vgg16", stages=stages, dense=(), map_size=2, num_classes=0)
    variables = filled(model, (8, 8, 3))
    tensors = weights.export(variables, model, "torchvision")
    assert set(tensors) == {f"features.{place}.{kind}" for place in (0, 3, 5) for kind in ("weight", "bias")}
    path = safetensors(tmp_path / "trunk.safetensors", tensors)
    with pytest.raises(UsageError, match=r"Missing: classifier\.0\.bias.* Use dense=\(\) for the layers before"):
        weights.load(path, "vgg16", stages=stages, num_classes=5)
    with pytest.raises(
        UsageError, match=r"has no head\. .* Use num_classes=0 for the network without one, or head='new'"
    ):
        weights.load(path, "vgg16", stages=stages, dense=(), map_size=2)
    loaded = weights.load(path, "vgg16", stages=stages, dense=(), map_size=2, num_classes=0)
    assert tree.digest(loaded) == tree.digest(variables)
    assert tree.digest(weights.load(path, "vgg16", stages=stages, dense=(), map_size=2, head="new")) == tree.digest(
        loaded
    )
    _, endpoints = jit(model.apply)(loaded, jnp.ones((1, 8, 8, 3)))
    assert endpoints["stage2"].shape == (1, 2, 2, 6)
    headed = models.create("vgg16", stages=stages, dense=(), map_size=2, num_classes=3)
    whole = weights.export(filled(headed, (8, 8, 3)), headed, "torchvision")
    assert tree.digest(weights.convert(whole, model)) == tree.digest(
        {"params": {name: value for name, value in filled(headed, (8, 8, 3))["params"].items() if name != "head"}}
    )
