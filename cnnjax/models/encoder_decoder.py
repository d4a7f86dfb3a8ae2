"""A plain encoder-decoder: strided convolutions down, one of several ways of upsampling up (S3:831-879)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cnnjax.models import choices
from cnnjax.models.parts import check_positive, parts
from cnnjax.nn import initializer
from cnnjax.nn.transposed import ConvTranspose
from cnnjax.ops.resize import bilinear, nearest
from cnnjax.typing import Images, UsageError, unknown

# Ways of doubling a map: None is a transposed convolution of stride 2; others resize, and then convolve.
UPSAMPLING = {"transposed": None, "nearest": nearest, "bilinear": bilinear}


class EncoderDecoder(nn.Module):
    """Images to images, through a map of 1 / 2^stages of the side, without skip connections.

    Each stage down is a 3x3 convolution of stride 2, padded by one pixel on all sides as in PyTorch; each stage up
    doubles the sides. The last one puts out the image, without normalisation and activation and with nothing behind it
    that could smooth its traces, as in Radford et al. 2015 (arXiv:1511.06434).

    Endpoints: ``down1``, ``down2``, ..., ``up1``, ...; the last ``up`` is the output.

    Attributes:
      width: channels after the first stage; every further stage down has twice as many.
      stages: how often the sides are halved.
      upsampling: "transposed": a transposed convolution of stride 2; "nearest" or "bilinear": resized to twice the
        sides, then a convolution.
      upsampling_kernel: side of the kernel of that convolution.
      features: channels of the output; 0 is as many as the images have.
      activation, kernel_init, norm, norm_groups: see ``models.choices``.
      dtype: type of the arithmetic.
    """

    width: int = 16
    stages: int = 2
    upsampling: str = "transposed"
    upsampling_kernel: int = 4
    features: int = 0
    activation: str = "relu"
    kernel_init: str = "he"
    norm: str = "batch"
    norm_groups: int = choices.added(0)
    dtype: Any = jnp.float32

    def __post_init__(self):
        choices.check(self)
        check_positive(width=self.width, stages=self.stages)
        if self.upsampling not in UPSAMPLING:
            raise unknown("upsampling", self.upsampling, UPSAMPLING)
        if self.features < 0:
            raise UsageError(f"features must be a number of channels, or 0 for the images', not {self.features}.")
        if self.upsampling == "transposed" and self.upsampling_kernel < 2:
            raise UsageError(
                f"A transposed convolution of stride 2 with upsampling_kernel={self.upsampling_kernel} leaves outputs "
                "that nothing is written to. Use at least 2."
            )
        if self.upsampling != "transposed" and self.upsampling_kernel % 2 == 0:
            raise UsageError(
                f"upsampling_kernel={self.upsampling_kernel} is even, so that a convolution behind "
                f"upsampling={self.upsampling} has no middle. Use an odd one."
            )
        super().__post_init__()

    @property
    def min_size(self) -> int:
        """Smallest height and width, in pixels."""
        return 2**self.stages

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> tuple[Float[Array, "n h w c2"], dict[str, Any]]:
        """Images (N, H, W, C) to images (N, H, W, features).

        Raises:
          UsageError: the sides are no multiples of 2^stages.
        """
        side = 2**self.stages
        if images.shape[1] % side or images.shape[2] % side:
            raise UsageError(
                f"Images of {images.shape[1]}x{images.shape[2]} pixels cannot be halved stages={self.stages} times and "
                f"doubled again to the same size. Use sides that are multiples of {side}."
            )
        layer = parts(self)
        widths = [self.width * 2**stage for stage in range(self.stages)]
        endpoints: dict[str, Any] = {}
        x = images
        for stage, features in enumerate(widths, start=1):
            x = layer.conv(features, (3, 3), strides=(2, 2), padding=1, name=f"down{stage}_conv")(x)
            x = endpoints[f"down{stage}"] = layer.act(layer.norm(features)(name=f"down{stage}_norm")(x, train))
        for stage, features in enumerate([*widths[-2::-1], self.features or images.shape[-1]], start=1):
            last = stage == self.stages
            x = self._doubled(x, features, f"up{stage}_conv", use_bias=last)
            if not last:
                x = layer.act(layer.norm(features)(name=f"up{stage}_norm")(x, train))
            endpoints[f"up{stage}"] = x
        return x, endpoints

    def _doubled(self, x, features, name, use_bias):
        side, layer = self.upsampling_kernel, parts(self, conv_bias=use_bias)
        resize = UPSAMPLING[self.upsampling]
        if resize is not None:
            doubled = resize(x, (2 * x.shape[1], 2 * x.shape[2]))
            return layer.conv(features, (side, side), padding=side // 2, name=name)(doubled)
        odd = side % 2
        init = None if self.kernel_init == "he" else initializer(self.kernel_init)  # its own, for its own fan
        transposed = ConvTranspose(
            features, (side, side), strides=(2, 2), padding=(side - 2 + odd) // 2, output_padding=(odd, odd),
            use_bias=use_bias, kernel_init=init, dtype=self.dtype, name=name,
        )  # fmt: skip
        return transposed(x)
