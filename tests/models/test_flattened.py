import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models.flattened import flattened_head
from tests.fixtures.networks import filled, images, jit

DENSE = {(): 1, (5,): 2, (5, 4): 3}  # hidden units, and the number of dense layers in all


class Net(nn.Module):
    """The dense layers alone."""

    dense: tuple[int, ...] = (5, 4)
    map_size: int = 2
    drop_inputs: bool = False
    num_classes: int = 3
    activation: str = "tanh"
    head_activation: str = "identity"
    kernel_init: str = "xavier"
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train=False, dropout_rate=0.0):
        endpoints = {}
        options = {"map_size": self.map_size, "initial_bias": 0.5, "drop_inputs": self.drop_inputs}
        logits = flattened_head(self, x, endpoints, train, dropout_rate, self.dense, **options)
        return logits, endpoints


def computed(model, x):
    """The parameters, and the logits and endpoints in evaluation."""
    params = filled(model, x.shape[1:])["params"]
    return params, *jit(lambda params, x: model.apply({"params": params}, x))(params, x)


def by_hand(params, flat):
    """The logits of flattened maps."""
    for name in sorted(set(params) - {"head"}):
        flat = np.tanh(flat @ params[name]["kernel"] + params[name]["bias"])
    return flat @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("dense", DENSE)
def test_every_window_of_a_map_has_its_logits(dense):  # S4:736-765
    x = images(2, (4, 3, 6))
    params, _, endpoints = computed(Net(dense), x)
    assert endpoints["logits_map"].shape == (2, 3, 2, 3)
    for row, column in itertools.product(range(3), range(2)):
        window = x[:, row : row + 2, column : column + 2].reshape(2, -1)
        np.testing.assert_allclose(endpoints["logits_map"][:, row, column], by_hand(params, window), atol=1e-5)


@pytest.mark.parametrize("dense", DENSE)
def test_a_map_of_the_right_size_has_one_window(dense):
    x = images(2, (2, 2, 6))
    params, logits, endpoints = computed(Net(dense), x)
    assert len(params) == DENSE[dense]
    np.testing.assert_allclose(logits, by_hand(params, x.reshape(2, -1)), atol=1e-5)
    np.testing.assert_allclose(endpoints["logits_map"], logits[:, None, None], atol=1e-6)
    np.testing.assert_allclose(
        endpoints["features"] @ params["head"]["kernel"] + params["head"]["bias"], logits, atol=1e-5
    )


def test_other_maps_are_averaged_to_the_size():
    x = images(2, (4, 6, 6))
    params, logits, _ = computed(Net(), x)
    averages = x.reshape(2, 2, 2, 2, 3, 6).mean((2, 4))
    np.testing.assert_allclose(logits, by_hand(params, averages.reshape(2, -1)), atol=1e-5)


def test_a_smaller_map_is_repeated_and_is_one_window():
    x = images(2, (1, 1, 6))
    params, logits, endpoints = computed(Net(), x)
    np.testing.assert_allclose(logits, by_hand(params, np.tile(x.reshape(2, 6), 4)), atol=1e-5)
    np.testing.assert_array_equal(endpoints["logits_map"], logits[:, None, None])


def test_without_a_size_the_map_is_flattened_as_it_is():
    x = images(2, (3, 5, 2))
    params, logits, endpoints = computed(Net(map_size=0, head_activation="tanh"), x)
    assert params["dense1"]["kernel"].shape == (30, 5)
    np.testing.assert_allclose(logits, np.tanh(by_hand(params, x.reshape(2, -1))), atol=1e-5)
    np.testing.assert_allclose(endpoints["logits_map"], logits[:, None, None], atol=1e-6)


def test_biases_start_where_told_but_the_heads():
    model, x = Net(), jnp.asarray(images(1, (2, 2, 6)))
    start = jit(lambda key: {name: layer["bias"] for name, layer in model.init(key, x)["params"].items()})
    biases = {name: set(np.unique(bias).tolist()) for name, bias in start(jax.random.key(0)).items()}
    assert biases == {"dense1": {0.5}, "dense2": {0.5}, "head": {0.0}}


@pytest.mark.parametrize(
    ("dense", "drop_inputs", "dropped"),
    [
        ((5, 4), False, {"dense2", "logits"}),
        ((5, 4), True, {"dense1", "dense2", "logits"}),
        ((), False, set()),
        ((), True, {"logits"}),
    ],
)
@pytest.mark.slow
def test_what_dropout_changes(dense, drop_inputs, dropped):
    """In training, whatever comes after the first dropped units; the map of logits never."""
    model, x = Net(dense, drop_inputs=drop_inputs), images(2, (2, 2, 6))
    params, logits, endpoints = computed(model, x)
    train = jit(
        lambda params, x, rate: model.apply({"params": params}, x, True, rate, rngs={"dropout": jax.random.key(0)})
    )
    for rate, expected in ((0.5, dropped), (0.0, set())):
        changed_logits, changed = train(params, x, rate)
        names = {name for name in endpoints if np.abs(changed[name] - endpoints[name]).max() > 1e-5}
        names |= {"logits"} if np.abs(changed_logits - logits).max() > 1e-5 else set()
        assert names - {"features"} == expected
