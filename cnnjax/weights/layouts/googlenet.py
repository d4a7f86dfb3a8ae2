"""GoogLeNet in torchvision's files."""

from cnnjax.models.branches import scaled
from cnnjax.models.googlenet import INCEPTION, GoogLeNet, block
from cnnjax.typing import UsageError
from cnnjax.weights.layout import Layout, Table

STEM = {"conv1": "conv1", "conv2_reduce": "conv2", "conv2": "conv3"}
# Our names of a block's layers, and the file's.
LAYERS = {
    "conv1x1": "branch1",
    "reduce3x3": "branch2.0",
    "conv3x3": "branch2.1",
    "reduce5x5": "branch3.0",
    "conv5x5": "branch3.1",
    "project": "branch4.1",
}
AUXILIARY = {"auxiliary1": "aux1", "auxiliary2": "aux2"}


def torchvision(model: GoogLeNet) -> Layout:
    """``googlenet``, whose files have auxiliary heads or not. Networks without batch norm have no ``bn`` there.

    Raises:
      UsageError: the network has not all blocks, or another stem.
    """
    if model.blocks != tuple(INCEPTION) or model.stem != "imagenet":
        raise UsageError(
            f"blocks={model.blocks} and stem={model.stem!r} are in no file of torchvision. Use all nine blocks and "
            "stem='imagenet'."
        )
    modules: dict[str, str] = {}
    for ours, theirs in STEM.items():
        modules |= conv_norm(ours, theirs, model.norm)
    for name in model.blocks:
        for branch in block(name, model.large_kernel, model.reduction):
            for layer in branch.layers:
                path = f"inception{name}/{layer.name}"
                modules |= conv_norm(path, f"inception{name}.{LAYERS[layer.name]}", model.norm)
    if not model.auxiliary:
        return Layout({**modules, "head": "fc"}, optional=("aux1.", "aux2."))
    for ours, theirs in AUXILIARY.items():
        modules |= conv_norm(f"{ours}/conv", f"{theirs}.conv", model.norm)
        modules |= {f"{ours}/dense": f"{theirs}.fc1", f"{ours}/head": f"{theirs}.fc2"}
    flattened = {f"{ours}/dense": (4, 4, scaled(128, model.width_multiplier)) for ours in AUXILIARY}
    return Layout({**modules, "head": "fc"}, flattened)


def conv_norm(path: str, module: str, norm: str) -> dict[str, str]:
    """The two modules of a ``models.parts.ConvNorm`` in torchvision's module of the same purpose."""
    return {f"{path}/conv": f"{module}.conv", f"{path}/norm": f"{module}.{'conv' if norm == 'none' else 'bn'}"}


LAYOUTS: Table = {GoogLeNet: {"torchvision": torchvision}}
