import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import models, tree
from cnnjax.data import DataConfig, describe
from cnnjax.tasks.decay import weights
from cnnjax.tasks.task import everything
from cnnjax.train import optim
from cnnjax.train.spec import Hyper, Spec, build_task, variable_shapes

STEPS = 20
PARAMS = {"dense": {"kernel": np.array([[1.0, -2.0]], np.float32), "bias": np.array([3.0], np.float32)}}
GRADIENTS = [  # of three steps
    {"dense": {"kernel": np.array([[0.5, k]], np.float32), "bias": np.array([-k], np.float32)}}
    for k in (1.0, 3.0, -2.0)
]

# Schedules


def factors(spec, hyper, scale=1.0):
    """The rate's factor at every step, with the hyperparameters as constants and as arguments."""
    plateau = optim.plateau_init()._replace(scale=jnp.float32(scale))

    def at_every_step(hyper):
        return jax.vmap(lambda step: optim.rate_factor(spec, hyper, step, plateau))(jnp.arange(STEPS))

    traced = jax.tree.map(np.float32, hyper)
    both = jax.jit(lambda traced: (at_every_step(hyper), at_every_step(traced)))(traced)
    return [np.broadcast_to(values, STEPS) for values in both]


LATER = np.arange(5, STEPS)
COSINE = 0.5 * (1 + np.cos(np.pi * (LATER - 5) / 15))
DROPS = np.where(LATER < 10, 1, np.where(LATER < 15, 0.1, 0.01))
LINEAR = [0.36, 0.52, 0.68, 0.84, 1.0]  # from 0.2, in five equal parts
CONSTANT = [0.2] * 5


@pytest.mark.parametrize(
    ("schedule", "form", "expected"),
    [
        ("constant", "linear", [*LINEAR, *[1.0] * 15]),
        ("step", "constant", [*CONSTANT, *DROPS]),
        ("cosine", "linear", [*LINEAR, *COSINE]),
        ("plateau", "constant", [0.3 * f for f in (*CONSTANT, *[1.0] * 15)]),
    ],
)
@pytest.mark.slow
def test_warm_up_and_schedule_multiply(schedule, form, expected):
    spec = Spec(steps=STEPS, schedule=schedule, warmup_form=form)
    hyper = Hyper(warmup=0.25, warmup_factor=0.2, rate_drop=0.1)
    for actual in factors(spec, hyper, scale=0.3):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_without_warm_up_the_schedule_begins_at_once():
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    for actual in factors(Spec(steps=STEPS, schedule="cosine"), Hyper()):
        np.testing.assert_allclose(actual, cosine, atol=1e-6)
    for actual in factors(Spec(steps=STEPS, schedule="constant", warmup_form="constant"), Hyper()):
        np.testing.assert_array_equal(actual, 1)


def test_warm_up_is_a_whole_number_of_steps():
    # As float32, the share 0.6 of 25 steps is a little more than 15, and 0.7 of 3 is no whole number.
    plateau = optim.plateau_init()
    for warmup, steps, warm in ((0.6, 25, 15), (0.7, 3, 2), (1.0, 4, 4)):
        spec = Spec(steps=steps, schedule="constant", warmup_form="constant")
        rate = jax.jit(jax.vmap(partial(optim.rate_factor, spec), (None, 0, None)))
        actual = rate(Hyper(warmup=np.float32(warmup)), jnp.arange(steps), plateau)
        np.testing.assert_array_equal(actual, [0] * warm + [1] * (steps - warm))


def test_plateau_drops_the_rate_after_epochs_without_a_better_mean():
    #          better  better  bad  bad: drop  bad     better  bad  not finite: drop
    epochs = [(1, 3), (0, 2), (1, 1), (3, 0), (0, 2), (0.5, 0), (2, 2), (np.nan, 0)]
    scales = [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]

    @jax.jit
    def run(losses, drop):
        def body(state, loss):
            state = optim.plateau_update(state, loss, jnp.int32(2), 2, drop)
            return state, state.scale

        return jax.lax.scan(body, optim.plateau_init(), losses)

    state, actual = run(np.array(epochs, np.float32).ravel(), np.float32(0.5))
    np.testing.assert_array_equal(actual[1::2], scales)
    np.testing.assert_array_equal(actual[0::2], [1, *scales[:-1]])  # nothing happens within an epoch
    assert (state.best, state.bad_epochs, state.count) == (0.25, 0, 0)


# Directions


def directions(spec, hyper, transformation=None):
    """The directions of three steps at constant parameters."""

    decayed = everything if spec.decayed == "all" else partial(weights, models.create("mlp"), (8, 8, 1))

    @jax.jit
    def compute(hyper, gradients):
        chosen = transformation or optim.directions(spec, hyper, decayed)
        state, results = chosen.init(PARAMS), []
        for gradient in gradients:
            direction, state = chosen.update(gradient, state, PARAMS)
            results.append(direction)
        return results

    return compute(jax.tree.map(np.float32, hyper), GRADIENTS)


def flat(steps):
    return np.array([[*step["dense"]["kernel"][0], *step["dense"]["bias"]] for step in steps])


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_adds_up_gradients(nesterov):
    velocity, expected = np.zeros(3), []
    for gradient in flat(GRADIENTS):
        velocity = 0.5 * velocity + gradient
        expected.append(gradient + 0.5 * velocity if nesterov else velocity)
    actual = directions(Spec(nesterov=nesterov), Hyper(momentum=0.5))
    np.testing.assert_allclose(flat(actual), expected, rtol=1e-6)


def test_adam_divides_by_the_root_of_the_mean_square():
    first, second, expected = np.zeros(3), np.zeros(3), []
    for step, gradient in enumerate(flat(GRADIENTS), start=1):
        first = 0.8 * first + 0.2 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        expected.append(first / (1 - 0.8**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8))
    actual = directions(Spec(optimizer="adam"), Hyper(momentum=0.8))
    np.testing.assert_allclose(flat(actual), expected, rtol=1e-5)


def test_no_weight_decay_equals_its_absence_and_some_adds_to_kernels():
    hyper = Hyper(momentum=0.9)
    without = flat(directions(Spec(), hyper, optax.trace(decay=0.9)))
    np.testing.assert_array_equal(flat(directions(Spec(), hyper)), without)
    some = dataclasses.replace(hyper, weight_decay=0.1)
    kernel, bias = np.array([0.1, -0.2, 0]), np.array([0, 0, 0.3])
    np.testing.assert_allclose(flat(directions(Spec(), some)), without + kernel, rtol=1e-6)
    np.testing.assert_allclose(flat(directions(Spec(decayed="all"), some)), without + kernel + bias, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "kernels"),
    [
        ("lenet5", {"conv1/kernel", "conv2/kernel", "dense1/kernel", "dense2/kernel", "head/kernel"}),
        ("lenet5_classic", {"c1/kernel", "c3_kernel", "c5/kernel", "f6/kernel"}),
        (
            "vgg_small",
            {"dense1/kernel", "head/kernel", *(f"conv{s}_{c}/kernel" for s in (1, 2, 3) for c in (1, 2))},
        ),
    ],
)
def test_kernels_decay_or_all_parameters(model, kernels):
    params = models.parameter_shapes(models.create(model), models.MODELS[model].image_shape)["params"]
    info = describe(DataConfig("shapes"))
    network = dataclasses.replace(info, image_shape=models.MODELS[model].image_shape)
    chosen = jax.tree.leaves(build_task(Spec(model=model), network).weights(params))
    assert {name for name, use in zip(tree.names(params), chosen, strict=True) if use} == kernels
    assert all(jax.tree.leaves(build_task(Spec(model=model, decayed="all"), network).weights(params)))


class Own(nn.Module):
    """A network whose author calls things otherwise, with blocks that are scanned."""

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        x = x @ self.param("weight", nn.initializers.lecun_normal(), (x.shape[-1], 4)) + self.param(
            "b", nn.initializers.zeros, (4,)
        )
        scan = nn.scan(lambda block, x, _: (block(x), None), variable_axes={"params": 0}, split_rngs={"params": True},
                       length=3)  # fmt: skip
        x, _ = scan(OwnBlock(name="blocks"), x, None)
        return nn.Dense(10)(x)


class OwnBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        gain = self.param("gain", nn.initializers.ones, (4,))
        mixing = self.param("w", nn.initializers.lecun_normal(), (4, 4))
        return nn.LayerNorm()(gain * (x @ mixing))


def test_weights_are_known_by_their_axes_and_not_by_their_names():
    spec = Spec(model=Own())
    info = describe(spec.data)
    params = variable_shapes(spec, info)["params"]
    assert params["blocks"]["gain"].shape == params["blocks"]["LayerNorm_0"]["scale"].shape == (3, 4)
    chosen = jax.tree.leaves(build_task(spec, info).weights(params))
    assert {name for name, use in zip(tree.names(params), chosen, strict=True) if use} == {
        "weight",
        "blocks/w",
        "Dense_0/kernel",
    }
