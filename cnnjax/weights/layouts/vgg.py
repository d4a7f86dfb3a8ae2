"""VGG in torchvision's, timm's and Keras's files."""

from cnnjax.models.vgg import VGG
from cnnjax.typing import UsageError
from cnnjax.weights.layout import Layout, Table


def torchvision(model: VGG) -> Layout:
    """``vgg11`` ... ``vgg19_bn``, and, by the same rules, the others of this class.

    Local response normalisation has no arrays: a file of ``vgg11`` has the keys and shapes of ``vgg11_lrn``.
    """
    count = len(model.dense)
    modules = convolutions(model)
    modules |= {f"dense{index + 1}": f"classifier.{3 * index}" for index in range(count)}
    return Layout({**modules, "head": f"classifier.{3 * count}"}, _flattened(model))


def timm(model: VGG) -> Layout:
    """The same names. The hidden dense layers are convolutions there, the first with kernels of the map's sides."""
    dense = [f"dense{index}" for index in range(1, len(model.dense) + 1)]
    modules = convolutions(model)
    modules |= {name: f"pre_logits.fc{index}" for index, name in enumerate(dense, start=1)}
    return Layout({**modules, "head": "head.fc"}, _flattened(model), convolutions=tuple(dense))


def keras(model: VGG) -> Layout:
    """``VGG16`` and ``VGG19`` of keras.applications, and, by the same rules, the others without normalisation.

    Raises:
      UsageError: the network has normalisations, which Keras's lack.
    """
    if model.norm != "none":
        raise UsageError(f"norm={model.norm} is in no VGG of Keras. Use norm='none'.")
    modules: dict[str, str] = {}
    for stage, (_, count) in enumerate(model.stages, start=1):
        for index in range(1, count + 1):
            layer = f"block{stage}_conv{index}"
            modules |= {f"conv{stage}_{index}": layer, f"norm{stage}_{index}": layer}
    modules |= {f"dense{index}": f"fc{index}" for index in range(1, len(model.dense) + 1)}
    return Layout({**modules, "head": "predictions"}, style="keras", fields={"lrn": False})


def convolutions(model: VGG) -> dict[str, str]:
    """The convolutions and normalisations, which are counted through all stages with activations and poolings."""
    modules: dict[str, str] = {}
    position = 0
    for stage, (_, count) in enumerate(model.stages, start=1):
        for index in range(1, count + 1):
            layer = f"{stage}_{index}"
            modules |= conv_norm(f"conv{layer}", f"norm{layer}", position, model.norm)
            position += 2 if model.norm == "none" else 3
        position += 1
    return modules


def conv_norm(conv: str, norm: str, position: int, kind: str) -> dict[str, str]:
    """The modules of a convolution and its normalisation; without normalisation the convolution has the bias."""
    return {conv: f"features.{position}", norm: f"features.{position if kind == 'none' else position + 1}"}


def flattened(dense: tuple[int, ...], side: int, channels: int) -> dict[str, tuple[int, int, int]]:
    """The first dense layer reads a flattened map."""
    return {"dense1" if dense else "head": (side, side, channels)}


def _flattened(model):
    return flattened(model.dense, model.map_size or 1, model.stages[-1][0])  # 1: of the smallest images


LAYOUTS: Table = {VGG: {"torchvision": torchvision, "timm": timm, "keras": keras}}
