"""The rule of the degradation experiment on made-up rows, and what it measures without training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import claims, nn
from experiments import degradation

# net -> training error, test error, response
TRUE = {
    "plain20_cifar": (0.02, 0.06, 1.2),
    "plain44_cifar": (0.40, 0.46, 1.2),
    "resnet20_cifar": (0.02, 0.05, 1.0),
    "resnet44_cifar": (0.02, 0.05, 1.0),
}
TRAINED = (
    "deeper-plain", "shortcuts-close-the-gap", "deeper-residual", "optimisation-not-overfitting", "smaller-responses"
)  # fmt: skip
GRADIENTS = ("gradients-change-with-depth", "shortcuts-carry-gradients")


def fabricated(nets=TRUE, noise=0.003, seeds=6):
    random = np.random.default_rng(1)
    rows = []
    for model, means in nets.items():
        for seed in range(seeds):
            train, test, response = np.array(means) + noise * random.standard_normal(3)
            metrics = {"train_error": train, "test_error": test, "test_response": response}
            rows.append(
                {"assignment": {"model": model}, "seed": seed, "status": "done", "metrics": metrics, "classes": 10}
            )
    return rows


def gradients(plain, residual, noise=0.1):
    """Measured rows with the first layer's log10 gradients at 8 and at 56 layers, scattered over 6 seeds."""
    random = np.random.default_rng(0)
    return [
        claims.measured(
            {"shortcut": shortcut, "norm": "none", "init": "he", "depth": depth},
            seed,
            {"gradient_layer01": 10 ** (log + noise * random.standard_normal())},
        )
        for shortcut, logs in (("none", plain), ("A", residual))
        for depth, log in zip((8, 56), logs, strict=True)
        for seed in range(6)
    ]


def outcomes(rows, measured=()):
    return {verdict.id: verdict.verdict for verdict in degradation.verdict(rows, list(measured))}


def test_effects_that_are_there_are_reproduced():
    found = outcomes(fabricated(), gradients((-1, -6), (0, 1)))
    assert {found[name] for name in (*TRAINED, *GRADIENTS)} == {"reproduced"}


def test_reversed_effects_are_refuted():
    reversed_ = {
        "plain20_cifar": (0.40, 0.46, 1.0),
        "plain44_cifar": (0.02, 0.46, 1.0),
        "resnet20_cifar": (0.02, 0.05, 1.2),
        "resnet44_cifar": (0.40, 0.45, 1.2),
    }
    found = outcomes(fabricated(reversed_), gradients((0, 1), (-1, -6)))
    assert {found[name] for name in (*TRAINED, *GRADIENTS)} == {"refuted"}


def test_noise_decides_nothing():
    found = outcomes(fabricated(dict.fromkeys(TRUE, (0.02, 0.05, 1.0)), noise=0.05), gradients((0, 0), (0, 0)))
    assert {found[name] for name in (*TRAINED, *GRADIENTS)} == {"inconclusive"}


def test_overfitting_is_not_taken_for_optimisation():
    # The deep net trains a little worse, but most of its test error is its gap.
    nets = {**TRUE, "plain44_cifar": (0.05, 0.46, 1.2)}
    assert outcomes(fabricated(nets))["optimisation-not-overfitting"] == "refuted"


def test_a_diverged_run_has_the_error_of_chance():
    rows = fabricated({**TRUE, "resnet44_cifar": (0.021, 0.05, 1.0)}, noise=0)
    assert outcomes(rows)["deeper-residual"] == "reproduced"
    for row in rows:
        if row["assignment"]["model"] == "resnet44_cifar":
            row["status"] = "diverged"
    assert outcomes(rows)["deeper-residual"] == "refuted"


def test_other_shortcuts_and_initialisations_are_no_part_of_the_comparison():
    rows = fabricated()
    others = [
        {**row, "assignment": {**row["assignment"], name: value}}
        for row in rows
        for name, value in (("model.shortcut", "B"), ("model.kernel_init", "xavier"))
    ]
    assert outcomes(rows + others) == outcomes(rows)


def test_a_gradient_that_vanishes_altogether_is_the_smallest_number():
    measured = gradients((-1, -400), (0, 0), noise=0)
    found = degradation.gradient_samples(measured)
    assert found["shortcuts-carry-gradients"] == pytest.approx([-math.log10(np.finfo(np.float32).tiny)] * 6)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.slow
def test_a_block_of_zero_weights(norm):
    assert degradation.zero_block_deviation("A", norm) == 0
    assert degradation.zero_block_deviation("none", norm) == 0


@pytest.mark.parametrize("init", degradation.INITIALISATIONS)
def test_kernels_spread_as_the_package_draws_them(init):
    shape = (3, 3, 32, 64)
    drawn = nn.initializer(init)(jax.random.key(0), shape, jnp.float32)
    assert degradation.kernel_deviation(init, shape) == pytest.approx(float(drawn.std()), rel=0.03)


def test_equal_blocks_get_parameters_of_their_own():
    shapes = {"stage1": {"conv1": {"kernel": jax.ShapeDtypeStruct((2, 3, 3, 4, 4), jnp.float32)}}}
    kernel = degradation.random_variables(shapes, "he", 0)["stage1"]["conv1"]["kernel"]
    assert kernel.shape == (2, 3, 3, 4, 4)
    assert not np.array_equal(kernel[0], kernel[1])
