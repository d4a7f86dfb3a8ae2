import dataclasses
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.data.feed import Feed, batch_indices
from cnnjax.tasks import Task
from cnnjax.train import step
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec, build_task

SPEC = Spec(model="mlp", steps=100, batch_size=1024, schedule="constant")  # every step is an epoch

# One step of a task that only shows its batch


def spy(loss=1.0, **functions):
    """A task whose metric sums are what it was given."""

    def show(variables, batch, *key):
        return {**batch, **({"key": jax.random.key_data(key[0])} if key else {})}

    return Task(
        init=lambda key, batch: {"params": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}},
        loss=lambda variables, batch, key, hyper: (jnp.float32(loss), ({}, show(variables, batch, key))),
        evaluate=show,
        summarize=lambda sums: sums,
        **functions,
    )


def traced(**numbers):
    return jax.tree.map(jnp.float32, Hyper(**numbers))


def run_step(
    digits, *, at=0, seed=7, spec=SPEC, loss=1.0, state=None, mode="resident", functions=MappingProxyType({}), **numbers
):
    """The state after the step of this number, and what the task was shown."""
    (chunk,) = Feed(digits, mode, [seed], [0], spec.batch_size, 1).chunks([(at, 1)])
    task, hyper, pool = spy(loss, **functions), traced(**numbers), jax.device_put(chunk.pool)
    if state is None:
        state = step.initial_state(task, spec, hyper, jnp.uint32(seed), pool)._replace(step=jnp.int32(at))
    indices, noise = jnp.asarray(chunk.indices[0, 0]), jnp.asarray(chunk.noise[0, 0])
    return step.training_step(task, spec, digits.info, state, hyper, pool, indices, noise)


def labels(digits, rate, *, epoch=0, seed=7, mode="resident"):
    """The labels that a run learns from, by the examples' numbers."""
    found = np.empty(1024, np.int32)
    (numbers,) = batch_indices(seed, epoch, 1, SPEC.batch_size, 1024, 1024)
    found[numbers] = run_step(digits, at=epoch, seed=seed, mode=mode, label_noise=rate)[1]["labels"]
    return found


@pytest.mark.slow
def test_label_noise_replaces_its_share_of_the_labels(digits):
    true = digits.labels[:1024]
    np.testing.assert_array_equal(labels(digits, 0.0), true)
    for rate in (0.1, 0.3, 0.8):
        assert np.mean(labels(digits, rate) != true) == pytest.approx(rate, abs=4 * np.sqrt(0.25 / 1024))
    assert np.all(labels(digits, 1.0) != true)


def test_wrong_labels_are_uniform_over_the_others_and_more_noise_keeps_those_of_less(digits):
    true = digits.labels[:1024]
    offsets = np.bincount((labels(digits, 1.0) - true) % 10, minlength=10)
    assert offsets[0] == 0
    assert abs(offsets[1:] - 1024 / 9).max() < 5 * np.sqrt(1024 / 9)
    little, much = labels(digits, 0.2), labels(digits, 0.6)
    np.testing.assert_array_equal(much[little != true], little[little != true])


def test_label_noise_belongs_to_the_example_and_the_seed(digits):
    noisy = labels(digits, 0.5)
    np.testing.assert_array_equal(labels(digits, 0.5, epoch=3), noisy)
    np.testing.assert_array_equal(labels(digits, 0.5, mode="stream"), noisy)
    assert np.mean(labels(digits, 0.5, seed=8) != noisy) > 0.25


@pytest.mark.parametrize("noisy", [0, 1])
@pytest.mark.slow
def test_evaluation_takes_the_true_labels_or_those_of_training_and_no_augmentation(digits, noisy):
    feed, hyper = Feed(digits, "resident", [7], [0], 16, 1), traced(label_noise=0.5)
    (chunk,) = feed.split("train")
    spec = dataclasses.replace(SPEC, augment=("flip", "crop"))
    state = step.initial_state(spy(), spec, hyper, jnp.uint32(7), chunk.pool)
    indices, noise = (jnp.asarray(array[3, 0]) for array in (chunk.indices, chunk.noise))
    shown = step.evaluation_sums(
        spy(), digits.info, state, hyper, chunk.pool, indices, noise, jnp.int32(200), jnp.int32(noisy)
    )
    part = slice(768, 1024)
    np.testing.assert_array_equal(shown["labels"], labels(digits, 0.5 * noisy)[part])
    np.testing.assert_array_equal(shown["weights"], [1.0] * 200 + [0.0] * 56)
    expected = (digits.images[part].astype(np.float32) / 255 - digits.mean) / digits.std
    np.testing.assert_allclose(shown["images"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_augmentation_of_strength_0_is_none_to_the_bit(digits):
    augmented = dataclasses.replace(SPEC, augment=("flip", "crop"))
    plain = np.asarray(run_step(digits)[1]["images"])
    np.testing.assert_array_equal(run_step(digits, spec=augmented, flip=0, crop=0)[1]["images"], plain)
    mirrored = np.asarray(run_step(digits, spec=augmented, crop=0)[1]["images"])
    changed = np.any(mirrored != plain, axis=(1, 2, 3))
    assert changed.mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 1024))
    np.testing.assert_array_equal(mirrored[changed], plain[changed, :, ::-1])


def test_every_step_and_every_seed_draws_anew(digits):
    spec = dataclasses.replace(SPEC, augment=("crop",))
    keys = [run_step(digits, spec=spec, at=at, seed=seed)[1]["key"].tolist() for at, seed in ((0, 7), (1, 7), (0, 8))]
    assert keys[0] != keys[1] != keys[2] != keys[0]
    assert run_step(digits, spec=spec)[1]["key"].tolist() == keys[0]
    # The same examples of the same epoch, at another step: moved another way.
    state = run_step(digits, spec=spec)[0]._replace(step=jnp.int32(5))
    images = [run_step(digits, spec=spec, state=s)[1]["images"] for s in (None, state, state)]
    assert np.any(images[0] != images[1])
    np.testing.assert_array_equal(images[1], images[2])


@pytest.mark.parametrize(("penalised", "bias"), [(False, 1.0), (True, 0.75)])
def test_the_penalty_spares_what_the_task_does_not_call_a_weight(digits, penalised, bias):
    weights = {"weights": lambda params: {"kernel": True, "bias": penalised}}
    state, _ = run_step(digits, functions=weights, learning_rate=0.5, momentum=0.0, l2=0.25)
    np.testing.assert_allclose(state.params["kernel"], 1 - 0.5 * 2 * 0.25)
    np.testing.assert_allclose(state.params["bias"], bias)


def test_the_first_loss_that_is_not_finite_is_remembered(digits):
    state = None
    for at, loss in enumerate((1.0, 2.0, np.inf, 1.0, np.nan)):
        state, _ = run_step(digits, loss=loss, state=state)
        assert (state.step, state.diverged_at) == (at + 1, 2 if at >= 2 else -1)


@pytest.mark.slow
def test_a_plateau_lowers_the_rate_after_epochs_of_the_runs_own_length(digits):
    spec = dataclasses.replace(SPEC, schedule="plateau", patience=1, batch_size=16)
    state, rates = None, []
    for _ in range(7):  # an epoch has two steps
        state, _ = run_step(digits, spec=spec, state=state, learning_rate=1.0, rate_drop=0.1, train_size=35)
        rates.append(float(state.rate))
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


# Steps of a real net, against the same arithmetic written out


def by_hand(digits, mlp, params, optimizer, steps):
    """Plain optax on a dense net of one hidden layer."""
    images = (digits.images.astype(np.float32).reshape(-1, 64) / 255 - digits.mean) / digits.std

    def loss(params, batch):
        hidden = jax.nn.relu(images[batch] @ params["dense1"]["kernel"] + params["dense1"]["bias"])
        logits = hidden @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels[batch]).mean()

    state = optimizer.init(params)
    for batch in batch_indices(0, 0, steps, mlp.batch_size, 1024, 1024):
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
    return params


def lane(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


def assert_close(actual, expected, rtol=2e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol=1e-6)


@pytest.mark.slow
def test_everything_at_zero_is_a_loop_without_it(digits, mlp, advance):
    hyper = Hyper(learning_rate=0.2, momentum=0.9)
    before, after = advance(mlp, [hyper], Driver("scan", 1), 3)
    schedule = optax.cosine_decay_schedule(0.2, mlp.steps)
    expected = by_hand(digits, mlp, lane(before.params, 0), optax.sgd(schedule, 0.9), 3)
    assert_close(lane(after.params, 0), expected)
    assert after.rate[0] == pytest.approx(schedule(3))


COSINE = optax.cosine_decay_schedule(0.05, 12)
DROPS = optax.piecewise_constant_schedule(0.05, {2: 0.1, 3: 0.1})
OPTIMIZERS = {
    "adam": ({"optimizer": "adam"}, optax.adam(COSINE, b1=0.9)),
    "nadam": ({"optimizer": "adam", "nesterov": True}, optax.nadam(COSINE, b1=0.9)),
    "nesterov": ({"nesterov": True}, optax.sgd(COSINE, 0.9, nesterov=True)),
    "constant": ({"schedule": "constant"}, optax.sgd(0.05, 0.9)),
    "step": ({"schedule": "step", "milestones": (0.1, 0.2)}, optax.sgd(DROPS, 0.9)),
    "plateau": ({"schedule": "plateau"}, optax.sgd(0.05, 0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow
def test_optimizers_and_schedules_are_those_of_optax(digits, mlp, name):
    changes, optimizer = OPTIMIZERS[name]
    spec, hyper = dataclasses.replace(mlp, **changes), traced(learning_rate=0.05)
    (chunk,) = Feed(digits, "resident", [0], [0], spec.batch_size, 3).chunks([(0, 3)])
    task = build_task(spec, digits.info)
    state = before = step.initial_state(task, spec, hyper, jnp.uint32(0), chunk.pool)
    for indices, noise in zip(jnp.asarray(chunk.indices[:, 0]), jnp.asarray(chunk.noise[:, 0]), strict=True):
        state, _ = step.training_step(task, spec, digits.info, state, hyper, chunk.pool, indices, noise)
    assert_close(state.params, by_hand(digits, mlp, before.params, optimizer, 3), rtol=1e-4)


def kernels(params):
    return np.concatenate([np.ravel(params[name]["kernel"]) for name in ("dense1", "head")])


def biases(params):
    return np.concatenate([params[name]["bias"] for name in ("dense1", "head")])


def test_l2_adds_its_gradient_and_weight_decay_shrinks_kernels_alone(mlp, advance):
    numbers = ({}, {"l2": 0.01}, {"weight_decay": 0.02}, {"l2": 0.01, "weight_decay": 0.02})
    before, after = advance(mlp, [Hyper(learning_rate=0.2, momentum=0.0, **n) for n in numbers], Driver("scan", 4), 1)
    start = kernels(lane(before.params, 0))
    moved = [kernels(lane(after.params, i)) - kernels(lane(after.params, 0)) for i in range(4)]
    for change, times in zip(moved, (0, 1, 1, 2), strict=True):
        np.testing.assert_allclose(change, -0.2 * times * 0.02 * start, atol=1e-7)  # the gradient of c w^2 is 2 c w
        np.testing.assert_array_equal(biases(lane(after.params, times)), biases(lane(after.params, 0)))


@pytest.mark.slow
def test_decay_is_l2_only_where_nothing_stands_between_gradient_and_step(mlp, advance):
    pair = [{"l2": 0.05}, {"weight_decay": 0.1}]
    plain = [Hyper(learning_rate=0.1, momentum=0.0, **n) for n in pair]
    heavy = [Hyper(learning_rate=0.1, momentum=0.9, **n) for n in pair]
    _, after = advance(mlp, plain + heavy, Driver("scan", 4), 3)
    states = [kernels(lane(after.params, i)) for i in range(4)]
    np.testing.assert_allclose(states[0], states[1], rtol=1e-5, atol=1e-7)
    assert abs(states[2] - states[3]).max() > 1e-3

    _, after = advance(dataclasses.replace(mlp, optimizer="adam"), plain + heavy, Driver("scan", 4), 3)
    states = [kernels(lane(after.params, i)) for i in range(4)]
    assert abs(states[0] - states[1]).max() > 1e-3
    assert abs(states[2] - states[3]).max() > 1e-3
