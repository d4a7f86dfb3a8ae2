"""Keras's keys in all their forms, and what is done to images for its weights."""

import numpy as np
import pytest

from cnnjax import models, tree, weights
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing, keras_keys, preprocessing_of
from cnnjax.weights.detect import detect, fitting
from tests.fixtures.networks import filled, jit
from tests.fixtures.torch_files import safetensors

SAME = {"padding": "SAME", "epsilon": 1e-3}
RESNET = {"stride_in": "1x1", "conv_bias": True, "epsilon": 1.001e-5}
SMALL = {
    "vgg16": {"stages": ((4, 1), (6, 2)), "dense": (5,), "map_size": 2},
    "resnet50": {"stages": (2, 1), "width": 8, **RESNET},
    "mobilenet_v1": {"width_multiplier": 0.25, "stages": ((64, 1), (128, 2)), **SAME},
    "mobilenet_v2": {"width_multiplier": 0.25, "stages": ((1, 16, 1, 1), (6, 24, 2, 2)), **SAME},
    "efficientnet_b0": {"width_multiplier": 0.25, "stages": ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2)), **SAME},
}
SOME_KEYS = {
    "vgg16": {"block1_conv1/kernel": (3, 3, 3, 4), "block2_conv2/bias": (6,), "fc1/kernel": (24, 5)},
    "resnet50": {
        "conv1_conv/bias": (8,),
        "conv2_block1_0_bn/gamma": (32,),
        "conv3_block1_3_conv/kernel": (1, 1, 16, 64),
    },
    "mobilenet_v1": {"conv_dw_1/kernel": (3, 3, 8, 1), "conv_pw_3_bn/moving_mean": (32,), "conv_preds/bias": (3,)},
    "mobilenet_v2": {
        "bn_Conv1/beta": (8,),
        "expanded_conv_depthwise/kernel": (3, 3, 8, 1),
        "block_1_expand_BN/gamma": (48,),
    },
    "efficientnet_b0": {
        "block1a_se_reduce/bias": (2,),
        "block2b_dwconv/kernel": (3, 3, 48, 1),
        "top_bn/moving_variance": (32,),
    },
}


def network(name):
    """A small one of its kind, and its arrays in Keras's form."""
    model = models.create(name, num_classes=3, **SMALL[name])
    variables = filled(model, (64, 64, 3))
    return model, variables, weights.export(variables, model, "keras")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.slow
def test_keys_and_axes_and_the_way_back(name):
    model, variables, tensors = network(name)
    for key, shape in SOME_KEYS[name].items():
        assert tensors[key].shape == shape, key
    assert detect(tensors, model) == "keras"
    assert tree.digest(weights.convert(tensors, model)) == tree.digest(variables)


def test_a_depthwise_kernel_and_a_flattened_map_keep_their_numbers():
    _, variables, tensors = network("mobilenet_v1")
    ours = variables["params"]["stage1_0"]["depthwise"]["conv"]["kernel"]
    np.testing.assert_array_equal(tensors["conv_dw_1/kernel"][..., 0], ours[:, :, 0])
    _, variables, tensors = network("vgg16")
    np.testing.assert_array_equal(tensors["fc1/kernel"], variables["params"]["dense1"]["kernel"])


@pytest.mark.parametrize(
    "form",
    [
        "{layer}/{variable}:0",
        "{layer}/{layer}/{variable}:0",
        "mobilenet_1.00_224/{layer}/{variable}",
        "mobilenet_1.00_224/{layer}/{layer}/{variable}:0",
    ],
)
def test_the_forms_of_keys(tmp_path, form):
    model, variables, tensors = network("mobilenet_v1")
    renamed = {}
    for key, array in tensors.items():
        layer, variable = key.split("/")
        variable = "depthwise_kernel" if layer.startswith("conv_dw") and variable == "kernel" else variable
        renamed[form.format(layer=layer, variable=variable)] = array
    np.savez(tmp_path / "a.npz", **renamed)
    for path in (safetensors(tmp_path / "a.safetensors", renamed), tmp_path / "a.npz"):
        assert tree.digest(weights.load(path, model)) == tree.digest(variables)


def test_layers_that_keras_named_itself_are_counted_anew():
    tensors = {
        "conv2d_95/kernel": 1,
        "conv2d_94/kernel": 0,
        "batch_normalization_7/beta": 2,
        "conv2d/bias": 3,
        "x/y": 4,
    }
    found = keras_keys.canonical({key: np.array(value) for key, value in tensors.items()})
    expected = {
        "conv2d_2/kernel": 1,
        "conv2d_1/kernel": 0,
        "batch_normalization_0/beta": 2,
        "conv2d_0/bias": 3,
        "x/y": 4,
    }
    assert {key: int(value) for key, value in found.items()} == expected
    with pytest.raises(UsageError, match="Two variables are called a/kernel"):
        keras_keys.canonical({"m/a/kernel": np.zeros(1), "a/kernel:0": np.zeros(1)})


@pytest.mark.slow
def test_inceptions_normalisations_have_no_scale():
    fields = {"width_multiplier": 0.125, "average_padding": False}
    model = models.create("inception_v3", num_classes=3, **fields)
    variables = tree.mask(
        filled(model, (75, 75, 3)), lambda name, leaf: np.ones_like(leaf) if name.endswith("scale") else leaf
    )
    tensors = weights.export(variables, model, "keras")
    assert not any(key.endswith("gamma") for key in tensors)
    assert sum(key.endswith("kernel") for key in tensors) == 95
    assert tree.digest(weights.convert(tensors, model)) == tree.digest(variables)
    variables["params"]["conv1a"]["norm"]["scale"][0] = 2
    with pytest.raises(UsageError, match=r"keras has no place for scales other than one: params/conv1a/norm/scale"):
        weights.export(variables, model, "keras")


@pytest.mark.parametrize(("name", "fields"), [("resnet50", RESNET), ("mobilenet_v1", SAME), ("efficientnet_b0", SAME)])
def test_a_network_that_computes_something_else_is_refused_with_the_fields(name, fields):
    _, _, tensors = network(name)
    shape = {field: value for field, value in SMALL[name].items() if field not in fields}
    with pytest.raises(
        UsageError, match=r"is of keras, whose network of these keys has .*=.*This network has .* Give these"
    ):
        weights.convert(tensors, models.create(name, num_classes=3, **shape))


@pytest.mark.slow
def test_the_error_names_the_network_that_a_file_fits():
    model = models.create("mobilenet_v2", **SAME)
    shapes = models.parameter_shapes(model, (32, 32, 3))
    tensors = weights.export(tree.mask(shapes, lambda _, leaf: np.zeros(leaf.shape, np.float32)), model, "keras")
    assert fitting(tensors) == ["mobilenet_v2"]


def test_preprocessing():
    caffe = preprocessing_of("vgg16", "keras")
    image = np.array([[[123, 117, 104]]], np.uint8)
    found = Preprocessing(1, 1, caffe.mean, caffe.std, channels=caffe.channels).apply(image)
    np.testing.assert_allclose(found, [[[104 - 103.939, 117 - 116.779, 123 - 123.68]]], atol=1e-4)
    assert preprocessing_of("resnet50", "keras") == caffe
    half = (0.5, 0.5, 0.5)
    for name, size in (("mobilenet_v1", 224), ("mobilenet_v2", 224), ("inception_v3", 299)):
        steps = preprocessing_of(name, "keras")
        assert (steps.mean, steps.std, steps.crop) == (half, half, size)
    assert preprocessing_of("efficientnet_b3", "keras") == Preprocessing(332, 300, interpolation="bicubic")
    with pytest.raises(UsageError, match="keras has no alexnet"):
        preprocessing_of("alexnet", "keras")


@pytest.mark.parametrize(
    ("variance", "std"), [((0.229, 0.224, 0.225), (0.229, 0.224, 0.225)), ((0.25, 0.04, 0.01), (0.5, 0.2, 0.1))]
)
def test_an_efficientnet_says_itself_how_it_normalises(tmp_path, variance, std):
    _, _, tensors = network("efficientnet_b0")
    layer = {"normalization_3/mean": np.float32([0.4, 0.5, 0.6]), "normalization_3/variance": np.float32(variance)}
    path = safetensors(
        tmp_path / "a.safetensors", {**tensors, **layer, "normalization_3/count": np.zeros((), np.int64)}
    )
    steps = preprocessing_of("efficientnet_b0", path=path)
    np.testing.assert_allclose([steps.mean, steps.std], [(0.4, 0.5, 0.6), std], rtol=1e-6)


def test_the_same_network_for_rgb():
    model, variables, _ = network("vgg16")
    steps = Preprocessing(16, 8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), channels="BGR")
    turned, upright = weights.rgb(variables, model, steps)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    apply = jit(lambda variables, x: model.apply(variables, x)[0])
    expected, found = (apply(v, s.apply(image)[None]) for v, s in ((variables, steps), (turned, upright)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert weights.rgb(turned, model, upright)[1] == upright
