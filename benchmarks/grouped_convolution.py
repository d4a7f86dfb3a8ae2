"""Grouped and depthwise convolutions against XLA's own, on one core: forward, forward with both gradients, compiling.

    python -m benchmarks.grouped_convolution

The shapes are layers of MobileNet, EfficientNet-B0, ResNeXt-50 and AlexNet on ImageNet's image sizes. All times are
of the processor, so that another program on the same core does not count.
"""

from benchmarks.measure import alternate, machine, on_one_core, record, with_gradients

SHAPES = {  # batch, side, input channels, output channels, kernel, stride, groups
    "MobileNet v1, first depthwise": (8, 112, 32, 32, 3, 1, 32),
    "EfficientNet-B0, stage 2, depthwise, stride 2": (8, 112, 96, 96, 3, 2, 96),
    "EfficientNet-B0, stage 3, depthwise 5x5, stride 2": (8, 56, 144, 144, 5, 2, 144),
    "EfficientNet-B0, stage 5, depthwise 5x5": (8, 14, 480, 480, 5, 1, 480),
    "EfficientNet-B0, stage 7, depthwise 5x5": (8, 7, 1152, 1152, 5, 1, 1152),
    "ResNeXt-50, stage 2, 32 groups of 4": (8, 56, 128, 128, 3, 1, 32),
    "ResNeXt-50, stage 4, 32 groups of 16": (8, 14, 512, 512, 3, 1, 32),
    "AlexNet, conv2, two groups": (8, 27, 96, 256, 5, 1, 2),
    "AlexNet, conv4, two groups": (8, 13, 384, 384, 3, 1, 2),
}
ROUNDS = 5


def main() -> None:
    from cnnjax.sweep import supervise

    supervise.pin(0, 1)
    results = {}
    for name, shape in SHAPES.items():
        compiling, contestants = {}, {}
        for passes in ("forward", "forward and gradients"):
            for who in ("cnnjax", "XLA"):
                compiling[f"{who}, {passes}"], contestants[f"{who}, {passes}"] = contestant(who, passes, *shape)
        milliseconds = {key: value["median"] for key, value in alternate(contestants, ROUNDS).items()}
        results[name] = {
            "batch, side, input channels, output channels, kernel, stride, groups": shape,
            "milliseconds": {key: round(value, 2) for key, value in milliseconds.items()},
            "seconds to compile": {key: round(value, 2) for key, value in compiling.items()},
            **{
                f"XLA's time over ours, {passes}": round(
                    milliseconds[f"XLA, {passes}"] / milliseconds[f"cnnjax, {passes}"], 1
                )
                for passes in ("forward", "forward and gradients")
            },
        }
        print(name, results[name], flush=True)
    record(
        "grouped_convolution",
        "Milliseconds of processor time of a grouped convolution, float32, on one core",
        "python -m benchmarks.grouped_convolution",
        {**machine(), "cores": 1},
        results,
    )


def contestant(who, passes, batch, side, channels, features, size, stride, groups):
    """(seconds to compile, a function that does the passes a few times and returns the milliseconds of one time)."""
    import jax
    from jax import lax

    from cnnjax.ops.conv import LAYOUT, conv

    def forward(images, kernel):
        if who == "cnnjax":
            return conv(images, kernel, (stride, stride), size // 2, groups=groups)
        pads = ((size // 2, size // 2),) * 2
        return lax.conv_general_dilated(
            images, kernel, (stride, stride), pads, dimension_numbers=LAYOUT, feature_group_count=groups
        )

    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (batch, side, side, channels))
    kernel = jax.random.normal(keys[1], (size, size, channels // groups, features))
    return on_one_core(forward if passes == "forward" else with_gradients(forward), (images, kernel))


if __name__ == "__main__":
    main()
