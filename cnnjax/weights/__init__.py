"""Pretrained weights: other libraries' files, our own, and the preprocessing that belongs to them.

    variables = weights.load("resnet50-11ad3fa6.pth", "resnet50")  # .pth, .safetensors, .npz, several files, a folder
    variables = weights.load("hf:timm/resnet50.a1_in1k", "resnet50")
    steps = weights.preprocessing_of("resnet50", "torchvision", "resnet50-11ad3fa6.pth")
    logits, _ = models.create("resnet50").apply(variables, steps.apply(image)[None])

    weights.save("mine.safetensors", variables, "resnet50", preprocessing=steps, class_names=names)
    saved = weights.restore("mine.safetensors")  # .model, .variables, .preprocessing, .class_names

Nothing in a file is ever run. ``convert`` and ``export`` do the same from and to state dicts in memory, by the
``LAYOUTS`` of the networks.
"""

from cnnjax.weights.convert import convert, export, rgb
from cnnjax.weights.layout import Layout
from cnnjax.weights.layouts import LAYOUTS
from cnnjax.weights.load import load, read
from cnnjax.weights.preprocessing import Preprocessing
from cnnjax.weights.presets import preprocessing_of
from cnnjax.weights.saved import Saved, restore, save

__all__ = [
    "LAYOUTS",
    "Layout",
    "Preprocessing",
    "Saved",
    "convert",
    "export",
    "load",
    "preprocessing_of",
    "read",
    "restore",
    "rgb",
    "save",
]
