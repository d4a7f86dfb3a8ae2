"""The preprocessing that published weights were evaluated with."""

from pathlib import Path

from cnnjax import models
from cnnjax.typing import UsageError, unknown
from cnnjax.weights import saved, timm_config
from cnnjax.weights.detect import detect
from cnnjax.weights.hub import CONFIG
from cnnjax.weights.load import read
from cnnjax.weights.place import local_path
from cnnjax.weights.preprocessing import Preprocessing

SOURCES = ("torchvision", "timm")

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

# Second editions (IMAGENET1K_V2) carry this in their file names, and differ from the first in the resizing.
SECOND = {
    **dict.fromkeys(("11ad3fa6", "cd907fc2", "f82ba261", "1a0047aa", "7ebf99e0"), Preprocessing(232, 224)),
    "c27df63c": Preprocessing(255, 240),  # efficientnet_b1
}


def preprocessing_of(name: str, source: str | None = None, path: str | Path | None = None) -> Preprocessing:
    """How images are prepared for weights of a network.

    Args:
      name: in ``models.MODELS``.
      source: "torchvision" or "timm"; None finds it from the file.
      path: of the weights' file, or its ``hf:`` address. A file of ``weights.save`` says itself what it needs, for
        timm's a ``config.json`` beside it does, and torchvision's second editions are known by the file's name.

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
    if source == "torchvision":
        return _known(_of_torchvision(name, local), f"torchvision has no {name}.")
    return _known(
        _of_timm(local), f"timm says in a {CONFIG} beside the weights how images are prepared; {path} has none."
    )


def _of_torchvision(name: str, path: Path | None) -> Preprocessing | None:
    edition = path.stem.rpartition("-")[2] if path is not None else ""
    if name in TORCHVISION and edition in SECOND:
        return SECOND[edition]
    return TORCHVISION.get(name)


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
