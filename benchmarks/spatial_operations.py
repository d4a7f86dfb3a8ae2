"""Transposed and 3-D convolutions against XLA's own, and large kernels by Fourier transform, on one core.

    python -m benchmarks.spatial_operations

Forward with both gradients. The shapes are the upsampling layers of U-Net, SegNet's size and an image generator, and
volumes as in the lectures (S4:1267-1297). All times are of the processor, so that another program on the same core
does not count.
"""

from functools import partial
from typing import Any

from benchmarks.measure import alternate, machine, on_one_core, record, with_gradients

ROUNDS = 5
TRANSPOSED = {  # batch, side, input channels, output channels, kernel, stride, padding
    "U-Net, 2x2, stride 2": (8, 32, 64, 32, 2, 2, 0),
    "3x3, stride 2": (8, 32, 64, 32, 3, 2, 1),
    "4x4, stride 2": (8, 32, 64, 32, 4, 2, 1),
    "4x4, stride 2, deep": (8, 8, 256, 128, 4, 2, 1),
    "FCN-8s, 16x16, stride 8": (2, 8, 21, 21, 16, 8, 4),
}
VOLUMES = {  # batch, side, input channels, output channels, kernel
    "CT scan of 14^3, 16 filters of 5^3": (4, 14, 1, 16, 5),
    "16^3, 16 to 16, 3^3": (2, 16, 16, 16, 3),
    "8^3, 32 to 32, 3^3": (2, 8, 32, 32, 3),
}
LARGE = {  # batch, side, input channels, output channels, kernel
    "32x32, 8 to 8, 7x7": (4, 32, 8, 8, 7),
    "32x32, 8 to 8, 15x15": (4, 32, 8, 8, 15),
    "64x64, 8 to 8, 31x31": (2, 64, 8, 8, 31),
}


def main() -> None:
    from cnnjax.sweep import supervise

    supervise.pin(0, 1)
    results = {
        "transposed": {name: timed(transposed(*shape), *shape[:5]) for name, shape in TRANSPOSED.items()},
        "volumes": {name: timed(volumes(), *shape, axes=3) for name, shape in VOLUMES.items()},
        "large kernels": {name: timed(large(), *shape) for name, shape in LARGE.items()},
    }
    record(
        "spatial_operations",
        "Milliseconds of processor time of forward and both gradients, float32, on one core",
        "python -m benchmarks.spatial_operations",
        {**machine(), "cores": 1},
        results,
    )


def transposed(batch, side, channels, features, size, stride, padding) -> dict[str, Any]:
    """Ours, its two views, and XLA's convolution of the image with zeros between its pixels, as Flax has it."""
    from jax import lax

    from cnnjax.ops import transposed as ops
    from cnnjax.ops.conv import LAYOUT

    margin = size - 1 - padding

    def xla(images, kernel):
        return lax.conv_general_dilated(
            images, kernel[::-1, ::-1], (1, 1), ((margin, margin),) * 2, (stride, stride), dimension_numbers=LAYOUT
        )

    options = {"strides": stride, "padding": padding}
    return {
        "ours": partial(ops.conv_transpose, **options),
        "stamping": partial(ops.by_stamping, **options),
        "gathering": partial(ops.by_gathering, **options),
        "XLA": xla,
    }


def volumes() -> dict[str, Any]:
    """Ours, and XLA's."""
    from jax import lax

    from cnnjax.ops.correlate import VOLUMES, correlate

    return {
        "ours": correlate,
        "XLA": lambda images, kernel: lax.conv_general_dilated(
            images, kernel, (1, 1, 1), "SAME", dimension_numbers=VOLUMES
        ),
    }


def large() -> dict[str, Any]:
    """Sliding, by Fourier transform, and XLA's."""
    from jax import lax

    from cnnjax.ops.conv import LAYOUT
    from cnnjax.ops.correlate import correlate
    from cnnjax.ops.forms import by_fft

    return {
        "ours": correlate,
        "Fourier": by_fft,
        "XLA": lambda images, kernel: lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT
        ),
    }


def timed(forms, batch, side, channels, features, size, axes=2) -> dict[str, Any]:
    """The milliseconds of each form, taking turns, and XLA's over ours."""
    import jax

    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (batch, *(side,) * axes, channels))
    kernel = jax.random.normal(keys[1], (*(size,) * axes, channels, features))
    contestants = {name: on_one_core(with_gradients(form), (images, kernel))[1] for name, form in forms.items()}
    milliseconds = {name: found["median"] for name, found in alternate(contestants, ROUNDS).items()}
    found = {
        "batch, side, input channels, output channels, kernel": (batch, side, channels, features, size),
        "milliseconds": {name: round(value, 2) for name, value in milliseconds.items()},
        "XLA's time over ours": round(milliseconds["XLA"] / milliseconds["ours"], 1),
    }
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main()
