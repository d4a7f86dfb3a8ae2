"""The preprocessing that published weights were evaluated with."""

import dataclasses
from pathlib import Path

import numpy as np

from cnnjax import models
from cnnjax.models.imagenet_resnet import ResNet
from cnnjax.models.resnet import CifarResNet
from cnnjax.typing import UsageError, unknown
from cnnjax.weights import saved, timm_config
from cnnjax.weights.detect import detect
from cnnjax.weights.hub import CONFIG
from cnnjax.weights.layouts import SOURCES
from cnnjax.weights.load import read
from cnnjax.weights.place import local_path
from cnnjax.weights.preprocessing import IMAGENET_STD, Preprocessing

HALF = (0.5, 0.5, 0.5)  # its files rescale their input within the network, which amounts to these
PLAIN = (
    "alexnet_one_column",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnext50_32x4d",
    "mobilenet_v2",
)
TORCHVISION = {
    **dict.fromkeys(PLAIN, Preprocessing()),
    "googlenet_bn": Preprocessing(256, 224, HALF, HALF),
    "inception_v3": Preprocessing(342, 299, HALF, HALF),
    **{
        f"efficientnet_b{number}": Preprocessing(resize, crop, interpolation="bicubic")
        for number, (resize, crop) in enumerate(
            [(256, 224), (256, 240), (288, 288), (320, 300), (384, 380), (456, 456), (528, 528), (600, 600)]
        )
    },
}

# keras.applications says what is done to the numbers of an image, not how it is cut. These cut as the others do; the
# EfficientNets as their authors, 32 pixels off the shorter side.
BGR_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)  # of Caffe's images, which are not divided by anything
CAFFE = Preprocessing(256, 224, BGR_MEAN, (1 / 255,) * 3, channels="BGR")
KERAS = {
    **dict.fromkeys(("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"), CAFFE),
    **dict.fromkeys(("mobilenet_v1", "mobilenet_v2"), Preprocessing(256, 224, HALF, HALF)),
    "inception_v3": Preprocessing(342, 299, HALF, HALF),
    **{
        f"efficientnet_b{number}": Preprocessing(size + 32, size, interpolation="bicubic")
        for number, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
}

CIFAR_10 = Preprocessing(32, 32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR_100 = Preprocessing(32, 32, (0.507, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))

# Second editions (IMAGENET1K_V2) carry this in their file names, and differ from the first in the resizing.
SECOND = {
    **dict.fromkeys(("11ad3fa6", "cd907fc2", "f82ba261", "1a0047aa", "7ebf99e0"), Preprocessing(232, 224)),
    "c27df63c": Preprocessing(255, 240),  # efficientnet_b1
}


def preprocessing_of(name: str, source: str | None = None, path: str | Path | None = None) -> Preprocessing:
    """How images are prepared for weights of a network.

    Args:
      name: in ``models.MODELS``.
      source: one of ``layouts.SOURCES``; None finds it from the file.
      path: of the weights' file, or its ``hf:`` address. A file of ``weights.save`` says itself what it needs, for
        timm's a ``config.json`` beside it does, torchvision's second editions are known by the file's name, and
        Keras's EfficientNets hold the numbers.

    Raises:
      UsageError: unknown name or source; neither source nor path; nothing is known of these weights.
    """
    if name not in models.MODELS:
        raise unknown("model", name, models.MODELS)
    if source not in (None, *SOURCES):
        raise unknown("source of weights", str(source), SOURCES)
    local = local_path(path) if path is not None else None
    if local is not None and saved.is_saved(local):
        return _known(saved.preprocessing(local), f"{path} was saved without its preprocessing.")
    if source is None:
        if local is None:
            raise UsageError(f"Give the source of the weights of {name} ({' or '.join(SOURCES)}), or their path.")
        source = detect(read(local), models.MODELS[name].build(), str(path), local)
    if source != "timm":
        found = PRESETS[source](name, local)
        return _known(found, f"{source} has no {name}, or nothing is known of how it prepares images.")
    return _known(
        _of_timm(local), f"timm says in a {CONFIG} beside the weights how images are prepared; {path} has none."
    )


def _of_torchvision(name: str, path: Path | None) -> Preprocessing | None:
    edition = path.stem.rpartition("-")[2] if path is not None else ""
    if name in TORCHVISION and edition in SECOND:
        return SECOND[edition]
    return TORCHVISION.get(name)


def _of_keras(name: str, path: Path | None) -> Preprocessing | None:
    """An EfficientNet holds what it subtracts from an image of 0 to 1, and a variance that it divides by the root of.

    The published files hold the standard deviation in the place of the variance, and divide by the root once more
    (keras.applications does so for weights="imagenet"): their numbers are known.
    """
    steps, tensors = KERAS.get(name), read(path) if path is not None and path.is_file() else {}
    mean, variance = (np.ravel(tensors.get(f"normalization_0/{key}", ())) for key in ("mean", "variance"))
    if steps is None or len(mean) != 3 or len(variance) != 3:
        return steps
    published = np.allclose(variance, IMAGENET_STD, atol=1e-4)
    std = variance if published else np.sqrt(variance)
    return dataclasses.replace(steps, mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _of_akamaster(name: str, _: Path | None) -> Preprocessing | None:
    return Preprocessing(32, 32) if isinstance(models.MODELS[name].build(), CifarResNet) else None


def _of_chenyaofo(name: str, path: Path | None) -> Preprocessing | None:
    """Known by the number of classes: 10, or 100."""
    if not isinstance(models.MODELS[name].build(), CifarResNet):
        return None
    tensors = read(path) if path is not None and path.is_file() else {}
    return CIFAR_100 if len(tensors.get("fc.bias", ())) == 100 else CIFAR_10


def _of_kuangliu(name: str, _: Path | None) -> Preprocessing | None:
    return CIFAR_10 if isinstance(models.MODELS[name].build(), ResNet) else None


def _of_timm(path: Path | None) -> Preprocessing | None:
    config = timm_config.read(path)
    if path is None or config is None:
        return None
    label = str(path.with_name(CONFIG))
    try:
        return Preprocessing.of_timm(config, label)
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, UsageError) else UsageError(f"{label} is not of timm: {error}.") from error


def _known(found: Preprocessing | None, problem: str) -> Preprocessing:
    if found is None:
        raise UsageError(f"{problem} Give it as weights.Preprocessing(resize=..., crop=..., mean=..., std=...).")
    return found


PRESETS = {
    "torchvision": _of_torchvision,
    "keras": _of_keras,
    "akamaster": _of_akamaster,
    "chenyaofo": _of_chenyaofo,
    "kuangliu": _of_kuangliu,
}
