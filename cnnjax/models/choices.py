"""The swappable parts that networks share, and what may stand in them.

A network has some of these fields; they mean the same in each:

  activation: between layers, one of ``nn.ACTIVATIONS``.
  head_activation: applied to the logits; "identity" leaves them alone. With "relu" no logit is
    negative, so that sigmoid(logit) >= 1/2 always (S1:1270-1278).
  kernel_init: of every convolution's and dense layer's kernel, the head's too; one of ``nn.INITIALIZERS``.
  norm: one of ``nn.NORMS``.
  norm_groups: of norm="group", in every layer; 0 is eight, or as many of them as divide the layer's channels. Published
    networks have 32 (Wu and He 2018; timm's ``resnet50_gn``).
  epsilon: added to every variance that a normalisation divides by.
  lrn: whether there is local response normalisation, of channels by ``lrn_size`` neighbours: activations are divided by
    (``lrn_k`` + ``lrn_alpha`` sum of squares)^``lrn_beta``. The defaults are those of Krizhevsky et al. 2012. Caffe and
    PyTorch divide alpha by the size: for their networks, with k = 1 and alpha = 1e-4, set lrn_k=1 and lrn_alpha=2e-5.
  dropout_at: "dense" drops hidden dense units (where there are none, the head's input); "all" also the
    output of every convolution stage.
  pool: how a stage halves its sides. "max" and "average" pool windows of 2x2. "blur" takes the maximum
    of every 2x2 window, then blurs and subsamples (Zhang 2019). "stride" gives the stage's last
    convolution stride 2 and pools nothing (Springenberg et al. 2015; S3:257); it is padded SAME, which on even sides
    is (0, 1): one pixel behind, none before, as a 2x2 pooling begins at the first pixel.
  kernel_size: side of every convolution's kernel, odd.
  num_classes: length of the logits. 0 leaves the head out: the network ends with its features, which stand in the place
    of the logits, and there is no endpoint ``logits_map``.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn

from cnnjax.nn import ACTIVATIONS, INITIALIZERS, NORMS
from cnnjax.typing import UsageError, unknown

POOLS = ("max", "average", "blur", "stride")
CHOICES = {
    "activation": tuple(ACTIVATIONS),
    "head_activation": tuple(ACTIVATIONS),
    "kernel_init": tuple(INITIALIZERS),
    "norm": NORMS,
    "dropout_at": ("dense", "all"),
    "pool": POOLS,
    "sharing": ("conv", "local", "dense"),
}
# Fields that do nothing unless another field has this value. Such a value of its own would be ignored in silence.
NEEDS: dict[str, tuple[str, Any]] = {
    "norm_groups": ("norm", "group"),
    **dict.fromkeys(("lrn_size", "lrn_alpha", "lrn_beta", "lrn_k", "lrn_after_pool"), ("lrn", True)),
}


def added(default: Any) -> Any:
    """A field that networks did not always have: the JSON of a run leaves it out where it has its default.

    So runs of before keep their names; see ``train.spec.to_json``.
    """
    return dataclasses.field(default=default, metadata={"silent": True})


def check(model: nn.Module) -> None:
    """Refuses, before anything is compiled, a shared field's value that means nothing.

    Raises:
      UsageError: unknown name, an even kernel, a number out of range, or one that has no effect.
    """
    fields = vars(model)
    for field, choices in CHOICES.items():
        if field in fields and fields[field] not in choices:
            raise unknown(field, str(fields[field]), choices)
    kernel_size = fields.get("kernel_size", 1)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UsageError(f"kernel_size must be odd and at least 1, not {kernel_size}.")
    if fields.get("num_classes", 1) < 0:
        raise UsageError(
            f"num_classes must be a positive whole number, or 0 for a network without a head, not "
            f"{fields['num_classes']}."
        )
    if fields.get("num_classes", 1) == 0 and fields.get("auxiliary", False):
        raise UsageError("auxiliary=True needs classes, and num_classes=0 is a network without heads. Leave one out.")
    _check_numbers(fields)
    network: Any = model  # flax makes a dataclass of it
    for own in dataclasses.fields(network):
        needed, value = NEEDS.get(own.name, ("", None))
        if needed in fields and fields[needed] != value and fields[own.name] != own.default:
            raise UsageError(
                f"{own.name}={fields[own.name]} has no effect, for {needed}={fields[needed]}. "
                f"Set {needed}={value}, or leave {own.name} out."
            )


def _check_numbers(fields: dict[str, Any]) -> None:
    groups, size = fields.get("norm_groups", 0), fields.get("lrn_size", 1)
    if groups < 0:
        raise UsageError(f"norm_groups must be a number of groups, or 0 for the usual number, not {groups}.")
    if size < 1 or size % 2 == 0:
        raise UsageError(f"lrn_size must be odd and at least 1, not {size}.")
    for name in ("epsilon", "lrn_k"):
        if not (math.isfinite(fields.get(name, 1.0)) and fields.get(name, 1.0) > 0):
            raise UsageError(f"{name} must be a positive number, not {fields[name]}.")
    for name in ("lrn_alpha", "lrn_beta"):
        if not (math.isfinite(fields.get(name, 0.0)) and fields.get(name, 0.0) >= 0):
            raise UsageError(f"{name} must be a number of at least 0, not {fields[name]}.")
