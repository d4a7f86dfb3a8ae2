"""The networks of torchvision and timm with seeded weights, and how ours are held against them."""

import dataclasses
import importlib
import warnings
from typing import Any

import jax
import numpy as np

from cnnjax import models, tree, weights
from cnnjax.weights.detect import layout_of
from cnnjax.weights.leaves import leaves, our_shape
from tests.fixtures.networks import jit
from tests.parity import seeded

TOLERANCE = 1e-4  # of the largest logit


class Missing(Exception):
    """A library is not installed, or does not import here."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a network of ours is held against.

    Attributes:
      called: its name in the library, or a torch module.
      library: "torchvision" or "timm"; of a torch module, the style of its keys.
      options: of the library's constructor, beside the number of classes.
      size: sides of the images, in pixels; None is the smallest that ours takes.
      classes: length of the logits.
      dense: units of the hidden dense layers, ours and theirs, where the published ones take long to draw; empty
        leaves them.
    """

    called: Any
    library: str = "torchvision"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    size: int | None = None
    classes: int = 10
    dense: tuple[int, ...] = ()


# The reference of every name that has one. Tests may override each attribute.
REFERENCES: dict[str, Reference] = {
    # At these sizes the last map is 2x2.
    "alexnet_one_column": Reference("alexnet", size=95, dense=(48, 40)),
    **{
        name: Reference(name, size=70, dense=(48, 40))
        for depth in (11, 13, 16, 19)
        for name in (f"vgg{depth}", f"vgg{depth}_bn")
    },
    **{f"resnet{depth}": Reference(f"resnet{depth}") for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": Reference("resnext50_32x4d"),
    "googlenet_bn": Reference(
        "googlenet", options={"init_weights": False, "aux_logits": False, "transform_input": False}, size=33
    ),
    "inception_v3": Reference(
        "inception_v3", options={"init_weights": False, "aux_logits": False, "transform_input": False}
    ),
    "mobilenet_v1": Reference("mobilenetv1_100", "timm"),
    "mobilenet_v2": Reference("mobilenet_v2"),
    **{f"efficientnet_b{size}": Reference(f"efficientnet_b{size}") for size in range(8)},
}


def library(name: str) -> Any:
    """torch, torchvision.models or timm as a module.

    Raises:
      Missing: it cannot be imported; the message says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch = importlib.import_module("torch")
            torch.set_num_threads(1)  # images are tiny; more threads wait for each other for seconds
            if name != "torch":
                _import_torchvision(torch)
            return importlib.import_module({"torchvision": "torchvision.models"}.get(name, name))
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise Missing(f"{name} does not import: {error}") from error


_declared: list[Any] = []  # a declaration of operators ends with its object


def _import_torchvision(torch: Any) -> None:
    """Imports it, also where its compiled part does not load, as beside a torch built for the CPU only.

    Its Python files then fail as they describe the shapes of two operators which do not exist. Declaring these,
    without code, is enough: no network that classifies calls them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        if _declared:
            raise
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            declared.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _declared.append(declared)
        importlib.import_module("torchvision")


def changed(reference: Reference) -> dict[str, Any]:
    """The fields of ours, beside the number of classes, that the reference is for."""
    return {"dense": reference.dense} if reference.dense else {}


def build(reference: Reference) -> Any:
    """The torch module with seeded weights and statistics, in evaluation mode.

    Raises:
      Missing: the library cannot be imported.
    """
    torch = library("torch")
    module = reference.called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(module, str):
            options = {"num_classes": reference.classes, **reference.options}
            if reference.library == "timm":
                module = library("timm").create_model(module, pretrained=False, **options)
            else:
                module = library("torchvision").get_model(module, weights=None, **options)
    _narrow(torch, module, reference)
    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items() if tensor.is_floating_point()}
    seeds = {key: torch.from_numpy(array) for key, array in seeded.state(shapes).items()}
    module.load_state_dict(seeds, strict=False, assign=True)  # not strict: the counts of batches stay
    return module.eval()


def _narrow(torch: Any, module: Any, reference: Reference) -> None:
    """Gives the last layers of a network other numbers of units. Their kernels alone say how many there are."""
    if not reference.dense:
        return
    outputs = (*reference.dense, reference.classes)
    layers = [part for part in module.modules() if getattr(part, "weight", None) is not None and part.weight.ndim > 1]
    reads = None
    for layer, units in zip(layers[-len(outputs) :], outputs, strict=True):
        shape = (units, reads or layer.weight.shape[1], *layer.weight.shape[2:])
        layer.weight, layer.bias = (torch.nn.Parameter(torch.empty(size)) for size in (shape, (units,)))
        reads = units


def state_dict(module: Any) -> dict[str, np.ndarray]:
    """The tensors of a torch module as arrays."""
    return {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}


def logits(module: Any, images: np.ndarray, train: bool = False) -> np.ndarray:
    """What the torch module gives for images (N, H, W, C); training updates its statistics, and drops nothing."""
    torch = library("torch")
    module.train(train)
    for part in module.modules():
        name = type(part).__name__
        if name.startswith("Dropout") or name == "StochasticDepth":
            part.p = 0.0
        elif name == "DropPath":
            part.drop_prob = 0.0
    with torch.no_grad():
        out = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    return (out if isinstance(out, torch.Tensor) else out.logits).numpy()


def check_evaluation(name: str, *, batch: int = 2, reference: dict[str, Any] | None = None, **fields: Any) -> None:
    """Our network with the reference's state dict gives its logits, and ``export`` gives its state dict back.

    Args:
      name: of our network.
      batch: number of images.
      reference: attributes of ``Reference`` to replace.
      fields: of our network, beside the number of classes.

    Raises:
      Missing: the library cannot be imported.
    """
    ours, theirs, module, variables, inputs = _both(name, batch, reference, fields)
    expected = logits(module, inputs)
    actual = jit(lambda variables, x: ours.apply(variables, x)[0])(variables, inputs)
    _assert_close(actual, expected, "logits")
    given = state_dict(module)
    for key, array in weights.export(variables, ours, theirs.library).items():
        np.testing.assert_array_equal(array, given[key], err_msg=key)


def check_training(name: str, *, batch: int = 4, reference: dict[str, Any] | None = None, **fields: Any) -> None:
    """The same in training mode without dropout: logits, and the running statistics after one batch.

    Choose a size whose last map has several pixels: of two numbers only the sign survives batch normalisation.
    """
    ours, theirs, module, variables, inputs = _both(name, batch, reference, fields)
    expected = logits(module, inputs, train=True)
    actual, updates = jit(lambda v, x: _train(ours, v, x))(variables, inputs)
    _assert_close(actual, expected, "logits")
    after = weights.convert(state_dict(module), ours, theirs.library).get("batch_stats", {})
    updated = updates.get("batch_stats", {})
    for path, new, their_new in zip(tree.names(after), *map(jax.tree_util.tree_leaves, (updated, after)), strict=True):
        _assert_close(new, their_new, path)


def check_shapes(name: str, library_name: str, called: str | None = None) -> None:
    """Our network has the keys and shapes of the library's at full size; nothing is computed.

    Args:
      name: of our network.
      library_name: "torchvision" or "timm".
      called: the network's name there, if another.

    Raises:
      Missing: the library cannot be imported.
    """
    found = library(library_name)
    with library("torch").device("meta"):
        module = (found.create_model if library_name == "timm" else found.get_model)(called or name)
    theirs = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    model = models.create(name)
    ours = {leaf.key: leaf for leaf in leaves(model, layout_of(model, library_name))}
    assert set(ours) == {key for key in theirs if not key.endswith("num_batches_tracked")}
    for key, leaf in ours.items():
        assert our_shape(leaf, theirs[key]) == leaf.shape, key


def _train(model, variables, images):
    rngs = {"dropout": jax.random.key(0)}
    (out, _), updates = model.apply(variables, images, True, 0.0, mutable=["batch_stats"], rngs=rngs)
    return out, updates


def _both(name, batch, changes, fields):
    theirs = dataclasses.replace(REFERENCES.get(name, Reference(name)), **(changes or {}))
    module = build(theirs)
    ours = models.create(name, num_classes=theirs.classes, **{**changed(theirs), **fields})
    size = theirs.size or getattr(ours, "min_size", 32)
    variables = weights.convert(state_dict(module), ours, theirs.library)
    return ours, theirs, module, variables, seeded.images(batch, size)


def _assert_close(actual, expected, label):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, label
    largest = np.abs(expected).max()
    assert np.isfinite(largest)
    assert largest > 0, label
    difference = np.abs(actual - expected).max()
    assert difference <= TOLERANCE * largest, f"{label}: differ by {difference / largest:.2g} of the largest"
