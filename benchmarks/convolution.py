"""Our convolution against XLA's own, forward and both gradients, on one core: called from Python and in a loop.

    python -m benchmarks.convolution

The shapes are layers of the networks here: where XLA's gradients leave the fast path inside loops, where the
image is smaller than the kernel, and on both sides of the thresholds in ``cnnjax/ops/conv.py``.
"""

import time

from benchmarks.measure import alternate, machine, record

SHAPES = {  # batch, side, input channels, output channels, kernel, stride
    "LeNet-5 conv1 on digits": (32, 8, 1, 6, 5, 1),
    "LeNet-5 conv2 on digits": (32, 4, 6, 16, 5, 1),
    "ResNet width 8, stage 1 on digits": (128, 8, 8, 8, 3, 1),
    "ResNet width 8, into stage 2": (128, 8, 8, 16, 3, 2),
    "ResNet width 8, stage 3 on digits": (128, 2, 32, 32, 3, 1),
    "ResNet width 16, stage 1 on 32x32": (32, 32, 16, 16, 3, 1),
    "ResNet width 16, stage 3 on 32x32": (32, 8, 64, 64, 3, 1),
    "VGG's last stage on 32x32": (8, 2, 512, 512, 3, 1),
}
REPEATS, ROUNDS = 5, 7


def main() -> None:
    from cnnjax.sweep import supervise

    supervise.pin(0, 1)
    results = {}
    for name, shape in SHAPES.items():
        contestants = {
            f"{who}, {where}": timer(passes(who, *shape), where)
            for where in ("from Python", "in a loop")
            for who in ("cnnjax", "XLA")
        }
        milliseconds = alternate(contestants, ROUNDS)
        results[name] = {
            "batch, side, input channels, output channels, kernel, stride": shape,
            "milliseconds": {key: round(value["median"], 3) for key, value in milliseconds.items()},
            **{
                f"XLA's time over ours, {where}": round(
                    milliseconds[f"XLA, {where}"]["median"] / milliseconds[f"cnnjax, {where}"]["median"], 2
                )
                for where in ("from Python", "in a loop")
            },
        }
    record(
        "convolution",
        "Milliseconds of a convolution's forward pass and both gradients, float32, on one core",
        "python -m benchmarks.convolution",
        {**machine(), "cores": 1},
        results,
    )


def passes(who: str, batch: int, side: int, channels: int, features: int, size: int, stride: int):
    """(function of images and kernel giving both gradients, images, kernel)."""
    import jax
    from jax import lax

    from cnnjax.ops.conv import LAYOUT, conv

    def forward(images, kernel):
        if who == "cnnjax":
            return conv(images, kernel, (stride, stride), size // 2)
        pads = ((size // 2, size // 2),) * 2
        return lax.conv_general_dilated(images, kernel, (stride, stride), pads, dimension_numbers=LAYOUT)

    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (batch, side, side, channels))
    kernel = jax.random.normal(keys[1], (size, size, channels, features))
    return jax.grad(lambda x, k: (forward(x, k) ** 2).sum(), (0, 1)), images, kernel


def timer(work, where: str):
    """A function that does the work ``REPEATS`` times and returns the milliseconds of one time."""
    import jax
    from jax import lax

    gradients, images, kernel = work
    if where == "from Python":
        once = jax.jit(gradients)

        def run():
            return [once(images, kernel) for _ in range(REPEATS)]
    else:

        @jax.jit
        def looped(images, kernel):
            def body(_, carry):
                grads = gradients(*carry)
                return images + 1e-9 * grads[0], kernel + 1e-9 * grads[1]  # each round needs the one before

            return lax.fori_loop(0, REPEATS, body, (images, kernel))

        def run():
            return looped(images, kernel)

    jax.block_until_ready(run())

    def measure() -> float:
        started = time.perf_counter()
        jax.block_until_ready(run())
        return 1e3 * (time.perf_counter() - started) / REPEATS

    return measure


if __name__ == "__main__":
    main()
