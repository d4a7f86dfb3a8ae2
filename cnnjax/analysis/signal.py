"""How far signals reach through a network: gradients backwards, responses forwards, layer by layer."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import losses, tree
from cnnjax.typing import Images, Labels, UsageError

Variables = dict[str, Any]


def gradient_norms(model: nn.Module, variables: Variables, images: Images, labels: Labels) -> dict[str, float]:
    """The l2 norm of the gradient of every convolution's and dense layer's kernel, in order of depth.

    The gradient is that of the mean cross-entropy at the given parameters, in training mode without
    dropout. Where signals reach all layers the norms are of one order; where they vanish, the first
    layers' are the smallest (S3:613).

    Args:
      model: any network of ``cnnjax.models``.
      variables: as from ``model.init``.
      images: (N, H, W, C), as the network takes them.
      labels: (N,).

    Returns:
      Layer -> norm. A layer is named by its path; scanned blocks are taken apart: ``stage1.0.conv1``.
    """
    return _floats(_gradient_norms(model, variables, images, labels))


def responses(model: nn.Module, variables: Variables, images: Images, train: bool = False) -> dict[str, float]:
    """The standard deviation of every 3x3 layer's response, in order of depth (He et al. 2015, figure 7).

    After normalisation, before activation and addition.

    Args:
      model: a network that stores ``responses``, such as ``CifarResNet``.
      variables: as from ``model.init``.
      images: (N, H, W, C), as the network takes them.
      train: normalise by the batch's statistics instead of the running ones.

    Returns:
      Layer -> standard deviation, named as in ``gradient_norms``.

    Raises:
      UsageError: the model stores none.
    """
    found = _floats(_responses(model, variables, images, train))
    if not found:
        raise UsageError(f"{type(model).__name__} stores no responses. Use a network such as resnet20_cifar.")
    return found


def layers(model: nn.Module, collection: dict[str, Any], kind: str) -> dict[str, Any]:
    """Layer -> its array called ``kind``, in order of depth, with scanned blocks taken apart.

    Pure, so it may be used in a compiled function; what that returns is sorted by name.

    Args:
      model: the network that the collection belongs to.
      collection: parameters or gradients ("kernel"), or ``responses`` ("response").
      kind: last part of the arrays' names.
    """
    unstacked = getattr(type(model), "unstack", dict)(collection)
    leaves = zip(tree.names(unstacked), jax.tree_util.tree_leaves(unstacked), strict=True)
    suffix = re.compile(rf"[/_]{kind}$")
    found = {suffix.sub("", name).replace("/", "."): leaf for name, leaf in leaves if suffix.search(name)}
    return {name: found[name] for name in sorted(found, key=_depth)}


@partial(jax.jit, static_argnums=0)
def _gradient_norms(model, variables, images, labels):
    state = [name for name in variables if name != "params"]

    def loss(params):
        (logits, _), _ = model.apply({**variables, "params": params}, images, train=True, mutable=state)
        return losses.cross_entropy(logits, labels).mean()

    kernels = layers(model, jax.grad(loss)(variables["params"]), "kernel")
    return {name: jnp.sqrt(jnp.sum(jnp.square(kernel))) for name, kernel in kernels.items()}


@partial(jax.jit, static_argnums=(0, 3))
def _responses(model, variables, images, train):
    mutable = [name for name in variables if train and name != "params"]
    _, stored = model.apply(variables, images, train=train, mutable=["responses", *mutable])
    return layers(model, stored.get("responses", {}), "response")


def _floats(found):
    return {name: float(found[name]) for name in sorted(found, key=_depth)}


def _depth(name):
    """Layers sort by depth, as this package names them: the stem first, the head last, numbers counted."""
    counted = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    return name != "stem", name == "head", counted
