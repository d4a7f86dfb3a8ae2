import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.models.lenet import C3_TABLE, DIGIT_CODES, LeNet5Classic, scaled_tanh
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit


def test_normalisation_takes_the_place_of_biases():
    assert models.count_parameters("lenet5", norm="batch") == 61_706 + 6 + 16


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "lenet5",
            {
                "conv1": (2, 28, 28, 6), "pool1": (2, 14, 14, 6), "conv2": (2, 10, 10, 16), "pool2": (2, 5, 5, 16),
                "dense1": (2, 120), "dense2": (2, 84), "features": (2, 84), "logits_map": (2, 1, 1, 10),
            },
        ),
        (
            "lenet5_classic",
            {
                "c1": (2, 28, 28, 6), "s2": (2, 14, 14, 6), "c3": (2, 10, 10, 16), "s4": (2, 5, 5, 16),
                "c5": (2, 120), "f6": (2, 84),
            },
        ),
    ],
)  # fmt: skip
def test_shapes_of_logits_and_endpoints(name, expected):
    model = models.create(name)
    inputs = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)
    (logits, endpoints), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    assert logits.shape == (2, 10)
    assert {key: value.shape for key, value in endpoints.items()} == expected


@pytest.mark.parametrize("pool", ["average", "max", "blur", "stride"])
@pytest.mark.slow
def test_the_kind_of_pooling_is_a_field(pool):
    model = models.create("lenet5", pool=pool, num_classes=3)
    variables, x = filled(model, (32, 32, 1)), images(2, (32, 32, 1))
    ends = jit(lambda variables, x: model.apply(variables, x)[1])(variables, x)
    reductions = {"average": np.mean, "max": np.max}
    for index, side in ((1, 14), (2, 5)):
        before, after = ends[f"conv{index}"], ends[f"pool{index}"]
        assert after.shape[1:3] == (side, side)
        if pool == "stride":
            np.testing.assert_array_equal(after, before)
        elif pool in reductions:
            windows = np.asarray(before).reshape(2, side, 2, side, 2, -1)
            np.testing.assert_allclose(after, reductions[pool](windows, (2, 4)), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="Unknown pool 'maximum'"):
        models.create("lenet5", pool="maximum")


# As printed


@pytest.fixture(scope="module")
def classic():
    """Endpoints and logits of one image, and which maps of S2 each map of C3 reads."""
    model, shape = LeNet5Classic(), (32, 32, 1)
    variables, x = filled(model, shape), images(1, shape)

    @jit
    def compute(variables, x):
        def c3(bias):
            params = {**variables["params"], "s2_bias": bias}
            return model.apply({"params": params}, x)[1]["c3"].sum((0, 1, 2))

        return model.apply(variables, x), jax.jacrev(c3)(variables["params"]["s2_bias"])

    return compute(variables, x)


def test_maps_of_c3_read_only_the_maps_of_the_table(classic):
    _, jacobian = classic
    expected = [[source in maps for source in range(6)] for maps in C3_TABLE]
    np.testing.assert_array_equal(jacobian != 0, expected)


def test_the_table_of_c3_is_the_papers():
    neighbours = [{(first + i) % 6 for i in range(length)} for length in (3, 4) for first in range(6)]
    opposite_pairs = [{0, 1, 3, 4}, {1, 2, 4, 5}, {2, 3, 5, 0}]
    assert [set(maps) for maps in C3_TABLE] == [*neighbours, *opposite_pairs, set(range(6))]


def test_logits_are_distances_to_fixed_codes(classic):
    (logits, endpoints), _ = classic
    columns = zip(*(line.split() for line in DIGIT_CODES.split("\n") if line), strict=True)
    codes = np.array([[1 if pixel == "#" else -1 for row in column for pixel in row] for column in columns])
    assert codes.shape == (10, 84)
    differences = (codes[:, None] != codes).sum(-1)
    assert differences[~np.eye(10, dtype=bool)].min() >= 3  # no two digits look alike
    expected = -0.5 * np.square(np.asarray(endpoints["f6"], np.float64) - codes).sum(-1)
    np.testing.assert_allclose(logits[0], expected, rtol=1e-5)


def test_the_scaled_tanh_fixes_plus_and_minus_one():
    x = jnp.array([-1.0, 0, 1])
    np.testing.assert_allclose(scaled_tanh(x), x, atol=1e-4)


def test_the_printed_lenet_takes_one_size():
    models.check_image_shape(LeNet5Classic(), (32, 32, 1))
    for size, message in ((28, "at least 32x32"), (33, "takes images of 32x32 pixels, not 33x33")):
        with pytest.raises(UsageError, match=message):
            models.check_image_shape(LeNet5Classic(), (size, size, 1))
