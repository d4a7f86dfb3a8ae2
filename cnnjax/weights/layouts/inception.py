"""Inception v3 in torchvision's files, whose names timm has kept, and in Keras's."""

from cnnjax.models.inception import BLOCKS, InceptionV3
from cnnjax.typing import UsageError
from cnnjax.weights.layout import Layout, Table
from cnnjax.weights.layouts.googlenet import conv_norm

STEM = {
    "conv1a": "Conv2d_1a_3x3",
    "conv2a": "Conv2d_2a_3x3",
    "conv2b": "Conv2d_2b_3x3",
    "conv3b": "Conv2d_3b_1x1",
    "conv4a": "Conv2d_4a_3x3",
}


def torchvision(model: InceptionV3) -> Layout:
    """``inception_v3`` of both libraries, with an auxiliary head or without. A block's layers have the same names."""
    modules: dict[str, str] = {}
    for ours, theirs in STEM.items():
        modules |= conv_norm(ours, theirs, model.norm)
    for name, branches in BLOCKS.items():
        for branch in branches:
            for layer in (*branch.layers, *branch.ends):
                modules |= conv_norm(f"mixed{name}/{layer.name}", f"Mixed_{name}.{layer.name}", model.norm)
    if not model.auxiliary:
        return Layout({**modules, "head": "fc"}, optional=("AuxLogits.",))
    for name in ("conv0", "conv1"):
        modules |= conv_norm(f"auxiliary1/{name}", f"AuxLogits.{name}", model.norm)
    return Layout({**modules, "auxiliary1/head": "AuxLogits.fc", "head": "fc"})


def keras(model: InceptionV3) -> Layout:
    """``InceptionV3`` of keras.applications, whose convolutions are counted in the order in which they are made.

    Raises:
      UsageError: the network has an auxiliary head, which Keras's lacks.
    """
    if model.auxiliary:
        raise UsageError("auxiliary=True has a head that Keras's InceptionV3 lacks. Use auxiliary=False.")
    paths = list(STEM)
    for name, branches in BLOCKS.items():
        paths += [f"mixed{name}/{layer.name}" for branch in branches for layer in (*branch.layers, *branch.ends)]
    modules: dict[str, str] = {}
    for number, path in enumerate(paths):
        modules |= {f"{path}/conv": f"conv2d_{number}", f"{path}/norm": f"batch_normalization_{number}"}
    return Layout({**modules, "head": "predictions"}, style="keras", unscaled=True, fields={"average_padding": False})


LAYOUTS: Table = {InceptionV3: {"torchvision": torchvision, "timm": torchvision, "keras": keras}}
