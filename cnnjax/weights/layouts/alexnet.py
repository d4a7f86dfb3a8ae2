"""AlexNet in torchvision's files."""

from cnnjax.models.alexnet import MAP, AlexNet
from cnnjax.weights.layout import Layout, Table
from cnnjax.weights.layouts.vgg import conv_norm, flattened


def torchvision(model: AlexNet) -> Layout:
    """``alexnet``, whose file fits ``alexnet_one_column``; and, by the same rules, the others of this class."""
    modules: dict[str, str] = {}
    position = 0
    for index in range(1, 6):
        modules |= conv_norm(f"conv{index}/conv", f"conv{index}/norm", position, model.norm)
        position += 2 if model.norm == "none" else 3  # the activation has a number, too
        position += index <= 2  # so has the pooling
    for index in range(1, len(model.dense) + 1):
        modules[f"dense{index}"] = f"classifier.{3 * index - 2}"  # dropout, dense layer, activation
    modules["head"] = f"classifier.{3 * len(model.dense)}"
    return Layout(modules, flattened(model.dense, MAP, model.features[-1]))


LAYOUTS: Table = {AlexNet: {"torchvision": torchvision}}
