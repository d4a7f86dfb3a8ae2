import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.nn import BatchNorm, Dropout
from cnnjax.tasks.classify import check_outputs, classify
from cnnjax.train.spec import Hyper
from cnnjax.typing import UsageError

SHAPE, CLASSES = (2, 3, 1), 3


class Bare(nn.Module):
    """A user's model: logits alone, no mode, no rate."""

    classes: int = CLASSES

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(x.reshape(len(x), -1))


class Full(nn.Module):
    """A user's model with everything: mode, rate, state and endpoints."""

    @nn.compact
    def __call__(self, x, train, *, dropout_rate=0.0, width=8):
        x = BatchNorm()(nn.Dense(width)(x.reshape(len(x), -1)), train)
        return nn.Dense(CLASSES)(Dropout()(x, dropout_rate, train)), {"hidden": x}


class Demanding(nn.Module):
    def __call__(self, x, train, temperature, *, mask, dropout_rate=0.0):
        return x


class Picky(nn.Module):
    def __call__(self, x):
        return x.reshape(7)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "images": jnp.asarray(rng.standard_normal((6, *SHAPE)), jnp.float32),
        "labels": jnp.array([0, 1, 2, 0, 1, 2]),
        "weights": jnp.array([1.0, 1, 1, 1, 0, 0]),
    }


def test_a_module_that_returns_bare_logits_can_be_trained(batch):
    task = classify(Bare())
    check_outputs(Bare(), SHAPE, CLASSES)

    @jax.jit
    def compute(batch):
        variables = task.init(jax.random.key(0), batch)
        hyper = Hyper(label_smoothing=0.2)
        loss, (state, sums) = task.loss(variables, batch, jax.random.key(1), hyper)
        return variables, loss, state, sums, task.evaluate(variables, batch)

    variables, loss, state, sums, evaluated = compute(batch)
    dense = variables["params"]["Dense_0"]
    kernel, bias = np.asarray(dense["kernel"]), np.asarray(dense["bias"])
    images, labels = np.asarray(batch["images"], np.float64), np.asarray(batch["labels"])
    logits = images.reshape(6, -1) @ kernel + bias
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    plain = -log_probabilities[np.arange(6), labels]
    smoothed = 0.8 * plain - 0.2 * log_probabilities.mean(1)
    wrong = logits.argmax(1) != labels

    assert state == {}
    np.testing.assert_allclose(loss, smoothed[:4].mean(), rtol=1e-5)  # two of six are padding
    assert task.summarize(sums) == pytest.approx({"loss": smoothed[:4].mean(), "error": wrong[:4].mean()}, rel=1e-5)
    # Evaluation takes the labels as they are.
    assert task.summarize(evaluated) == pytest.approx({"loss": plain[:4].mean(), "error": wrong[:4].mean()}, rel=1e-5)


def test_training_updates_the_state_and_draws_and_evaluation_does_neither(batch):
    task = classify(Full())
    check_outputs(Full(), SHAPE, CLASSES)

    @jax.jit
    def compute(batch, rate):
        variables = task.init(jax.random.key(0), batch)
        losses = [task.loss(variables, batch, jax.random.key(k), Hyper(dropout=rate)) for k in (1, 1, 2)]
        return variables, losses, [task.evaluate(variables, batch) for _ in range(2)]

    variables, ((first, (state, _)), (again, _), (other, _)), evaluated = compute(batch, 0.5)
    assert first == again
    assert first != other
    assert set(state) == {"batch_stats"}
    assert np.any(state["batch_stats"]["BatchNorm_0"]["mean"] != variables["batch_stats"]["BatchNorm_0"]["mean"])
    assert evaluated[0] == evaluated[1]
    _, ((first, _), _, (other, _)), _ = compute(batch, 0.0)
    assert first == other  # without dropout the key is nothing


def test_a_module_that_needs_another_argument_is_refused():
    message = r"Demanding.__call__ needs temperature, mask; .* \(images, train, dropout_rate\)"
    with pytest.raises(UsageError, match=message):
        classify(Demanding())
    with pytest.raises(UsageError, match=message):
        check_outputs(Demanding(), SHAPE, CLASSES)


def test_another_number_of_classes_is_refused():
    with pytest.raises(UsageError, match=r"Bare gives logits of shape \(N, 4\), but the dataset has 3 classes"):
        check_outputs(Bare(classes=4), SHAPE, CLASSES)


def test_a_module_that_cannot_take_the_images_is_refused():
    with pytest.raises(UsageError, match=r"Picky fails on images of shape \(2, 3, 1\): .*reshape"):
        check_outputs(Picky(), SHAPE, CLASSES)


def test_a_models_own_refusal_is_passed_on():
    with pytest.raises(UsageError, match="Unknown norm 'bach'"):
        check_outputs(models.create("resnet8_cifar", norm="bach"), (8, 8, 3), 10)
