"""The networks of keras.applications with seeded weights, as ``reference`` has those of torchvision and timm."""

import dataclasses
import importlib
import os
import warnings
from typing import Any

import numpy as np

from cnnjax.weights import keras_keys
from tests.fixtures.networks import jit
from tests.parity import seeded
from tests.parity.reference import Missing

CLASSES = 10
TOP = {"classes": CLASSES, "classifier_activation": None, "weights": None}


@dataclasses.dataclass(frozen=True)
class Keras:
    """What a network of ours is held against.

    Attributes:
      called: its name in keras.applications.
      size: sides of the images, in pixels.
      fields: of ours, beside the number of classes.
      options: of Keras's constructor.
    """

    called: str
    size: int
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


SAME = {"padding": "SAME", "epsilon": 1e-3}
RESNET = {"stride_in": "1x1", "conv_bias": True, "epsilon": 1.001e-5}
# By the name of ours.
KERAS = {
    "vgg16": Keras("VGG16", 32, {"map_size": 1}),
    "vgg19": Keras("VGG19", 32, {"map_size": 1}),
    "resnet50": Keras("ResNet50", 64, RESNET),
    "resnet101": Keras("ResNet101", 64, RESNET),
    "resnet152": Keras("ResNet152", 64, RESNET),
    "mobilenet_v1": Keras("MobileNet", 64, SAME),
    "mobilenet_v2": Keras("MobileNetV2", 64, SAME),
    "efficientnet_b0": Keras("EfficientNetB0", 64, SAME),
    "efficientnet_b1": Keras("EfficientNetB1", 64, SAME),
    "inception_v3": Keras("InceptionV3", 139, {"average_padding": False}),
}


def library() -> Any:
    """keras.applications on JAX.

    Raises:
      Missing: it cannot be imported, or is there with another backend.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            keras = importlib.import_module("keras")
        except (ImportError, OSError, RuntimeError) as error:
            raise Missing(f"keras does not import: {error}") from error
    if keras.backend.backend() != "jax":
        raise Missing(f"keras has the backend {keras.backend.backend()}, not jax")
    return keras.applications


def build(reference: Keras) -> Any:
    """The network with seeded weights and statistics; it drops nothing, and keeps 0.9 of its old statistics.

    Raises:
      Missing: the library cannot be imported.
    """
    applications = library()
    shape = (reference.size, reference.size, 3)
    network = getattr(applications, reference.called)(input_shape=shape, **TOP, **reference.options)
    variables = keras_keys.canonical({variable.path: variable for variable in network.variables if _counts(variable)})
    for path, drawn in seeded.keras({path: tuple(variable.shape) for path, variable in variables.items()}).items():
        variables[path].assign(drawn)
    for layer in network.layers:
        if hasattr(layer, "momentum"):
            layer.momentum = 0.9
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    return network


def _counts(variable: Any) -> bool:
    """Whether it is of the network, and not of what normalises its images or draws random numbers."""
    return not variable.path.startswith(("normalization", "seed_generator")) and "seed_generator" not in variable.path


def logits(network: Any, reference: Keras, images: np.ndarray, train: bool = False) -> np.ndarray:
    """What the network gives for images (N, H, W, C); training updates its statistics."""
    scale = 255 if reference.called.startswith("EfficientNet") else 1  # it rescales its images itself
    trained, others = (
        [v.value for v in kind] for kind in (network.trainable_variables, network.non_trainable_variables)
    )
    call = jit(lambda trained, others, x: network.stateless_call(trained, others, x, training=train))
    out, others = call(trained, others, images * scale)
    for variable, value in zip(network.non_trainable_variables, others, strict=True):
        variable.assign(value)
    return np.asarray(out)


def state(network: Any) -> dict[str, np.ndarray]:
    """The variables as arrays by path."""
    return {variable.path: np.asarray(variable.value) for variable in network.variables if _counts(variable)}
