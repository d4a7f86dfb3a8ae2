"""The swappable parts that networks share, and what may stand in them.

A network has some of these fields; they mean the same in each:

  activation: between layers, one of ``nn.ACTIVATIONS``.
  head_activation: applied to the logits; "identity" leaves them alone. With "relu" no logit is
    negative, so that sigmoid(logit) >= 1/2 always (S1:1270-1278).
  kernel_init: of every convolution's and dense layer's kernel, the head's too; one of ``nn.INITIALIZERS``.
  norm: one of ``nn.NORMS``.
  dropout_at: "dense" drops hidden dense units (where there are none, the head's input); "all" also the
    output of every convolution stage.
  pool: how a stage halves its sides. "max" and "average" pool windows of 2x2. "blur" takes the maximum
    of every 2x2 window, then blurs and subsamples (Zhang 2019). "stride" gives the stage's last
    convolution stride 2 and pools nothing (Springenberg et al. 2015; S3:257).
  kernel_size: side of every convolution's kernel, odd.
  num_classes: length of the logits.
"""

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


def check(model: nn.Module) -> None:
    """Refuses, before anything is compiled, a shared field's value that means nothing.

    Raises:
      UsageError: unknown name, an even kernel, or no class.
    """
    fields = vars(model)
    for field, choices in CHOICES.items():
        if field in fields and fields[field] not in choices:
            raise unknown(field, str(fields[field]), choices)
    kernel_size = fields.get("kernel_size", 1)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UsageError(f"kernel_size must be odd and at least 1, not {kernel_size}.")
    if fields.get("num_classes", 1) < 1:
        raise UsageError(f"num_classes must be a positive whole number, not {fields['num_classes']}.")
