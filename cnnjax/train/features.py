"""Only the head trains: what it reads is computed once for every image, and the head is trained on that alone.

The rule is one of the Spec and its dataset's shape. Features are cached where all of this holds, and never else:

  - ``cache_features`` is set, and the run starts from ``weights``: without, every seed would draw other features;
  - every stage but the head is frozen, so that these run as in evaluation and nothing in front of the head is random;
  - there is neither an augmentation nor a probe, which would need images;
  - the network names its stages and its ``kernel_init``, has the endpoint ``features``, at most one dropout of the
    run's rate between these and the head, a head with kernel and bias, and no other layer that counts classes, such
    as an auxiliary head.
"""

import dataclasses
import time
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import tree
from cnnjax.data.catalog import Dataset, Info
from cnnjax.data.feed import EVALUATION_BATCH
from cnnjax.models import parameter_shapes
from cnnjax.models.head import Head
from cnnjax.models.stages import HEAD, frozen_names, prefixes, stages
from cnnjax.nn import Dropout
from cnnjax.tasks.frozen import COLLECTION, Call, top_level_calls
from cnnjax.train import pretrained, step
from cnnjax.train.pretrained import Arrays, Normalization
from cnnjax.train.program import compiler_options
from cnnjax.train.spec import Spec, build_model, normalization, variable_shapes
from cnnjax.typing import UsageError

RATE = 0.25  # a dropout rate that no network sets by itself
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}  # of the logits' largest, between two ways to compute them


class Alone(NamedTuple):
    """The module that is trained on cached features, and the shape (1, 1, D) of these."""

    head: Head
    image_shape: tuple[int, int, int]


class Start(NamedTuple):
    """What is trained, on what, and from where.

    Attributes:
      spec: as given; or, with cached features, of the head alone.
      dataset: as given, but normalised as the weights ask; or the features.
      given: arrays in place of drawn ones, by name.
      rest: the collections of the network that are not in the trained program.
      compile_seconds, seconds: of compiling the network for the features, and of computing them; 0 where they were
        there already.
    """

    spec: Spec
    dataset: Dataset
    given: Arrays
    rest: dict[str, Any]
    compile_seconds: float = 0.0
    seconds: float = 0.0


class Cached(NamedTuple):
    """A dataset of features, and how long it took to make it."""

    dataset: Dataset
    compile_seconds: float
    seconds: float


def start(spec: Spec, dataset: Dataset) -> Start:
    """Reads the weights of a Spec, normalises the images as these ask and, by the rule, puts features in their place.

    Raises:
      UsageError: the weights do not fit, or the network's head does more than ``features`` and the head say.
    """
    if not spec.weights:
        return Start(spec, dataset, {}, {})
    model = build_model(spec, dataset.info.num_classes)
    given = pretrained.read(spec.weights, model, variable_shapes(spec, dataset.info), spec.fresh_head)
    if (asked := normalization(spec, dataset.info)) is not None:
        dataset = _normalized(dataset, asked)
    alone = head_alone(spec, dataset.info)
    if alone is None:
        return Start(spec, dataset, given, {})
    before = _features.cache_info().misses
    found = _features(model, alone, spec.weights, pretrained.sha256(spec.weights), spec.precision, dataset)
    times = (found.compile_seconds, found.seconds) if _features.cache_info().misses > before else (0.0, 0.0)
    last = dataclasses.replace(spec, model=alone.head, model_fields=(), precision="float32", frozen=(), weights="")
    rest = _nested({name: array for name, array in given.items() if not _of_head(name)})
    rest[COLLECTION] = rest.pop("params")
    of_head = {name: array for name, array in given.items() if _of_head(name)}
    return Start(last, found.dataset, of_head, rest, *times)


def head_alone(spec: Spec, info: Info) -> Alone | None:
    """What is trained on cached features, or None where they are not cached. Computes nothing."""
    classifies = spec.task == "classify"
    if not (classifies and spec.cache_features and spec.weights and spec.frozen) or spec.augment or spec.probes:
        return None
    return _head_alone(build_model(spec, info.num_classes), spec.frozen, info.image_shape)


@lru_cache(maxsize=64)
def _head_alone(model: nn.Module, frozen: tuple[str, ...], image_shape: tuple[int, int, int]) -> Alone | None:
    if stages(model) is None or "num_classes" not in vars(model):
        return None
    shapes = parameter_shapes(model, image_shape)
    params = shapes["params"]
    trained = set(params) - frozen_names(model, frozen, params)
    if trained != {HEAD} or set(params[HEAD]) != {"kernel", "bias"}:
        return None
    if _counts_classes_elsewhere(model, image_shape):
        return None
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    _, endpoints = jax.eval_shape(model.apply, shapes, images)
    if endpoints.get("features") is None or endpoints["features"].shape != (2, params[HEAD]["kernel"].shape[0]):
        return None
    dropouts = _dropouts_before_head(model, prefixes(model, frozen), shapes, images)
    if dropouts is None or len(dropouts) > 1:
        return None
    if not isinstance(vars(model).get("kernel_init"), str):
        return None
    fields = {name: vars(model)[name] for name in ("head_activation", "kernel_init", "dtype") if name in vars(model)}
    width, classes = params[HEAD]["kernel"].shape
    return Alone(Head(classes, "".join(dropouts), **fields), (1, 1, width))


def _counts_classes_elsewhere(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether a layer other than the head has a size that depends on the number of classes."""
    other = model.clone(num_classes=vars(model)["num_classes"] + 1)
    here, there = (parameter_shapes(each, image_shape) for each in (model, other))
    pairs = zip(tree.names(here), jax.tree_util.tree_leaves(here), jax.tree_util.tree_leaves(there), strict=True)
    return any(a.shape != b.shape and not _of_head(name) for name, a, b in pairs)


def _dropouts_before_head(model: nn.Module, quiet: tuple[str, ...], shapes: Any, images: Any) -> list[str] | None:
    """Names of the dropouts of the run's rate that feed the head; None where something else does.

    Layers whose names begin with ``quiet`` belong to frozen stages.
    """

    def run():
        state = [name for name in shapes if name != "params"]
        zeros = jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes, images))
        return model.apply(*zeros, train=True, dropout_rate=RATE, mutable=state, rngs={"dropout": jax.random.key(0)})

    width = shapes["params"][HEAD]["kernel"].shape[0]
    found: list[str] = []
    waiting: list[Call] = []
    for call in top_level_calls(run):
        if call.name == HEAD:  # more than once: also for the map of logits
            if not all(_drops_features(each, width) for each in waiting):
                return None
            found += [each.name for each in waiting if each.arguments["rate"]]
        if call.name in shapes["params"]:
            waiting = []
        elif not call.name.startswith(quiet):
            waiting.append(call)
    return found


def _drops_features(call: Call, width: int) -> bool:
    """Whether a layer is dropout of the run's rate, or of none, of an array (N, width)."""
    return (
        isinstance(call.module, Dropout)
        and call.arguments["rate"] in (0, RATE)
        and call.arguments["activations"].shape[1:] == (width,)
    )


@lru_cache(maxsize=4)
def _normalized(dataset: Dataset, asked: Normalization) -> Dataset:
    """The dataset with another mean and standard deviation; the same object for the same ones."""
    mean, std = (np.array(values, np.float32) for values in asked)
    return dataclasses.replace(dataset, mean=mean, std=std)


@lru_cache(maxsize=2)
def _features(model: nn.Module, alone: Alone, path: str, content: str, precision: str, dataset: Dataset) -> Cached:
    """The dataset with features (N, 1, 1, D) float32 for images; kept, so that a process computes them once."""
    shapes = parameter_shapes(model, dataset.info.image_shape)
    given = pretrained.read(path, model, shapes)
    rng = np.random.default_rng(0)

    def fill(name: str, leaf: Any) -> Any:  # any head will do
        return rng.normal(size=leaf.shape).astype(leaf.dtype) if _of_head(name) else given[name]

    variables = jax.device_put(tree.mask(shapes, fill))

    def forward(variables, pool):
        inputs = step.network_inputs(pool, jnp.arange(len(pool["images"])))
        logits, endpoints = model.apply(variables, inputs)
        return endpoints["features"].astype(jnp.float32), logits

    count = len(dataset.labels)
    size = min(EVALUATION_BATCH, count)

    def pool(first: int) -> step.Pool:
        numbers = np.arange(first, first + size) % count  # one shape, so one program
        return {"images": dataset.images[numbers], "mean": dataset.mean, "std": dataset.std}

    started = time.perf_counter()
    compiled = jax.jit(forward, compiler_options=compiler_options()).lower(variables, pool(0)).compile()
    began = time.perf_counter()
    parts = []
    for first in range(0, count, size):
        features, logits = compiled(variables, pool(first))
        if first == 0:
            _check(model, alone.head, variables, features, logits, TOLERANCE[precision])
        parts.append(np.asarray(features)[: count - first])
    width = alone.image_shape[-1]
    cached = dataclasses.replace(
        dataset,
        info=dataclasses.replace(dataset.info, image_shape=alone.image_shape),
        images=np.concatenate(parts).reshape(count, *alone.image_shape),
        mean=np.zeros(width, np.float32),
        std=np.ones(width, np.float32),
        colour_basis=np.zeros((0, 0), np.float32),
    )
    return Cached(cached, began - started, time.perf_counter() - began)


def _check(model, head, variables, features, logits, tolerance) -> None:
    """Refuses a network whose logits are not its head's of its features."""
    expected, _ = head.apply({"params": {HEAD: variables["params"][HEAD]}}, features[:, None, None, :])
    if np.abs(expected - logits).max() > tolerance * np.abs(logits).max():
        raise UsageError(
            f"{type(model).__name__} does more with its features than the layer head does. Set cache_features=False."
        )


def _of_head(name: str) -> bool:
    return name.startswith(f"params/{HEAD}/")


def _nested(flat: Arrays) -> dict[str, Any]:
    """Arrays by name as nested dictionaries."""
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return nested
