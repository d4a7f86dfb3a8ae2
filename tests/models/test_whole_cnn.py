import numpy as np
import pytest

from cnnjax import models
from cnnjax.analysis import multiply_adds
from cnnjax.typing import UsageError
from tests.fixtures.networks import check_evaluation, filled, images, jit, shapes, unused, without_gradient

NAME = "whole_cnn"


@pytest.mark.parametrize(("size", "sides"), [((16, 16), (7, 2)), ((150, 150), (74, 36)), ((10, 13), ((4, 5), (1, 1)))])
def test_shapes_by_stage(size, sides):  # S1:1256-1264: 150 to 148 pixels, and halved
    first, second = ((side, side) if isinstance(side, int) else side for side in sides)
    logits, endpoints = shapes(models.create(NAME), (*size, 1))
    assert logits == (2, 10)
    flat = 16 * second[0] * second[1]
    assert endpoints == {
        "stage1": (2, *first, 6), "stage2": (2, *second, 16), "features": (2, flat), "logits_map": (2, 1, 1, 10),
    }  # fmt: skip


@pytest.mark.parametrize(("height", "width", "channels", "classes"), [(16, 16, 1, 10), (33, 20, 3, 26)])
def test_parameters_and_multiply_adds_follow_from_the_sides(height, width, channels, classes):
    rows, columns = (((side - 2) // 2 - 2) // 2 for side in (height, width))
    model = models.create(NAME, num_classes=classes)
    shape = (height, width, channels)
    count = 6 * (9 * channels + 1) + 16 * (9 * 6 + 1) + classes * (16 * rows * columns + 1)
    assert sum(leaf.size for leaf in leaves(model, shape)) == count
    first = (height - 2) * (width - 2) * 6 * 9 * channels
    second = ((height - 2) // 2 - 2) * ((width - 2) // 2 - 2) * 16 * 9 * 6
    assert multiply_adds(model, shape) == first + second + classes * 16 * rows * columns


def leaves(model, shape):
    layers = models.parameter_shapes(model, shape)["params"]
    assert set(layers) == {"stage1", "stage2", "head"}
    return [leaf for name in ("stage1", "stage2") for part in layers[name].values() for leaf in part.values()] + list(
        layers["head"].values()
    )


@pytest.mark.slow
def test_the_order_of_layers_is_the_lectures():  # S1:1078-1119
    model, shape = models.create(NAME), (12, 11, 2)
    params, x = filled(model, shape)["params"], images(2, shape)
    logits = jit(lambda params, x: model.apply({"params": params}, x)[0])(params, x)
    for stage in ("stage1", "stage2"):
        kernel, bias = params[stage]["conv"]["kernel"], params[stage]["norm"]["bias"]
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        x = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0)
        rows, columns = (side // 2 * 2 for side in x.shape[1:3])
        x = x[:, :rows, :columns].reshape(2, rows // 2, 2, columns // 2, 2, -1).max((2, 4))
    expected = x.reshape(2, -1) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_every_parameter_counts():
    model = models.create(NAME, features=(3, 4), dense=(5,), map_size=2, norm="batch", activation="silu")
    assert unused(model, (12, 12, 1)) == []
    assert without_gradient(model, (12, 12, 1)) == []


@pytest.mark.slow
def test_evaluation():
    *_, logits, endpoints = check_evaluation(models.create(NAME, norm="group"), (16, 16, 1))
    np.testing.assert_allclose(endpoints["logits_map"][:, 0, 0], logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel_size", "smallest"), [(1, 4), (3, 10), (5, 16)])
def test_the_smallest_image(kernel_size, smallest):
    model = models.create(NAME, kernel_size=kernel_size)
    assert model.min_size == smallest
    models.parameter_shapes(model, (smallest, smallest, 1))
    with pytest.raises(UsageError, match="larger images"):
        models.parameter_shapes(model, (smallest, smallest - 1, 1))
    with pytest.raises(UsageError, match=f"whole_cnn needs images of at least {smallest}x{smallest} pixels"):
        models.check_image_shape(model, (smallest - 1, smallest, 1), NAME)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": (6,)}, r"features must hold two positive whole numbers of kernels, not \(6,\)"),
        ({"features": (6, 0)}, r"features must hold two positive whole numbers of kernels, not \(6, 0\)"),
        ({"dense": (0,)}, r"dense must hold at most nine positive whole numbers of units, not \(0,\)"),
        ({"kernel_size": 2}, "kernel_size must be odd and at least 1, not 2"),
        ({"num_classes": -1}, r"num_classes must be a positive whole number, .*, not -1"),
    ],
)
def test_a_bad_field_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        models.create(NAME, **fields)
