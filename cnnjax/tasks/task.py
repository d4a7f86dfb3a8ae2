"""What a task is to the trainer, and how a network is called."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import metrics, rng
from cnnjax.memory import remembered
from cnnjax.typing import UsageError

Batch = dict[str, Any]  # images (N, H, W, C) float32, labels (N,) int32, weights (N,) float32
Variables = dict[str, Any]  # "params" and, where the model has any, state such as "batch_stats"


def everything(params: Any) -> Any:
    """True for all parameters."""
    return jax.tree_util.tree_map(lambda _: True, params)


class Task(NamedTuple):
    """Four pure functions, and two for what is measured besides; the trainer knows nothing else of what it trains.

    Attributes:
      init: (key, batch) -> variables.
      loss: (variables, batch, key, hyper) -> (scalar, (model_state, metric_sums)), in training mode.
      evaluate: (variables, batch) -> metric_sums, in evaluation mode.
      summarize: metric_sums -> {name: float}, on the host.
      probe: (variables, batch, normalize) -> metric_sums of the task's probes; ``batch["images"]`` are in
        [0, 1] and ``normalize`` makes of them what the network reads.
      outputs: (variables, batch) -> class probabilities (N, classes), where there are classes.
      weights: params -> a tree that is True at those that l2 and weight decay act on.
    """

    init: Callable[..., Variables]
    loss: Callable[..., Any]
    evaluate: Callable[..., metrics.Sums]
    summarize: Callable[[metrics.Sums], dict[str, float]]
    probe: Callable[..., metrics.Sums] | None = None
    outputs: Callable[..., Any] | None = None
    weights: Callable[[Any], Any] = everything


def arguments(model: nn.Module, train: bool, dropout_rate: Any) -> dict[str, Any]:
    """Those of the two arguments that the model's ``__call__`` takes.

    Raises:
      UsageError: it needs others.
    """
    offered = {"train": train, "dropout_rate": dropout_rate}
    parameters = inspect.signature(type(model).__call__).parameters
    missing = [
        name
        for name, parameter in list(parameters.items())[2:]  # after self and the images
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in offered
    ]
    if missing:
        raise UsageError(
            f"{type(model).__name__}.__call__ needs {', '.join(missing)}; a network is called with "
            "(images, train, dropout_rate). Give the others defaults, or make them fields."
        )
    return {name: value for name, value in offered.items() if name in parameters}


def first(output: Any) -> Any:
    """The network's output without its endpoints."""
    return output[0] if isinstance(output, tuple) else output


def endpoints(output: Any) -> dict[str, Any]:
    """Those of a model that gives any."""
    endpoints = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    return endpoints if isinstance(endpoints, dict) else {}


@remembered(64)
def shapes_of(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """The shapes of a network's variables for images (H, W, C), by tracing; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(
        lambda key, images: model.init(key, images, **arguments(model, False, 0.0)), rng.abstract_key(), images
    )


@remembered(64)
def output_shape(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of the network's output for two images (H, W, C), by tracing; nothing is computed.

    Raises:
      UsageError: the network fails on such images.
    """
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    try:
        output = jax.eval_shape(
            lambda variables, images: model.apply(variables, images, **arguments(model, False, 0.0)),
            shapes_of(model, image_shape),
            images,
        )
        return first(output).shape
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{type(model).__name__} fails on images of shape {image_shape}: {error}") from error
