"""The EfficientNets in torchvision's, timm's and Keras's files.

timm's ``tf_efficientnet_b0`` has the same keys and shapes as its ``efficientnet_b0``; only the network's fields
``padding`` and ``epsilon`` tell them apart.
"""

from collections.abc import Iterator

from cnnjax.models.efficientnet import EfficientNet
from cnnjax.weights.layout import Layout, Table
from cnnjax.weights.layouts.mobilenet import KERAS, conv_norm, timm_inverted


def torchvision(model: EfficientNet) -> Layout:
    """``efficientnet_b0`` to ``b7``."""
    modules = conv_norm("stem", "features.0.0", "features.0.1")
    for stage, index, expansion in _blocks(model):
        path, block, depthwise = f"stage{stage}_{index}", f"features.{stage}.{index}.block", 0
        if expansion != 1:
            modules |= conv_norm(f"{path}/expand", f"{block}.0.0", f"{block}.0.1")
            depthwise = 1
        modules |= conv_norm(f"{path}/depthwise", f"{block}.{depthwise}.0", f"{block}.{depthwise}.1")
        modules[f"{path}/squeeze_excite/reduce"] = f"{block}.{depthwise + 1}.fc1"
        modules[f"{path}/squeeze_excite/expand"] = f"{block}.{depthwise + 1}.fc2"
        modules |= conv_norm(f"{path}/project", f"{block}.{depthwise + 2}.0", f"{block}.{depthwise + 2}.1")
    last = len(model.stages) + 1
    modules |= conv_norm(f"stage{last}", f"features.{last}.0", f"features.{last}.1")
    return Layout({**modules, "head": "classifier.1"})


def timm(model: EfficientNet) -> Layout:
    """``efficientnet_b0`` to ``b7`` and ``tf_efficientnet_b0`` to ``b7``."""
    modules = conv_norm("stem", "conv_stem", "bn1")
    for stage, index, expansion in _blocks(model):
        path, block = f"stage{stage}_{index}", f"blocks.{stage - 1}.{index}"
        modules |= timm_inverted(path, block, expansion)
        modules[f"{path}/squeeze_excite/reduce"] = f"{block}.se.conv_reduce"
        modules[f"{path}/squeeze_excite/expand"] = f"{block}.se.conv_expand"
    modules |= conv_norm(f"stage{len(model.stages) + 1}", "conv_head", "bn2")
    return Layout({**modules, "head": "classifier"})


def keras(model: EfficientNet) -> Layout:
    """``EfficientNetB0`` to ``B7`` of keras.applications.

    Its first layers normalise images of 0 to 255; what they hold is part of the preprocessing (``presets``).
    """
    modules, depthwise = conv_norm("stem", "stem_conv", "stem_bn"), []
    for stage, index, expansion in _blocks(model):
        path, block = f"stage{stage}_{index}", f"block{stage}{chr(ord('a') + index)}"
        if expansion != 1:
            modules |= conv_norm(f"{path}/expand", f"{block}_expand_conv", f"{block}_expand_bn")
        modules |= conv_norm(f"{path}/depthwise", f"{block}_dwconv", f"{block}_bn")
        modules |= {f"{path}/squeeze_excite/{layer}": f"{block}_se_{layer}" for layer in ("reduce", "expand")}
        modules |= conv_norm(f"{path}/project", f"{block}_project_conv", f"{block}_project_bn")
        depthwise.append(f"{path}/depthwise/conv")
    modules |= conv_norm(f"stage{len(model.stages) + 1}", "top_conv", "top_bn")
    return Layout(
        {**modules, "head": "predictions"}, optional=("normalization_0/",), style="keras", depthwise=tuple(depthwise),
        fields=KERAS,
    )  # fmt: skip


def _blocks(model: EfficientNet) -> Iterator[tuple[int, int, int]]:
    """Stage, from 1; place in the stage, from 0; and expansion of every block."""
    for number, stage in enumerate(model.scaled.stages, start=1):
        yield from ((number, index, stage.expansion) for index in range(stage.blocks))


LAYOUTS: Table = {EfficientNet: {"torchvision": torchvision, "timm": timm, "keras": keras}}
