"""What defines a run: a static ``Spec`` (another program), traced ``Hyper`` (another number), a seed."""

import dataclasses
import functools
import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import augment, models
from cnnjax.analysis.cut import cut_in_training
from cnnjax.analysis.program import label
from cnnjax.data.catalog import DataConfig, Info
from cnnjax.strict_json import encode
from cnnjax.tasks import decay, probes, reconstruction
from cnnjax.tasks.classify import check_outputs, classify
from cnnjax.tasks.frozen import freeze, split
from cnnjax.tasks.reconstruction import reconstruct
from cnnjax.tasks.task import Task, shapes_of
from cnnjax.train import pretrained
from cnnjax.train.values import check_fields, check_finite, check_numbers
from cnnjax.typing import UsageError, unknown

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["constant", "step", "cosine", "plateau"]
Warmup = Literal["linear", "constant"]
Precision = Literal["float32", "bfloat16"]
Decayed = Literal["kernels", "all"]
Loss = Literal["softmax", "sigmoid"]
TaskName = Literal["classify", "reconstruct"]
log = logging.getLogger(__name__)
PROBES: dict[str, Mapping[str, Any]] = {"classify": probes.PROBES, "reconstruct": reconstruction.PROBES}  # by task
PLAIN = (float, int, str, bool, type(None))  # what JSON has too
ALL_PROBES = ", ".join(name for known in PROBES.values() for name in known)


def _field(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A field with its help text and, inclusive, its range; both also make its command-line flag."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclasses.dataclass(frozen=True)
class Spec:
    """The static part of a run: hashable, and a different Spec is a different program.

    Its JSON and its digest hold the SHA-256 of the file ``weights`` and not its path. A run that starts from weights
    normalises its images as they were normalised for these (see ``pretrained.normalization``); every other by the
    mean and standard deviation of its own training split.
    """

    model: str | nn.Module = _field("resnet20_cifar", "network: a name in cnnjax.models.MODELS, or a Linen module")
    model_fields: tuple[tuple[str, Any], ...] = ()
    task: TaskName = _field("classify", "classify: name the class; reconstruct: give back the image")
    data: DataConfig = DataConfig()
    steps: int = _field(200, "optimizer steps", 1)
    batch_size: int = _field(128, "examples per step", 1)
    evaluate_every: int = _field(0, "steps between evaluations; 0 is at the end only", 0)
    train_examples: int = _field(5000, "most training examples that an evaluation of the training split reads", 1)
    optimizer: Optimizer = _field("sgd", "sgd (with momentum) or adam")
    nesterov: bool = _field(False, "Nesterov's momentum")
    schedule: Schedule = _field("cosine", "what the learning rate is multiplied with over the run")
    milestones: tuple[float, ...] = _field((0.5, 0.75), "schedule=step: fractions of the run at which the rate drops")
    patience: int = _field(5, "schedule=plateau: epochs without a better training loss before the rate drops", 1)
    warmup_form: Warmup = _field("linear", "how the rate rises during the warm-up")
    precision: Precision = _field("float32", "arithmetic of the layers; parameters and losses stay float32")
    augment: tuple[str, ...] = _field(
        (), f"augmentations that exist in the program, their strengths swept: {', '.join(augment.AUGMENTATIONS)}"
    )
    decayed: Decayed = _field(
        "kernels", "what l2 and weight_decay act on: kernels (more than one axis), or all parameters"
    )
    loss: Loss = _field("softmax", "softmax: cross-entropy over the classes; sigmoid: each class a yes or no")
    probes: tuple[str, ...] = _field(
        (),
        f"measured besides on the test split, at the end: {ALL_PROBES}",
    )
    keep_outputs: bool = _field(False, "keep the class probabilities of the test split in each row")
    frozen: tuple[str, ...] = _field((), "stages that do not train, such as stem,stage1; see models.frozen_stages")
    weights: str = _field("", "file that the run starts from: our own .safetensors, or another library's")
    fresh_head: bool = _field(False, "draw the head anew even where the weights have one for as many classes")
    keep_weights: bool = _field(False, "keep the final variables of each run in a file beside its row")
    cache_features: bool = _field(
        True, "compute what the head reads once, where only the head trains, from weights, unaugmented and unprobed"
    )

    @functools.cached_property
    def _text(self) -> str:
        return encode(to_json(self), sort_keys=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """The numbers of a run that may vary inside one program. All traced; zero means off."""

    learning_rate: Any = _field(0.1, "peak learning rate", 0.0)
    momentum: Any = _field(0.9, "momentum of sgd; first-moment decay of adam", 0.0, 0.9999)
    l2: Any = _field(0.0, "c of the penalised loss L + c * sum(w^2)", 0.0)
    weight_decay: Any = _field(0.0, "decoupled: w shrinks by rate * weight_decay * w beside the gradient step", 0.0)
    dropout: Any = _field(0.0, "probability that a unit is zeroed", 0.0, 0.999)
    label_smoothing: Any = _field(0.0, "share of the target spread over all classes", 0.0, 1.0)
    auxiliary_weight: Any = _field(0.3, "weight of the loss of each auxiliary head, where the network has them", 0.0)
    label_noise: Any = _field(0.0, "share of the training labels replaced by a wrong one", 0.0, 1.0)
    flip: Any = _field(1.0, "strength of mirroring, where augment has flip", 0.0, 1.0)
    crop: Any = _field(1.0, "strength of random shifts, where augment has crop", 0.0, 1.0)
    scale: Any = _field(1.0, "strength of random scaling, where augment has scale", 0.0, 1.0)
    rotation: Any = _field(1.0, "strength of random rotation, where augment has rotation", 0.0, 1.0)
    shear: Any = _field(1.0, "strength of random shearing, where augment has shear", 0.0, 1.0)
    warp: Any = _field(1.0, "strength of local warping, where augment has warp", 0.0, 1.0)
    colour_jitter: Any = _field(1.0, "strength of changes of brightness, contrast and saturation", 0.0, 1.0)
    rgb_shift: Any = _field(1.0, "strength of shifts of the channels, where augment has rgb_shift", 0.0, 1.0)
    pca_colour: Any = _field(1.0, "strength of shifts along the data's principal colours", 0.0, 1.0)
    train_size: Any = _field(0, "training examples used; 0 is all", 0)
    warmup: Any = _field(0.0, "share of the run that is warm-up", 0.0, 1.0)
    warmup_factor: Any = _field(0.0, "the warm-up starts at this share of the rate", 0.0, 1.0)
    rate_drop: Any = _field(0.1, "schedule=step and plateau: factor of each drop", 0.0, 1.0)


def build_model(spec: Spec, num_classes: int) -> nn.Module:
    """The network of a Spec with the dataset's class count and the Spec's precision.

    Raises:
      UsageError: unknown model or field, a bad value, or a precision that the model cannot have.
    """
    fields = dict(spec.model_fields)
    if "dtype" in fields:
        raise UsageError(f"model.dtype={fields['dtype']} is set by precision. Use precision, such as bfloat16.")
    if isinstance(spec.model, str):
        fields.setdefault("num_classes", num_classes)
        return models.create(spec.model, **fields, dtype=jnp.dtype(spec.precision))
    known = {f.name for f in dataclasses.fields(cast(Any, spec.model))} - {"parent", "name"}
    for name in fields:
        if name not in known:
            raise unknown(f"field of model {type(spec.model).__name__}", name, known)
    if spec.precision != "float32":
        if "dtype" not in known:
            raise UsageError(
                f"precision={spec.precision} needs a model with a field dtype; {type(spec.model).__name__} has none."
            )
        fields["dtype"] = jnp.dtype(spec.precision)
    return spec.model.clone(**fields)


def build_task(spec: Spec, info: Info) -> Task:
    """The task of a Spec on a dataset."""
    model = build_model(spec, info.num_classes)
    if spec.task == "reconstruct":
        task = reconstruct(model, spec.probes)
    else:
        task = classify(model, spec.loss, spec.probes, spec.batch_size)
    if spec.decayed == "kernels":
        task = task._replace(weights=partial(decay.weights, model, info.image_shape))
    return freeze(task, model, spec.frozen) if spec.frozen else task


def variable_shapes(spec: Spec, info: Info) -> dict[str, Any]:
    """The shapes of a run's variables; those of frozen stages lie in a collection ``frozen``. Computes nothing.

    Raises:
      UsageError: an unknown stage in ``frozen``, or nothing is left to train.
    """
    model = build_model(spec, info.num_classes)
    shapes = jax.tree_util.tree_map(lambda leaf: leaf, shapes_of(model, info.image_shape))  # dicts of its own
    return split(shapes, model, spec.frozen) if spec.frozen else shapes


def normalization(spec: Spec, info: Info) -> pretrained.Normalization | None:
    """How the images of a run are normalised; None where it is by the statistics of its training split.

    Raises:
      UsageError: the weights that it starts from cannot be read, or nothing is known of them.
    """
    if not spec.weights:
        return None
    name = spec.model if isinstance(spec.model, str) else ""
    return pretrained.normalization(spec.weights, build_model(spec, info.num_classes), name)


def validate(spec: Spec, hypers: Sequence[Hyper], info: Info) -> None:
    """Refuses runs that cannot work, before any data is loaded or anything compiled.

    Raises:
      UsageError: naming the field, its value and the remedy.
    """
    check_values(spec, hypers, info)
    model, name = _model_of(spec, info)
    if spec.task == "reconstruct":
        reconstruction.check_outputs(model, info.image_shape)
    else:
        check_outputs(model, info.image_shape, info.num_classes)
    check_reads_images(spec, info, spec.batch_size)
    if spec.frozen or spec.weights:
        shapes = variable_shapes(spec, info)
        if spec.weights:
            pretrained.read(spec.weights, model, shapes, spec.fresh_head)
            normalization(spec, info)
    for probe in spec.probes:
        _check_probe(dataclasses.replace(spec, probes=(probe,)), info, name)


def check_values(spec: Spec, hypers: Sequence[Hyper], info: Info) -> None:
    """The part of ``validate`` that traces no network: of hundreds of Specs it takes a second.

    Raises:
      UsageError: naming the field, its value and the remedy.
    """
    check_fields(spec)
    check_numbers(hypers)
    check_finite({f"model.{name}": value for name, value in spec.model_fields})
    augment.check(spec.augment, info.image_shape)
    for name in spec.probes:
        if name not in PROBES[spec.task]:
            raise unknown(f"probe of task={spec.task}", name, PROBES[spec.task])
    if spec.evaluate_every > spec.steps:
        raise UsageError(
            f"evaluate_every={spec.evaluate_every} is more than steps={spec.steps}. Use at most {spec.steps}, or 0."
        )
    if any(not 0 < m < 1 for m in spec.milestones) or list(spec.milestones) != sorted(set(spec.milestones)):
        raise UsageError(f"milestones={spec.milestones} must rise, each between 0 and 1 exclusive.")
    largest = max(hyper.train_size for hyper in hypers)
    if largest > info.sizes["train"]:
        raise UsageError(
            f"train_size={largest} is more than the {info.sizes['train']} training examples of "
            f"{info.name}. Use at most {info.sizes['train']}, or 0 for all."
        )
    model, name = _model_of(spec, info)
    models.check_image_shape(model, info.image_shape, name)
    if spec.keep_outputs and spec.task != "classify":
        raise UsageError(f"keep_outputs=True keeps class probabilities, which task={spec.task} has not. Leave it out.")
    if spec.keep_weights and not isinstance(spec.model, str):
        raise UsageError(f"keep_weights=True needs a network of cnnjax.models.MODELS by its name, not {name} itself.")


def _model_of(spec: Spec, info: Info) -> tuple[nn.Module, str]:
    """The network, and what to call it in an error."""
    return build_model(spec, info.num_classes), spec.model if isinstance(spec.model, str) else type(spec.model).__name__


@functools.lru_cache(maxsize=256)  # each network is spoken of once
def _warn(message: str) -> None:
    log.warning(message)


def check_reads_images(spec: Spec, info: Info, batch_size: int) -> None:
    """Refuses a network whose output is the same for all images, and warns of layers that are, from its shapes.

    Args:
      spec: names the network.
      info: of the data.
      batch_size: images that are normalised together.

    Raises:
      UsageError: naming the layer and the remedy.
    """
    model, name = _model_of(spec, info)
    found = cut_in_training(model, info.image_shape, batch_size)
    if not found.layers:
        return
    height, width, _ = info.image_shape
    where = f"{name} on images of {height}x{width} in batches of {batch_size}: {label(found.layers[0])}"
    where += f" and {len(found.layers) - 1} more layers" if len(found.layers) > 1 else ""
    what = "standardise a single value by itself, which leaves their bias, whatever the image"
    remedy = "Use larger images (data.image_size), another norm (model.norm), or larger batches with batch norm."
    if found.whole:
        raise UsageError(f"{where} {what}. No path leads around: the network cannot tell images apart. {remedy}")
    _warn(f"{where} {what}. {remedy}")


def _check_probe(spec: Spec, info: Info, name: str) -> None:
    """Traces the one probe of a Spec, computing nothing: it would fail only after the training."""
    images = jax.ShapeDtypeStruct((2, *info.image_shape), jnp.float32)
    numbers = {"labels": jax.ShapeDtypeStruct((2,), jnp.int32), "weights": jax.ShapeDtypeStruct((2,), jnp.float32)}
    probe = build_task(spec, info).probe
    assert probe is not None  # every task has probes
    try:
        jax.eval_shape(
            lambda variables, batch: probe(variables, batch, lambda images: images),
            variable_shapes(spec, info),
            {"images": images, **numbers},
        )
    except Exception as error:
        raise UsageError(f"The probe {spec.probes[0]} needs another network, not {name}: {error}") from error


def to_json(value: Any) -> Any:
    """A Spec, a Hyper or a part of one as plain JSON values; the same for equal ones.

    Raises:
      UsageError: a Spec's weights are missing, or a function without a name of its own, for two such could not be
        told apart.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, nn.Module):
        network: Any = type(value)
        fields = {
            field.name: getattr(value, field.name)
            for field, silent in _fields(network)
            if field.name not in ("parent", "name") and not (silent and _is_default(value, field))
        }
        return {"module": f"{_home(type(value))}:{type(value).__qualname__}", **to_json(fields)}
    if isinstance(value, Spec) and value.weights:
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return to_json({**fields, "weights": pretrained.sha256(value.weights)})
    if dataclasses.is_dataclass(value):
        config: Any = type(value)
        return {  # most are plain, and a large sweep has millions of them
            field.name: item if type(item := getattr(value, field.name)) in PLAIN else to_json(item)
            for field, silent in _fields(config)
            if not (silent and _is_default(value, field))
        }
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        name = getattr(value, "__qualname__", "<none>")
        if "<" in name:
            raise UsageError(f"{value!r} has no name that tells its runs from others. Define it at a module's top.")
        return f"{_home(value)}:{name}"
    return str(value)


@functools.cache
def _fields(config: Any) -> tuple[tuple[dataclasses.Field, bool], ...]:
    """The fields of a dataclass, and whether its JSON leaves them out where they are as usual."""
    return tuple((field, bool(field.metadata.get("silent"))) for field in dataclasses.fields(config))


def _is_default(value: Any, field: dataclasses.Field) -> bool:
    return getattr(value, field.name) == field.default


def _home(value: Any) -> str:
    """The module of a class or function, also where that is the program itself: ``python -m`` calls it __main__."""
    name = getattr(value, "__module__", "")
    if name not in ("__main__", "__mp_main__"):  # the second is how a worker process calls it
        return name
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "__main__"


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a value's JSON."""
    return digest_of_text(json_text(value))


def json_text(value: Any) -> str:
    """The JSON that ``digest`` is of; that of a Spec is made once, unless it names a file, which may change."""
    if isinstance(value, Spec) and not value.weights:
        return value._text
    return encode(to_json(value), sort_keys=True)


def digest_of_text(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
