"""Stores the logits of a reference, so that ours can be checked without it.

python -m tests.parity.golden resnet18 mobilenet_v2
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity import seeded
from tests.parity.reference import REFERENCES, build, changed, library, logits

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
        "logits": [[float(f"{logit:.{DIGITS}g}") for logit in row] for row in out],
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


if __name__ == "__main__":
    library("torchvision")
    for requested in sys.argv[1:]:
        print(write(requested))
