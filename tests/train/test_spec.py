import dataclasses
import importlib.machinery
import sys
import types
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

from cnnjax import rng
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.models.encoder_decoder import EncoderDecoder
from cnnjax.models.mlp import MLP
from cnnjax.train.spec import Hyper, Spec, build_model, build_task, digest, to_json, validate
from cnnjax.typing import UsageError

DIGITS = describe(DataConfig())  # 1,024 training images of 8x8x1, 10 classes
SHAPES = describe(DataConfig("shapes", image_size=16))


class Linear(nn.Module):
    """No field for the number of classes, nor for the type of the arithmetic."""

    units: int = 10

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.units)(images.reshape(len(images), -1))


class Broken(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(len(images), 7, -1))


class Demanding(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, images, temperature):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1)) / temperature


HYPERS = {field.name for field in dataclasses.fields(Hyper)}


def run(changes):
    """An MLP's Spec and Hyper with some names changed; "model.width" is a field of the model."""
    fields = tuple((name[6:], value) for name, value in changes.items() if name.startswith("model."))
    spec = {name: value for name, value in changes.items() if "." not in name and name not in HYPERS}
    hyper = {name: value for name, value in changes.items() if name in HYPERS}
    return Spec(**{"model": "mlp", "model_fields": fields, **spec}), Hyper(**hyper)


@pytest.mark.parametrize(
    ("changes", "name", "value", "remedy"),
    [
        # What is not known
        ({"task": "reconstuct"}, "task", "reconstuct", "Did you mean 'reconstruct'"),
        ({"task": "reconstruct", "probes": ("shifts",)}, "of task=reconstruct", "shifts", "Choices: checkerboard"),
        ({"probes": ("checkerboard",)}, "probe of task=classify", "checkerboard", "Choices: "),
        ({"task": "reconstruct"}, "task", "(N, 10)", "or task=classify"),
        (
            {"task": "reconstruct", "model": EncoderDecoder(), "keep_outputs": True},
            "keep_outputs",
            "True",
            "Leave it out",
        ),
        ({"model": "resnt20_cifar"}, "model", "resnt20_cifar", "Did you mean 'resnet20_cifar'"),
        ({"model.widht": 3}, "field of model mlp", "widht", "dtype, head_activation, hidden"),
        ({"model": "resnet20_cifar", "model.widht": 3}, "field", "widht", "Did you mean 'width'"),
        ({"model": Linear(), "model_fields": (("unit", 3),)}, "Linear", "unit", "mean 'units'"),
        ({"augment": ("flp",)}, "augmentation", "flp", "Did you mean 'flip'"),
        ({"optimizer": "adamw"}, "optimizer", "adamw", "Did you mean 'adam'"),
        ({"schedule": "cosin"}, "schedule", "cosin", "Did you mean 'cosine'"),
        ({"warmup_form": "exponential"}, "warmup_form", "exponential", "Choices: constant, linear"),
        ({"precision": "float16"}, "precision", "float16", "'bfloat16'"),
        ({"decayed": "kernel"}, "decayed", "kernel", "Did you mean 'kernels'"),
        ({"model": "resnet8_cifar", "model.norm": "btach"}, "norm", "btach", "Did you mean 'batch'"),
        ({"loss": "softmx"}, "loss", "softmx", "Did you mean 'softmax'"),
        ({"probes": ("shift",)}, "probe", "shift", "Did you mean 'shifts'"),
        ({"probes": ("responses",)}, "responses", "not mlp", "such as resnet20_cifar"),
        ({"probes": ("first_layer",)}, "MLP", "no convolution", "no filters to look at"),
        ({"probes": ("shifts", "effective_field")}, "effective_field", "not mlp", "such as dilated_cnn"),
        ({"probes": ("sizes",)}, "sizes", "not mlp", "needs another network"),
        ({"model": "resnet8_cifar", "frozen": ("stage11",)}, "stage11", "frozen", "Did you mean 'stage1'"),
        ({"model": Linear(), "frozen": ("Dense_1",)}, "parameter of Linear", "Dense_1", "Did you mean 'Dense_0'"),
        # Wrong types
        ({"probes": "shifts"}, "probes", "'shifts'", "must be tuple[str, ...]"),
        ({"keep_outputs": 1}, "keep_outputs", "1", "must be bool"),
        ({"frozen": "stem"}, "frozen", "'stem'", "must be tuple[str, ...]"),
        ({"weights": None}, "weights", "None", "must be str"),
        ({"model": 3}, "model", "3", "must be str"),
        ({"data": "digits"}, "data", "'digits'", "must be cnnjax.data.dataset.DataConfig"),
        ({"steps": 10.5}, "steps", "10.5", "whole number"),
        ({"steps": "10"}, "steps", "'10'", "whole number"),
        ({"batch_size": True}, "batch_size", "True", "whole number"),
        ({"nesterov": "yes"}, "nesterov", "'yes'", "must be bool"),
        ({"augment": "flip"}, "augment", "'flip'", "must be tuple[str, ...]"),
        ({"milestones": 0.5}, "milestones", "0.5", "must be tuple[float, ...]"),
        ({"milestones": ("a",)}, "milestones", "('a',)", "must be tuple[float, ...]"),
        ({"model_fields": ("hidden",)}, "model_fields", "('hidden',)", "must be tuple[tuple"),
        ({"model.hidden": 8}, "model.hidden", "8", "must be of type tuple"),
        ({"model.hidden": ("a",)}, "hidden", "('a',)", "positive whole numbers"),
        ({"model.num_classes": "10"}, "model.num_classes", "'10'", "must be of type int"),
        ({"model.dtype": "bfloat16"}, "model.dtype", "bfloat16", "Use precision"),
        ({"learning_rate": "fast"}, "learning_rate", "'fast'", "must be a number"),
        ({"learning_rate": True}, "learning_rate", "True", "must be a number"),
        ({"l2": None}, "l2", "None", "must be a number"),
        ({"train_size": 100.0}, "train_size", "100.0", "whole number"),
        # Out of range
        ({"steps": 0}, "steps", "0", "at least 1"),
        ({"batch_size": -8}, "batch_size", "-8", "at least 1"),
        ({"train_examples": 0}, "train_examples", "0", "at least 1"),
        ({"patience": 0}, "patience", "0", "at least 1"),
        ({"evaluate_every": -1}, "evaluate_every", "-1", "at least 0"),
        ({"learning_rate": -0.1}, "learning_rate", "-0.1", "at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate", "nan", "at least 0"),
        ({"learning_rate": float("inf")}, "learning_rate", "inf", "finite"),
        ({"momentum": 1.0}, "momentum", "1.0", "from 0.0 to 0.9999"),
        ({"weight_decay": -1e-4}, "weight_decay", "-0.0001", "at least 0"),
        ({"dropout": 1}, "dropout", "1", "from 0.0 to 0.999"),
        ({"label_smoothing": 1.5}, "label_smoothing", "1.5", "from 0.0 to 1.0"),
        ({"label_noise": -0.5}, "label_noise", "-0.5", "from 0.0 to 1.0"),
        ({"flip": 2}, "flip", "2", "from 0.0 to 1.0"),
        ({"warmup": 5}, "warmup", "5", "from 0.0 to 1.0"),
        ({"rate_drop": 10}, "rate_drop", "10", "from 0.0 to 1.0"),
        ({"model.hidden": (8, 0)}, "hidden", "(8, 0)", "positive"),
        ({"model": "resnet20_cifar", "model.width": 0}, "width", "0", "at least 1"),
        ({"model": "resnet20_cifar", "model.depth": 21}, "depth", "21", "6n + 2"),
        # What does not fit together
        ({"steps": 10, "evaluate_every": 11}, "evaluate_every", "11", "at most 10"),
        ({"milestones": (0.7, 0.5)}, "milestones", "(0.7, 0.5)", "must rise"),
        ({"milestones": (0.5, 1.0)}, "milestones", "(0.5, 1.0)", "between 0 and 1"),
        ({"milestones": (0.5, 0.5)}, "milestones", "(0.5, 0.5)", "must rise"),
        ({"augment": ("flip", "crop", "flip")}, "augment", "flip,crop,flip", "each once"),
        ({"train_size": 1025}, "train_size", "1025", "at most 1024"),
        ({"model": "lenet5"}, "lenet5", "8x8", "--data.image_size=16"),
        ({"model": "lenet5_classic"}, "lenet5_classic", "8x8", "--data.image_size=32"),
        ({"model": "resnet8_cifar", "model.norm": "group", "model.norm_groups": 5}, "5 groups", "16 channels", "Use"),
        ({"model.num_classes": 7}, "classes", "7", "--model.num_classes=10"),
        ({"model": "lenet5_classic", "model.num_classes": 7}, "num_classes", "7", "Use lenet5"),
        ({"model": Linear(7)}, "(N, 7)", "10 classes", "--model.num_classes=10"),
        ({"model": Linear(), "precision": "bfloat16"}, "precision", "bfloat16", "a field dtype"),
        ({"model": Linear(), "frozen": ("Dense",)}, "frozen", "Dense", "leaves nothing to train"),
        ({"model": Linear(), "keep_weights": True}, "keep_weights", "Linear", "by its name"),
        ({"weights": "nowhere.pth"}, "weights", "nowhere.pth", "path of a file"),
        ({"model": Broken()}, "Broken", "(8, 8, 1)", "fails on images"),
        ({"model": Demanding()}, "Demanding", "temperature", "Give the others defaults"),
    ],
)  # fmt: skip
def test_a_bad_configuration_names_key_value_and_remedy(unchecked, changes, name, value, remedy):
    spec, hyper = run(changes)
    with pytest.raises(UsageError) as error:
        validate(spec, [Hyper(), hyper], DIGITS)
    for part in (name, value, remedy):
        assert part in str(error.value)


def test_the_largest_image_that_a_net_takes():
    with pytest.raises(UsageError, match="lenet5_classic takes images of 32x32 pixels, not 33x33"):
        validate(Spec(model="lenet5_classic"), [Hyper()], describe(DataConfig(image_size=33)))
    validate(Spec(model="lenet5_classic"), [Hyper()], describe(DataConfig(image_size=32)))


@pytest.mark.parametrize(
    ("changes", "info"),
    [
        ({}, DIGITS),
        ({"model": Linear()}, DIGITS),
        ({"model": MLP(), "precision": "bfloat16"}, DIGITS),
        ({"model": "resnet8_cifar", "model.width": 12}, DIGITS),
        ({"steps": 1, "batch_size": 1, "evaluate_every": 1, "learning_rate": 0, "warmup": 1}, DIGITS),
        ({"augment": ("crop", "flip"), "train_size": 1024, "label_noise": 1.0}, SHAPES),
        ({"momentum": 0, "l2": 1}, SHAPES),
        ({"loss": "sigmoid", "probes": ("shifts", "crops"), "keep_outputs": True}, DIGITS),
        ({"model": "resnet8_cifar", "probes": ("responses", "batch_statistics")}, DIGITS),
    ],
)
def test_a_good_configuration_passes(changes, info):
    spec, hyper = run(changes)
    validate(spec, [hyper], info)


def test_a_model_has_the_classes_and_the_precision_of_its_run():
    built = build_model(Spec(model="resnet8_cifar", model_fields=(("width", 4),), precision="bfloat16"), 7)
    assert (built.num_classes, built.width, built.dtype) == (7, 4, jnp.bfloat16)
    own = build_model(Spec(model=MLP(hidden=(3,), num_classes=7), model_fields=(("hidden", (5,)),)), 10)
    assert own == MLP(hidden=(5,), num_classes=7)
    variables = build_task(Spec(model="mlp"), SHAPES).init(rng.key(0, "init"), {"images": jnp.zeros((1, 4, 4, 1))})
    assert variables["params"]["head"]["bias"].shape == (SHAPES.num_classes,)


class Activated(nn.Module):
    """A network with a function among its fields."""

    activation: Any


def test_json_and_digest_depend_on_the_value_alone():
    made = Spec(model=MLP(hidden=(3,)), data=DataConfig(channels=3))
    shown = to_json(made)
    assert shown["model"]["module"] == "cnnjax.models.mlp:MLP"
    assert shown["model"]["hidden"] == [3]
    assert shown["data"]["channels"] == 3
    assert shown["milestones"] == [0.5, 0.75]
    assert digest(made) == digest(Spec(model=MLP(hidden=(3,)), data=DataConfig(channels=3)))
    assert len({digest(v) for v in (made, Spec(), Hyper(), Hyper(l2=1e-4), Spec(model=MLP(hidden=(4,))))}) == 5
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(Spec()) == digest(Spec())
    assert len(digest(Spec())) == 16


def test_functions_are_named_by_their_place_and_need_one():
    assert to_json(Spec(model=Activated(nn.relu)))["model"]["activation"].endswith(":relu")
    assert digest(Activated(nn.relu)) != digest(Activated(nn.tanh))
    assert to_json(MLP())["dtype"] == "jax.numpy:float32"
    for nameless in (lambda x: x, partial(nn.leaky_relu, negative_slope=0.2)):
        with pytest.raises(UsageError, match="has no name that tells its runs from others"):
            digest(Activated(nameless))


def test_what_is_defined_in_the_program_itself_is_named_by_its_module(monkeypatch):
    program = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    spec = Spec(model=Linear())
    expected = to_json(spec)
    program.__spec__ = importlib.machinery.ModuleSpec(Linear.__module__, None)
    for name in ("__main__", "__mp_main__"):  # as python -m calls it, and as its worker processes do
        monkeypatch.setattr(Linear, "__module__", name)
        assert to_json(spec) == expected
    program.__spec__ = None
    assert to_json(spec)["model"]["module"] == "__main__:Linear"


def test_every_field_changes_the_digest():
    other = {"model": "mlp", "model_fields": (("width", 2),), "data": DataConfig("shapes"), "augment": ("flip",),
             "task": "reconstruct", "optimizer": "adam", "nesterov": True, "schedule": "step",
             "warmup_form": "constant", "precision": "bfloat16", "decayed": "all", "milestones": (0.1,),
             "loss": "sigmoid", "probes": ("shifts",), "keep_outputs": True, "frozen": ("stem",),
             "weights": __file__, "fresh_head": True, "keep_weights": True, "cache_features": False}  # fmt: skip
    for config in (Spec(), Hyper()):
        for field in dataclasses.fields(config):
            value = other[field.name] if field.name in other else getattr(config, field.name) + 1
            assert digest(dataclasses.replace(config, **{field.name: value})) != digest(config), field.name


def test_equal_specs_are_one_key():
    assert len({Spec(), Spec(), Spec(model=MLP()), Spec(model=MLP())}) == 2
