"""Image to image: the network is to give back what it was given, through whatever bottleneck it has."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax import metrics
from cnnjax.tasks.task import Task, arguments, first, output_shape
from cnnjax.typing import Images, UsageError


def reconstruct(model: nn.Module, probe_names: tuple[str, ...] = ()) -> Task:
    """The task of giving back each image, as the network reads it: normalised, and augmented where that is asked.

    ``probe_names`` are of ``PROBES``. The model is called as in ``tasks.classify`` and returns images (N, H, W, C),
    alone or with endpoints. ``loss`` is the mean squared error over pixels and channels, ``error`` the mean absolute
    one; labels, label smoothing and label noise mean nothing here.

    Raises:
      UsageError: the model's ``__call__`` needs arguments other than these.
    """
    arguments(model, False, 0.0)  # refuses the model here, not at its first use

    def apply(variables, images, train, dropout_rate, **options):
        return model.apply(variables, images, **arguments(model, train, dropout_rate), **options)

    def measure(output, batch):
        residual = first(output).astype(jnp.float32) - batch["images"]
        return {
            "loss": metrics.weighted_sum(jnp.square(residual).mean((1, 2, 3)), batch["weights"]),
            "error": metrics.weighted_sum(jnp.abs(residual).mean((1, 2, 3)), batch["weights"]),
            "count": jnp.sum(batch["weights"]),
        }

    def init(key, batch):
        return model.init(key, batch["images"], **arguments(model, False, 0.0))

    def loss(variables, batch, key, hyper):
        state = [name for name in variables if name != "params"]
        output, new_state = apply(variables, batch["images"], True, hyper.dropout, mutable=state, rngs={"dropout": key})
        sums = measure(output, batch)
        return sums["loss"] / sums["count"], (dict(new_state), sums)

    def evaluate(variables, batch):
        return measure(apply(variables, batch["images"], False, 0.0), batch)

    def probe(variables, batch, normalize):
        images = normalize(batch["images"])
        residual = first(apply(variables, images, False, 0.0)).astype(jnp.float32) - images
        sums: metrics.Sums = {"count": jnp.sum(batch["weights"])}
        for name in probe_names:
            sums[name] = metrics.weighted_sum(PROBES[name](residual), batch["weights"])
        return sums

    return Task(init, loss, evaluate, metrics.means, probe)


def checkerboard(residual: Images) -> Float[Array, " n"]:
    """The share of an image's energy that alternates from pixel to pixel, along rows, columns or both (S3:872-879).

    The squares of the three Fourier coefficients of period 2, over the sum of all squares: 1 for a checkerboard, and
    3 / (H W) for white noise. An odd last row or column is left out.

    Args:
      residual: (N, H, W, C), usually what a network gives less what it should.
    """
    height, width = (side - side % 2 for side in residual.shape[1:3])
    even = residual[:, :height, :width]
    rows, columns = ((-1.0) ** jnp.arange(side) for side in (height, width))
    patterns = [jnp.outer(a, b) for a, b in ((rows, jnp.ones(width)), (jnp.ones(height), columns), (rows, columns))]
    alternating = sum(jnp.square(jnp.einsum("nhwc,hw->nc", even, pattern)) for pattern in patterns).sum(-1)
    total = jnp.square(even).sum((1, 2, 3)) * height * width
    return jnp.where(total > 0, alternating / jnp.where(total > 0, total, 1), 0)


PROBES = {"checkerboard": checkerboard}


def check_outputs(model: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Traces the model, computing nothing, and refuses outputs that are no images of the same shape.

    Raises:
      UsageError: the model fails on such images, or gives something else.
    """
    shape = output_shape(model, image_shape)
    if shape != (2, *image_shape):
        given, wanted = ((", ".join(map(str, sides))) for sides in (shape[1:], image_shape))
        raise UsageError(
            f"{type(model).__name__} gives an output of shape (N, {given}), but task=reconstruct needs (N, {wanted}). "
            "Use a network such as models.encoder_decoder.EncoderDecoder, or task=classify."
        )
