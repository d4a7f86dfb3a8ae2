"""What the blocks of large networks are made of: one convolution with its normalisation and activation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from cnnjax.nn import Conv, Dropout, activation, initializer, norm_layer
from cnnjax.nn.norm import EPSILON
from cnnjax.ops.conv import Padding, Pair
from cnnjax.ops.lrn import local_response_norm
from cnnjax.ops.pool import average_pool, blur_pool, max_pool
from cnnjax.typing import Logits, UsageError, unknown

# A network's field ``padding``, as ``ConvNorm`` takes it.
PADDINGS = {"half": None, "SAME": "SAME"}


class Parts(NamedTuple):
    """The factories that a network injects into its blocks.

    Attributes:
      conv: a convolution layer: ``conv(features, kernel_size, strides=..., padding=..., groups=...)``.
      norm: channels -> the constructor of a normalisation, whose instances take ``(x, train)``.
      act: an elementwise function.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[[int], Callable[..., nn.Module]]
    act: Callable[..., Array]


def parts(model: nn.Module, epsilon: float = EPSILON, momentum: float = 0.9, conv_bias: bool = False) -> Parts:
    """The factories that the shared fields of a network ask for (see ``models.choices``).

    The running variance is the unbiased one, as in the reference implementations. ``conv_bias`` gives every
    convolution a bias, even though a normalisation follows; without, the normalisation has the only one.
    """
    fields = vars(model)
    dtype, init = fields["dtype"], initializer(fields["kernel_init"])
    return Parts(
        conv=partial(Conv, use_bias=conv_bias, kernel_init=init, dtype=dtype),
        norm=partial(norm_of, model, epsilon=epsilon, momentum=momentum, unbiased=True),
        act=activation(fields["activation"]),
    )


def norm_of(
    model: nn.Module, channels: int, *, epsilon: float = EPSILON, momentum: float = 0.9, unbiased: bool = False
) -> Callable[..., nn.Module]:
    """The constructor of the normalisation of ``channels`` that a network's fields ask for; see ``nn.norm_layer``."""
    fields = vars(model)
    groups = fields.get("norm_groups") or math.gcd(8, channels)
    return norm_layer(fields["norm"], fields["dtype"], groups, epsilon=epsilon, momentum=momentum, unbiased=unbiased)


def response_norm(model: nn.Module) -> Callable[[Float[Array, "n h w c"]], Float[Array, "n h w c"]]:
    """The local response normalisation that a network's fields ask for, where ``lrn`` does; else the identity."""
    fields = vars(model)
    if not fields["lrn"]:
        return lambda x: x
    names = ("size", "alpha", "beta", "k")
    return partial(local_response_norm, **{name: fields[f"lrn_{name}"] for name in names})


def halved(form: str, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """A stage's map pooled as the field ``pool`` says (see ``models.choices``); sides are rounded down.

    The strided convolutions of "stride" have halved them already.
    """
    if form == "blur":
        return blur_pool(max_pool(x, strides=(1, 1)))
    return {"max": max_pool, "average": average_pool, "stride": lambda x: x}[form](x)


class ConvNorm(nn.Module):
    """Convolution, normalisation, activation; children ``conv`` and ``norm``.

    Attributes:
      features: output channels.
      kernel_size, strides, groups: of the convolution.
      parts: the network's factories.
      padding: as in ``ops.conv.conv``; None is half the kernel on all sides, as PyTorch's networks pad.
      dilation: spacing of the kernel's taps.
      act: whether the activation is applied.
    """

    features: int
    kernel_size: Pair
    parts: Parts
    strides: Pair = (1, 1)
    groups: int = 1
    padding: str | int | Padding | None = None
    dilation: Pair = (1, 1)
    act: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h2 w2 o"]:
        """Activations (N, H, W, C) to (N, H', W', features)."""
        rows, columns = self.kernel_size
        padding = self.padding
        if padding is None:
            padding = ((rows // 2, rows // 2), (columns // 2, columns // 2))
        conv = self.parts.conv(
            self.features, self.kernel_size, strides=self.strides, padding=padding, dilation=self.dilation,
            groups=self.groups, name="conv",
        )  # fmt: skip
        x = self.parts.norm(self.features)(name="norm")(conv(x), train)
        return self.parts.act(x) if self.act else x


def pooled_head(
    model: nn.Module, x: Float[Array, "n h w c"], endpoints: dict[str, Any], train: bool, dropout_rate: Any
) -> Logits:
    """Global average, dropout, and the dense layer ``head``; call it inside the network's ``__call__``.

    Adds the endpoints ``features`` (N, C), which the head reads, and ``logits_map`` (N, H, W, classes): the head
    at every pixel of the last map, whose average over pixels are the logits. Without classes it returns the features.
    """
    fields = vars(model)
    endpoints["features"] = x.mean((1, 2))
    if fields["num_classes"] == 0:
        return endpoints["features"]
    init = initializer(fields["kernel_init"])
    head = nn.Dense(fields["num_classes"], kernel_init=init, dtype=fields["dtype"], name="head")
    endpoints["logits_map"] = head(x)
    return head(Dropout()(endpoints["features"], dropout_rate, train))


def check_positive(**values: int) -> None:
    """Refuses counts below 1, naming the field.

    Raises:
      UsageError: a value is not a positive whole number.
    """
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} must be a positive whole number, not {value!r}.")


def check_padding(name: str) -> None:
    """Refuses what is not one of ``PADDINGS``.

    Raises:
      UsageError: naming the choices.
    """
    if name not in PADDINGS:
        raise unknown("padding", name, PADDINGS)


def check_multiplier(name: str, value: float, smallest: int = 1) -> None:
    """Refuses a multiplier of layers or channels that leaves none of the ``smallest`` number of them.

    Raises:
      UsageError: not a positive finite number, or less than one layer or channel remains.
    """
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name} must be a positive number, not {value}. 1.0 is the published network.")
    if smallest > 1 and value * smallest < 1:
        raise UsageError(
            f"{name}={value} leaves zero of the {smallest} channels of the narrowest layer. "
            f"Use at least {1 / smallest:g}."
        )
