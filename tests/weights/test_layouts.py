"""Files of AlexNet and VGG, made by our own layouts: which network they fit, and how a flattened map is turned."""

import numpy as np
import pytest

from cnnjax import models, tree, weights
from cnnjax.typing import UsageError
from cnnjax.weights import leaves as rules
from cnnjax.weights.detect import detect, fitting, layout_of
from tests.fixtures.networks import filled

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
