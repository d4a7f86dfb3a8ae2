"""Lets TensorFlow Datasets prepare image datasets where TensorFlow is not installed.

Its download manager and its image feature call TensorFlow to open files and to encode PNG, and so
do most builders of image datasets (CIFAR, MNIST, ...). Those few functions are stood in for here.
"""

import glob
import importlib.util
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np


@contextmanager
def stand_in() -> Iterator[None]:
    """Within, TensorFlow Datasets uses the stand-in, if TensorFlow is not installed.

    A builder that asks for more than it has raises AttributeError.
    """
    from tensorflow_datasets.core.utils import lazy_imports_utils

    # The one object that all of TensorFlow Datasets knows as ``tf``; it imports on first use.
    lazy_module = vars(lazy_imports_utils.tensorflow)
    if "_module" in lazy_module or importlib.util.find_spec("tensorflow"):
        yield
        return
    lazy_module["_module"] = _tensorflow()
    try:
        yield
    finally:
        del lazy_module["_module"]


def _tensorflow() -> Any:
    gfile = SimpleNamespace(GFile=open, exists=os.path.exists, listdir=os.listdir, glob=glob.glob)
    return SimpleNamespace(
        compat=SimpleNamespace(as_text=os.fsdecode, as_bytes=os.fsencode),
        errors=SimpleNamespace(UnimplementedError=NotImplementedError),
        executing_eagerly=lambda: True,
        image=SimpleNamespace(encode_png=_encode_png),
        io=SimpleNamespace(gfile=gfile),
    )


def _encode_png(image: np.ndarray) -> Any:
    """(H, W, C) uint8 as PNG, in an object whose ``numpy()`` gives the bytes, like a tensor."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    return SimpleNamespace(numpy=encoded.getvalue)
