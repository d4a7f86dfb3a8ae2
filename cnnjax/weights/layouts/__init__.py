"""The layouts of other libraries' files, a file for each family of networks.

Each file ends with its own table, ``LAYOUTS: Table = {ResNet: {"torchvision": torchvision, "timm": timm}}``, whose
functions take a network, with whatever fields it was made, to its ``Layout``.
"""

from cnnjax.weights.layout import Table
from cnnjax.weights.layouts import alexnet, efficientnet, googlenet, inception, mobilenet, resnet, vgg

# One line for each file of layouts.
LAYOUTS: Table = {
    **alexnet.LAYOUTS,
    **vgg.LAYOUTS,
    **resnet.LAYOUTS,
    **googlenet.LAYOUTS,
    **inception.LAYOUTS,
    **mobilenet.LAYOUTS,
    **efficientnet.LAYOUTS,
}

# Whose keys can be read and written.
SOURCES = tuple(dict.fromkeys(source for functions in LAYOUTS.values() for source in functions))
