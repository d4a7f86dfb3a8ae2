"""A trained network on images: prepared by threads, computed in batches of one size."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import image
from cnnjax.text import printable
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing

Prepare = Callable[[int], np.ndarray]  # number of an image -> (H, W, C) float32


def opened(path: Path) -> Any:
    """The image of a file, its header read.

    Raises:
      UsageError: it is no image, or there is none.
    """
    try:
        return image.opened(path)
    except Exception as error:  # Pillow's are of many types
        raise _unreadable(str(path), error, "") from error


def prepared(
    where: str, read: Callable[[], tuple[Any, int]], preprocessing: Preprocessing, remedy: str = ""
) -> tuple[np.ndarray, int]:
    """An image (H, W, C) as the network takes it, and its label.

    Args:
      where: what to call it in an error.
      read: gives the image, of Pillow or an array, and the label.
      preprocessing: of the image.
      remedy: a sentence; what helps where the image cannot be read.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        picture, label = read()
        with contextlib.nullcontext() if isinstance(picture, np.ndarray) else picture:
            return preprocessing.apply(picture), label
    except Exception as error:  # Pillow's are of many types; its header may be good, and its pixels not
        raise _unreadable(where, error, remedy) from error


def _unreadable(where: str, error: Exception, remedy: str) -> UsageError:
    reason = str(error).removeprefix("The image cannot be decoded: ").rstrip(".")
    return UsageError(f"{printable(where)} cannot be read: {reason}. {remedy or 'Leave it out, or replace it.'}")


def batches(prepare: Prepare, count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """(images (size, H, W, C), how many of them count); the last image is repeated where a batch is not full.

    The next batch is prepared while one is in use.
    """
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        waiting = [pool.submit(prepare, example) for example in range(min(size, count))]
        for start in range(size, count + size, size):
            ready, waiting = waiting, [pool.submit(prepare, n) for n in range(start, min(start + size, count))]
            images = [future.result() for future in ready]
            yield np.stack(images + images[-1:] * (size - len(images))), len(images)
    finally:
        pool.shutdown(cancel_futures=True)


def compiled(compute: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """``compute`` for arguments of these shapes."""
    return jax.jit(compute).lower(*arguments).compile()


def check_answers(answered: np.ndarray, label: Callable[[int], str], before: int = 0) -> None:
    """Refuses a network that gives a picture no finite largest logit: NaN or infinity name no class.

    Args:
      answered: (N,), ``metrics.answered`` of each picture.
      label: number of a picture -> what to call it.
      before: how many pictures came before these.

    Raises:
      UsageError: naming the first such picture.
    """
    if not answered.all():
        (bad,) = np.nonzero(~answered)
        raise UsageError(
            f"The network's output is not finite for {len(bad)} of {len(answered)} images, such as "
            f"{label(before + bad[0])}: it names no class. "
            "Check that the weights are whole (no NaN, no infinity) and belong to this network."
        )


def probabilities(
    model: Any,
    variables: Any,
    prepare: Prepare,
    count: int,
    shape: Sequence[int],
    listen: Callable[[int, str], None],
    label: Callable[[int], str] = str,
) -> np.ndarray:
    """Class probabilities (N, classes) of the softmax, in evaluation mode.

    Args:
      model: the network.
      variables: its arrays.
      prepare: makes image number i, of ``shape``.
      count: number of images.
      shape: (H, W, C).
      listen: called with the number of images done.
      label: number of an image -> what an error calls it.

    Raises:
      UsageError: the network's output for an image is not finite.
    """
    size = min(count, 16)
    compute = compiled(
        lambda v, x: jax.nn.softmax(model.apply(v, x)[0].astype(jnp.float32)),
        variables, jax.ShapeDtypeStruct((size, *shape), jnp.float32),
    )  # fmt: skip
    variables, found = jax.device_put(variables), []
    done = 0
    for images, valid in batches(prepare, count, size):
        found.append(np.asarray(compute(variables, images))[:valid])
        check_answers(np.isfinite(found[-1]).all(-1), label, done)
        done += valid
        listen(done, "")
    return np.concatenate(found)
