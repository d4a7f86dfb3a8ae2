from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import analysis, models, tree
from cnnjax.models import inception
from cnnjax.models.inception import BLOCKS
from cnnjax.nn import INITIALIZERS
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled, images, jit, unused, without_gradient

NAME = "inception_v3"


def small(**fields):
    """A sixteenth of the channels, at the smallest size."""
    return models.create(NAME, width_multiplier=1 / 16, num_classes=5, **fields), (75, 75, 3)


@cache
def published():
    """The network with its auxiliary head at 299x299 pixels, as shapes: variables, logits and endpoints."""
    model = models.create(NAME, auxiliary=True)
    inputs = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), inputs)
    return model, variables, outputs


@pytest.mark.slow
def test_parameter_counts():
    params = published()[1]["params"]
    assert tree.count(params) == 27_161_264
    assert tree.count({key: value for key, value in params.items() if key != "auxiliary1"}) == 23_834_568


@pytest.mark.slow
def test_multiply_adds_are_torchvisions():
    assert analysis.multiply_adds(published()[0], (299, 299, 3)) == pytest.approx(5.713e9, rel=0.01)


def test_shapes_are_those_of_the_papers_table():
    _, variables, (logits, endpoints) = published()
    assert logits.shape == (2, 1000)
    maps = {"5b": (35, 256), "5c": (35, 288), "5d": (35, 288), "6a": (17, 768), "6b": (17, 768), "6c": (17, 768),
            "6d": (17, 768), "6e": (17, 768), "7a": (8, 1280), "7b": (8, 2048), "7c": (8, 2048)}  # fmt: skip
    expected = {f"mixed{name}": (2, side, side, channels) for name, (side, channels) in maps.items()}
    expected |= {
        "stem": (2, 35, 35, 192), "stage1": (2, 35, 35, 288), "stage2": (2, 17, 17, 768), "stage3": (2, 8, 8, 2048),
        "features": (2, 2048), "logits_map": (2, 8, 8, 1000), "auxiliary1": (2, 1000),
    }  # fmt: skip
    assert {key: value.shape for key, value in endpoints.items()} == expected
    auxiliary = variables["params"]["auxiliary1"]
    assert auxiliary["conv0"]["conv"]["kernel"].shape == (1, 1, 768, 128)
    assert auxiliary["conv1"]["conv"]["kernel"].shape == (5, 5, 128, 768)


def test_every_parameter_is_of_one_stage():
    model, variables, _ = published()
    stages = model.parameter_stages
    assert list(stages) == ["stem", "stage1", "stage2", "stage3", "auxiliary", "head"]
    for name in variables["params"]:
        assert sum(name.startswith(prefixes) for prefixes in stages.values()) == 1, name
    del stages["auxiliary"]
    assert models.create(NAME).parameter_stages == stages


@pytest.mark.slow
def test_the_smallest_image():
    model = models.create(NAME, auxiliary=True)
    assert model.min_size == 75
    models.parameter_shapes(model, (75, 75, 3))
    with pytest.raises(UsageError, match="at least 75x75 pixels, not 75x74"):
        models.check_image_shape(model, (75, 74, 3), NAME)
    with pytest.raises(UsageError, match="larger images"):
        models.parameter_shapes(model, (75, 74, 3))


@pytest.mark.slow
def test_the_logits_use_every_parameter_but_the_auxiliary_heads():
    model, shape = small(auxiliary=True)
    found = unused(model, shape)
    names = tree.names(models.parameter_shapes(model, shape))
    assert found == [name for name in names if name.split("/")[1] == "auxiliary1"]
    assert len(found) == 2 * 5 + 2  # kernel, scale, bias, mean, var; and the dense layer's


@pytest.fixture
def two_blocks(monkeypatch):
    """The one before the auxiliary head and the last: more of the same only take time to compile."""
    monkeypatch.setattr(inception, "BLOCKS", {name: BLOCKS[name] for name in ("6e", "7c")})


@pytest.mark.slow
def test_every_parameter_has_a_gradient(two_blocks):
    model, shape = small(auxiliary=True, activation="elu")
    found = without_gradient(model, shape)
    assert {name.split("/")[0] for name in found} == {"auxiliary1"}
    assert len(found) == 2 * 3 + 2


@pytest.mark.slow
def test_evaluation_and_training(two_blocks):
    model, shape = small(auxiliary=True, activation="elu")
    variables, x = filled(model, shape), jnp.asarray(images(2, shape))
    bare = {
        key: {name: value for name, value in collection.items() if name != "auxiliary1"}
        for key, collection in variables.items()
    }

    @jit
    def evaluate(variables, x):  # without a key
        half = model.clone(dtype=jnp.bfloat16).apply(variables, x[:1], False, 0.5)
        return model.apply(variables, x), half

    @jit
    def train(variables, bare, x, rate):
        options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
        with_head = model.apply(variables, x, True, rate, **options)[0]
        return with_head, model.clone(auxiliary=False).apply(bare, x, True, rate, **options)[0]

    (logits, endpoints), (alone, half_ends) = evaluate(variables, x)
    np.testing.assert_allclose(endpoints["logits_map"].mean((1, 2)), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.asarray(alone, np.float32), logits[:1], rtol=0.1, atol=0.1 * np.abs(logits).max())
    assert {value.dtype for value in half_ends.values()} == {np.dtype(jnp.bfloat16)}
    assert np.all(np.isfinite(np.asarray(half_ends["auxiliary1"], np.float32)))
    (dropped, dropped_ends), (same, same_ends) = train(variables, bare, x, 0.5)
    (kept, kept_ends), _ = train(variables, bare, x, 0.0)
    np.testing.assert_allclose(dropped, same, rtol=1e-5, atol=1e-5)
    assert set(dropped_ends) - set(same_ends) == {"auxiliary1"}
    assert np.any(dropped != kept)
    np.testing.assert_array_equal(dropped_ends["auxiliary1"], kept_ends["auxiliary1"])  # it drops nothing


@pytest.mark.slow
def test_every_kernel_is_drawn_by_the_named_initialiser(monkeypatch):
    drawn = []
    monkeypatch.setitem(
        INITIALIZERS, "gaussian", lambda key, shape, dtype: drawn.append(shape) or jnp.zeros(shape, dtype)
    )
    model, shape = small(auxiliary=True, kernel_init="gaussian")
    variables = models.parameter_shapes(model, shape)
    leaves = zip(tree.names(variables), jax.tree.leaves(variables), strict=True)
    kernels = [leaf.shape for path, leaf in leaves if path.endswith("kernel")]
    again = variables["params"]["head"]["kernel"].shape  # called twice, and Flax compares the shapes
    assert sorted(drawn) == sorted([*kernels, again])
    assert models.create(NAME).kernel_init == "he"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width_multiplier": -1.0}, "width_multiplier must be a positive number, not -1.0"),
        ({"width_multiplier": 0.02}, "width_multiplier=0.02 leaves zero of the 32 channels"),
        ({"activation": "rellu"}, "Did you mean 'relu'"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        models.create(NAME, **fields)
