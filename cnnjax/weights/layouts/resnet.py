"""The residual networks for ImageNet in torchvision's and timm's files, which have the same keys."""

from cnnjax.models.imagenet_resnet import ResNet
from cnnjax.weights.layout import Layout, Table

CONVOLUTIONS = {"basic": 2, "bottleneck": 3}  # of a block's branch


def torchvision(model: ResNet) -> Layout:
    """``resnet18`` ... ``resnet152``, ``resnext50_32x4d``, and, by the same rules, the others of these blocks.

    ``stride_in`` is in no key: files of torchvision and timm are of the default "3x3".
    """
    modules = conv_norm("stem", "conv1", "bn1", model.norm)
    for stage, blocks in enumerate(model.stages, start=1):
        for index in range(blocks):
            path, block = f"stage{stage}.{index}", f"layer{stage}.{index}"
            for layer in range(1, CONVOLUTIONS[model.block] + 1):
                modules |= conv_norm(f"{path}/conv{layer}", f"{block}.conv{layer}", f"{block}.bn{layer}", model.norm)
            changed = index == 0 and (stage > 1 or model.block == "bottleneck")
            if model.shortcut == "C" or (model.shortcut == "B" and changed):
                shortcut = f"{block}.downsample"
                modules |= conv_norm(f"{path}/projection", f"{shortcut}.0", f"{shortcut}.1", model.norm)
    return Layout({**modules, "head": "fc"})


def conv_norm(path: str, conv: str, norm: str, kind: str) -> dict[str, str]:
    """The two modules of a ``models.parts.ConvNorm``; without normalisation the convolution has the bias."""
    return {f"{path}/conv": conv, f"{path}/norm": conv if kind == "none" else norm}


LAYOUTS: Table = {ResNet: {"torchvision": torchvision, "timm": torchvision}}
