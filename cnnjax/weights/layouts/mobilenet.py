"""The MobileNets in torchvision's, timm's and Keras's files."""

from collections.abc import Iterator

from cnnjax.models.mobilenet import MobileNetV1, MobileNetV2
from cnnjax.typing import UsageError
from cnnjax.weights.layout import Layout, Table

KERAS = {"padding": "SAME", "epsilon": 1e-3}


def conv_norm(path: str, conv: str, norm: str) -> dict[str, str]:
    """The two modules of a ``models.parts.ConvNorm``."""
    return {f"{path}/conv": conv, f"{path}/norm": norm}


def timm_v1(model: MobileNetV1) -> Layout:
    """``mobilenetv1_100`` and the others of its kind, without a 1x1 convolution before the head.

    Raises:
      UsageError: the network has full convolutions, which no file of timm holds.
    """
    if not model.separable:
        raise UsageError("separable=False has full convolutions, which timm's files lack. Use separable=True.")
    modules = conv_norm("stem", "conv_stem", "bn1")
    for stage, (_, count) in enumerate(model.stages):
        for index in range(count):
            modules |= timm_separable(f"stage{stage + 1}_{index}", f"blocks.{stage}.{index}", "pointwise")
    return Layout({**modules, "head": "classifier"})


def torchvision_v2(model: MobileNetV2) -> Layout:
    """``mobilenet_v2``, whose blocks are counted through all stages."""
    modules = conv_norm("stem", "features.0.0", "features.0.1")
    position = 0
    for position, (path, expansion) in enumerate(_blocks_v2(model), start=1):
        block, depthwise = f"features.{position}.conv", 0
        if expansion != 1:
            modules |= conv_norm(f"{path}/expand", f"{block}.0.0", f"{block}.0.1")
            depthwise = 1
        modules |= conv_norm(f"{path}/depthwise", f"{block}.{depthwise}.0", f"{block}.{depthwise}.1")
        modules |= conv_norm(f"{path}/project", f"{block}.{depthwise + 1}", f"{block}.{depthwise + 2}")
    last = f"features.{position + 1}"
    modules |= conv_norm(f"stage{len(model.stages) + 1}", f"{last}.0", f"{last}.1")
    return Layout({**modules, "head": "classifier.1"})


def timm_v2(model: MobileNetV2) -> Layout:
    """``mobilenetv2_100`` and those of other widths."""
    modules = conv_norm("stem", "conv_stem", "bn1")
    for path, expansion in _blocks_v2(model):
        stage, index = path.removeprefix("stage").split("_")
        modules |= timm_inverted(path, f"blocks.{int(stage) - 1}.{index}", expansion)
    modules |= conv_norm(f"stage{len(model.stages) + 1}", "conv_head", "bn2")
    return Layout({**modules, "head": "classifier"})


def timm_separable(path: str, block: str, second: str) -> dict[str, str]:
    """A depthwise and a 1x1 convolution, which we call ``second``."""
    depthwise = conv_norm(f"{path}/depthwise", f"{block}.conv_dw", f"{block}.bn1")
    return {**depthwise, **conv_norm(f"{path}/{second}", f"{block}.conv_pw", f"{block}.bn2")}


def timm_inverted(path: str, block: str, expansion: int) -> dict[str, str]:
    """The convolutions of an inverted residual block; those without an expansion have timm's separable names."""
    if expansion == 1:
        return timm_separable(path, block, "project")
    return {
        **conv_norm(f"{path}/expand", f"{block}.conv_pw", f"{block}.bn1"),
        **conv_norm(f"{path}/depthwise", f"{block}.conv_dw", f"{block}.bn2"),
        **conv_norm(f"{path}/project", f"{block}.conv_pwl", f"{block}.bn3"),
    }


def keras_v1(model: MobileNetV1) -> Layout:
    """``MobileNet`` of keras.applications, on images whose sides are multiples of 32, where its padding is SAME's.

    Raises:
      UsageError: the network has full convolutions, which Keras's lacks.
    """
    if not model.separable:
        raise UsageError("separable=False has full convolutions, which Keras's MobileNet lacks. Use separable=True.")
    modules, depthwise, number = conv_norm("stem", "conv1", "conv1_bn"), [], 0
    for stage, (_, count) in enumerate(model.stages, start=1):
        for index in range(count):
            path, number = f"stage{stage}_{index}", number + 1
            modules |= conv_norm(f"{path}/depthwise", f"conv_dw_{number}", f"conv_dw_{number}_bn")
            modules |= conv_norm(f"{path}/pointwise", f"conv_pw_{number}", f"conv_pw_{number}_bn")
            depthwise.append(f"{path}/depthwise/conv")
    return Layout(
        {**modules, "head": "conv_preds"},
        convolutions=("head",),
        style="keras",
        depthwise=tuple(depthwise),
        fields=KERAS,
    )


def keras_v2(model: MobileNetV2) -> Layout:
    """``MobileNetV2`` of keras.applications."""
    modules, depthwise = conv_norm("stem", "Conv1", "bn_Conv1"), []
    for number, (path, expansion) in enumerate(_blocks_v2(model)):
        block = f"block_{number}" if number else "expanded_conv"
        for layer in ("expand", "depthwise", "project"):
            if layer != "expand" or expansion != 1:
                modules |= conv_norm(f"{path}/{layer}", f"{block}_{layer}", f"{block}_{layer}_BN")
        depthwise.append(f"{path}/depthwise/conv")
    modules |= conv_norm(f"stage{len(model.stages) + 1}", "Conv_1", "Conv_1_bn")
    return Layout({**modules, "head": "predictions"}, style="keras", depthwise=tuple(depthwise), fields=KERAS)


def _blocks_v2(model: MobileNetV2) -> Iterator[tuple[str, int]]:
    """Our path and the expansion of every block."""
    for stage, (expansion, _, count, _) in enumerate(model.stages, start=1):
        yield from ((f"stage{stage}_{index}", expansion) for index in range(count))


LAYOUTS: Table = {
    MobileNetV1: {"timm": timm_v1, "keras": keras_v1},
    MobileNetV2: {"torchvision": torchvision_v2, "timm": timm_v2, "keras": keras_v2},
}
