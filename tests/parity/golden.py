"""Stores the logits of a reference, so that ours can be checked without it.

python -m tests.parity.golden resnet18 mobilenet_v2    # of torchvision or timm
python -m tests.parity.golden resnet50_keras           # of keras.applications; with the logits of training
python -m tests.parity.golden cifar_A cifar_B          # of our own in torch with the published keys; the same
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity import cifar, keras_reference, seeded
from tests.parity.reference import REFERENCES, Reference, build, changed, library, logits

FOLDER = Path(__file__).parent.parent / "golden"
IMAGES = 2
DIGITS = 7


def computed(name: str) -> tuple[Any, int, np.ndarray]:
    """The reference with seeded weights, the side of its seeded images in pixels, and its logits for them."""
    reference = REFERENCES[name]
    size = reference.size
    if size is None:
        from cnnjax import models

        size = getattr(models.create(name), "min_size", 32)
    module = build(reference)
    return module, size, logits(module, seeded.images(IMAGES, size))


def write(name: str) -> Path:
    """Writes tests/golden/NAME.json: the reference's logits for seeded weights and seeded images."""
    reference = REFERENCES[name]
    _, size, out = computed(name)
    content = {
        "reference": f"{reference.library} {reference.called}",
        "source": reference.library,
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")},
        "size": size,
        "classes": reference.classes,
        **changed(reference),
        "logits": _rounded(out),
    }
    return _written(name, content)


def write_keras(name: str) -> Path:
    """Writes tests/golden/NAME_keras.json."""
    reference = keras_reference.KERAS[name]
    network, images = keras_reference.build(reference), seeded.images(IMAGES, reference.size)
    evaluated = keras_reference.logits(network, reference, images)
    content = {
        "reference": f"keras.applications {reference.called}",
        "source": "keras",
        "network": name,
        "fields": reference.fields,
        "versions": {library: version(library) for library in ("keras", "jax", "numpy")},
        "size": reference.size,
        "classes": keras_reference.CLASSES,
        "logits": _rounded(evaluated),
        "training": _rounded(keras_reference.logits(network, reference, images, train=True)),
    }
    return _written(f"{name}_keras", content)


def write_cifar(shortcut: str) -> Path:
    """Writes tests/golden/cifar_A.json, or B: ResNet-20."""
    module = build(Reference(cifar.build(library("torch"), 20, shortcut)))
    images = seeded.images(IMAGES, 32)
    evaluated = logits(module, images)
    content = {
        "reference": "tests.parity.cifar",
        "source": "akamaster",
        "network": "resnet20_cifar",
        "fields": {"shortcut": shortcut},
        "versions": {library: version(library) for library in ("torch", "numpy")},
        "size": 32,
        "classes": 10,
        "logits": _rounded(evaluated),
        "training": _rounded(logits(module, images, train=True)),
    }
    return _written(f"cifar_{shortcut}", content)


def _rounded(logits: np.ndarray) -> list[list[float]]:
    return [[float(f"{logit:.{DIGITS}g}") for logit in row] for row in logits]


def _written(name: str, content: dict[str, Any]) -> Path:
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


if __name__ == "__main__":
    for requested in sys.argv[1:]:
        if requested.endswith("_keras"):
            print(write_keras(requested.removesuffix("_keras")), flush=True)
        elif requested.startswith("cifar_"):
            print(write_cifar(requested.removeprefix("cifar_")), flush=True)
        else:
            library("torchvision")
            print(write(requested), flush=True)
