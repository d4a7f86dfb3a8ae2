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


class Branched(nn.Module):
    """Two auxiliary heads, or none, and an endpoint that only begins like one."""

    auxiliary: bool = True

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4, use_bias=False, name="shared")(x.reshape(len(x), -1))
        endpoints = {"auxiliary_map": x}
        for index in (1, 2) if self.auxiliary else ():
            endpoints[f"auxiliary{index}"] = nn.Dense(CLASSES, use_bias=False, name=f"side{index}")(x)
        return nn.Dense(CLASSES, use_bias=False, name="head")(x), endpoints


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


@pytest.mark.slow
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


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
@pytest.mark.slow
def test_auxiliary_losses_add_to_the_gradient_and_to_no_metric(batch, weight):
    task = classify(Branched())

    @jax.jit
    def compute(batch, weight):
        params = task.init(jax.random.key(0), batch)["params"]

        def loss(params):
            hyper = Hyper(auxiliary_weight=weight, label_smoothing=0.2)
            return task.loss({"params": params}, batch, jax.random.key(1), hyper)

        (total, (_, sums)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return params, total, sums, gradient, task.evaluate({"params": params}, batch)

    params, total, sums, gradient, evaluated = compute(batch, weight)
    kernels = {name: np.asarray(layer["kernel"], np.float64) for name, layer in params.items()}
    images = np.asarray(batch["images"], np.float64).reshape(6, -1)[:4]  # two of six are padding
    hidden, labels = images @ kernels["shared"], np.asarray(batch["labels"])[:4]
    target = 0.8 * np.eye(CLASSES)[labels] + 0.2 / CLASSES
    losses, plain, shared = {}, {}, 0.0
    for name, share in (("head", 1.0), ("side1", weight), ("side2", weight)):
        probabilities = np.exp(hidden @ kernels[name])
        probabilities /= probabilities.sum(1, keepdims=True)
        losses[name] = -(target * np.log(probabilities)).sum(1).mean()
        plain[name] = -np.log(probabilities[np.arange(4), labels]).mean()
        difference = share * (probabilities - target) / 4
        np.testing.assert_allclose(gradient[name]["kernel"], hidden.T @ difference, rtol=1e-4, atol=1e-7)
        shared = shared + images.T @ difference @ kernels[name].T
    np.testing.assert_allclose(gradient["shared"]["kernel"], shared, rtol=1e-4, atol=1e-6)
    assert np.any(gradient["side1"]["kernel"]) == (weight > 0)

    assert float(total) == pytest.approx(losses["head"] + weight * (losses["side1"] + losses["side2"]), rel=1e-5)
    assert task.summarize(sums)["loss"] == pytest.approx(losses["head"], rel=1e-5)
    assert task.summarize(evaluated)["loss"] == pytest.approx(plain["head"], rel=1e-5)


def test_without_auxiliary_heads_their_weight_is_not_in_the_program(batch):
    def program(model, weighted):
        task = classify(model)
        variables = jax.eval_shape(task.init, jax.random.key(0), batch)

        def loss(variables, weight):
            hyper = Hyper(auxiliary_weight=weight) if weighted else Hyper()
            return task.loss(variables, batch, jax.random.key(1), hyper)

        traced = jax.make_jaxpr(loss)(variables, jnp.float32(0)).jaxpr
        used = any(traced.invars[-1] is variable for equation in traced.eqns for variable in equation.invars)
        return used, str(traced)

    without = Branched(auxiliary=False)
    assert program(without, weighted=True) == program(without, weighted=False)
    assert program(without, weighted=True)[0] is False
    assert program(Branched(), weighted=True)[0] is True


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
