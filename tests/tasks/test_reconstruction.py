import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.tasks import reconstruct
from cnnjax.tasks.reconstruction import check_outputs, checkerboard
from cnnjax.train.spec import Hyper
from cnnjax.typing import UsageError

SHAPE = (4, 6, 2)


class Scaled(nn.Module):
    """Images times one number."""

    @nn.compact
    def __call__(self, images):
        return images * self.param("scale", nn.initializers.constant(0.5), ())


class Flat(nn.Module):
    def __call__(self, images):
        return images.reshape(len(images), -1)


@pytest.fixture
def batch():
    images = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    images[2] = np.nan  # padding
    labels = jnp.zeros(3, jnp.int32)
    return {"images": jnp.asarray(images), "labels": labels, "weights": jnp.asarray([1.0, 1.0, 0.0])}


@pytest.mark.slow
def test_loss_metrics_and_gradient_by_hand(batch):
    task = reconstruct(Scaled())
    variables = task.init(jax.random.key(0), batch)
    half = np.asarray(batch["images"][:2]) / 2
    sums = task.evaluate(variables, batch)
    expected = {"loss": np.square(half).mean((1, 2, 3)).sum(), "error": np.abs(half).mean((1, 2, 3)).sum(), "count": 2}
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(expected)
    assert task.summarize(sums)["loss"] == pytest.approx(expected["loss"] / 2)

    whole = {name: value[:2] for name, value in batch.items()}
    (loss, _), gradient = jax.value_and_grad(
        lambda variables: task.loss(variables, whole, jax.random.key(0), Hyper()), has_aux=True
    )(variables)
    assert float(loss) == pytest.approx(expected["loss"] / 2)
    # d/ds of mean((s x - x)^2) at s = 1/2 is -mean(x^2), four times the loss
    assert float(gradient["params"]["scale"]) == pytest.approx(-4 * expected["loss"] / 2)


@pytest.mark.slow
def test_the_probe_reads_normalised_images(batch):
    task = reconstruct(Scaled(), ("checkerboard",))
    variables = task.init(jax.random.key(0), batch)
    found = task.probe(variables, batch, lambda images: 3 * images - 1)
    expected = checkerboard((3 * batch["images"][:2] - 1) / 2).sum()
    assert float(found["checkerboard"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(found["count"]) == 2


@pytest.mark.slow
def test_checkerboard_of_known_images():
    rows, columns = np.meshgrid(np.arange(6), np.arange(8), indexing="ij")
    pictures = np.stack([
        (-1.0) ** (rows + columns),
        (-1.0) ** rows,
        (-1.0) ** columns + 1,  # half of its energy is the mean
        np.ones((6, 8)),
        np.zeros((6, 8)),
        np.cos(np.pi * columns / 2),  # period 4
    ])  # fmt: skip
    found = checkerboard(jnp.asarray(pictures[..., None], jnp.float32))
    np.testing.assert_allclose(found, [1, 1, 0.5, 0, 0, 0], atol=1e-6)
    odd = jnp.asarray(np.pad(pictures[:1], ((0, 0), (0, 1), (0, 1)))[..., None], jnp.float32)
    np.testing.assert_allclose(checkerboard(odd), 1, rtol=1e-6)
    noise = np.random.default_rng(0).standard_normal((500, 6, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(checkerboard(jnp.asarray(noise)).mean(), 3 / 48, rtol=0.15)


def test_what_is_no_image_is_refused():
    check_outputs(Scaled(), SHAPE)
    with pytest.raises(
        UsageError, match=r"Flat gives an output of shape \(N, 48\), but task=reconstruct needs \(N, 4, 6, 2\)"
    ):
        check_outputs(Flat(), SHAPE)
