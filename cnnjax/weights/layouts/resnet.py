"""The residual networks: those for ImageNet in torchvision's, timm's and Keras's files, and those for CIFAR.

torchvision's and timm's keys are the same. For CIFAR there are two forms, of the files of Y. Idelbayev
(github.com/akamaster/pytorch_resnet_cifar10) and of Chen Yaofo (github.com/chenyaofo/pytorch-cifar-models). K. Liu's
(github.com/kuangliu/pytorch-cifar) have four stages: they are ``resnet18`` and so on with stem="cifar".
"""

import dataclasses

from cnnjax.models.imagenet_resnet import ResNet
from cnnjax.models.resnet import CifarResNet
from cnnjax.weights.layout import Layout, Table

CONVOLUTIONS = {"basic": 2, "bottleneck": 3}  # of a block's branch


def torchvision(model: ResNet) -> Layout:
    """``resnet18`` ... ``resnet152``, ``resnext50_32x4d``, and, by the same rules, the others of these blocks.

    ``stride_in`` is in no key: files of torchvision and timm are of the default "3x3".
    """
    return _torch(model, "downsample", "fc")


def kuangliu(model: ResNet) -> Layout:
    """``ResNet18`` and so on, with stem="cifar"."""
    return dataclasses.replace(_torch(model, "shortcut", "linear"), fields={"stem": "cifar"})


def _torch(model: ResNet, projection: str, head: str) -> Layout:
    modules = conv_norm("stem", "conv1", "bn1", model.norm)
    for stage, blocks in enumerate(model.stages, start=1):
        for index in range(blocks):
            path, block = f"stage{stage}.{index}", f"layer{stage}.{index}"
            for layer in range(1, CONVOLUTIONS[model.block] + 1):
                modules |= conv_norm(f"{path}/conv{layer}", f"{block}.conv{layer}", f"{block}.bn{layer}", model.norm)
            changed = index == 0 and (stage > 1 or model.block == "bottleneck")
            if model.shortcut == "C" or (model.shortcut == "B" and changed):
                shortcut = f"{block}.{projection}"
                modules |= conv_norm(f"{path}/projection", f"{shortcut}.0", f"{shortcut}.1", model.norm)
    return Layout({**modules, "head": head})


def keras(model: ResNet) -> Layout:
    """``ResNet50``, ``ResNet101`` and ``ResNet152`` of keras.applications; not those whose names end with V2.

    Their convolutions have biases, and the first of a block has its stride, as in Caffe. Keras pads with zeros before
    it convolves or pools, which is half the kernel on all sides.
    """
    modules = conv_norm("stem", "conv1_conv", "conv1_bn", model.norm)
    for stage, blocks in enumerate(model.stages, start=1):
        for index in range(blocks):
            path, block = f"stage{stage}.{index}", f"conv{stage + 1}_block{index + 1}"
            layers = {f"conv{layer}": layer for layer in range(1, CONVOLUTIONS[model.block] + 1)}
            for name, number in {**({"projection": 0} if index == 0 else {}), **layers}.items():
                modules |= conv_norm(f"{path}/{name}", f"{block}_{number}_conv", f"{block}_{number}_bn", model.norm)
    fields = {"block": "bottleneck", "stride_in": "1x1", "conv_bias": True, "epsilon": 1.001e-5}
    return Layout({**modules, "head": "predictions"}, style="keras", fields=fields)


def akamaster(model: CifarResNet) -> Layout:
    """``resnet20`` and so on; option A and the plain networks have no keys for shortcuts, and so the same keys."""
    return _cifar(model, "shortcut", "linear")


def chenyaofo(model: CifarResNet) -> Layout:
    """``cifar10_resnet20`` and so on, of option B."""
    return _cifar(model, "downsample", "fc")


def _cifar(model: CifarResNet, projection: str, head: str) -> Layout:
    modules = cifar_conv_norm("stem", "stem_norm", "conv1", "bn1", model.norm)
    for stage in (1, 2, 3):
        for index in range((model.depth - 2) // 6):
            ours, theirs = f"stage{stage}.{index}", f"layer{stage}.{index}"
            for layer in (1, 2):
                conv, norm = f"{theirs}.conv{layer}", f"{theirs}.bn{layer}"
                modules |= cifar_conv_norm(f"{ours}/conv{layer}", f"{ours}/norm{layer}", conv, norm, model.norm)
            if model.shortcut == "B" and stage > 1 and index == 0:
                conv, norm = (f"{theirs}.{projection}.{number}" for number in (0, 1))
                modules |= cifar_conv_norm(f"{ours}/projection", f"{ours}/projection_norm", conv, norm, model.norm)
    return Layout({**modules, "head": head})


def conv_norm(path: str, conv: str, norm: str, kind: str) -> dict[str, str]:
    """The two modules of a ``models.parts.ConvNorm``; without normalisation the convolution has the bias."""
    return {f"{path}/conv": conv, f"{path}/norm": conv if kind == "none" else norm}


def cifar_conv_norm(our_conv: str, our_norm: str, conv: str, norm: str, kind: str) -> dict[str, str]:
    """A convolution and its normalisation, which are not in one module here."""
    return {our_conv: conv, our_norm: conv if kind == "none" else norm}


LAYOUTS: Table = {
    ResNet: {"torchvision": torchvision, "timm": torchvision, "kuangliu": kuangliu, "keras": keras},
    CifarResNet: {"akamaster": akamaster, "chenyaofo": chenyaofo},
}
