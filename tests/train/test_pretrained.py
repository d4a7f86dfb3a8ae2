import dataclasses
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnjax import models, tree, weights
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.models.mlp import MLP
from cnnjax.train import pretrained
from cnnjax.train.spec import Hyper, Spec, build_model, digest, normalization, to_json, validate, variable_shapes
from cnnjax.typing import UsageError
from cnnjax.weights import Preprocessing
from cnnjax.weights.saved import save

DIGITS = describe(DataConfig())  # 8x8x1, 10 classes
HIDDEN = (("hidden", (8,)), ("norm", "batch"))
SPEC = Spec(model="mlp", model_fields=HIDDEN, steps=3, batch_size=16)


def variables(classes=10, shape=(8, 8, 1)):
    """Of the network, every number another one."""
    shapes = models.parameter_shapes(MLP(**dict(HIDDEN), num_classes=classes), shape)
    rng = np.random.default_rng(classes)
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), shapes)


@pytest.fixture
def saved(tmp_path):
    """``saved(name, ...)``: the path of a new file of the network's variables."""

    def make(name="weights", classes=10, shape=(8, 8, 1), preprocessing=None):
        path, fields = tmp_path / f"{name}.safetensors", {"num_classes": classes, **dict(HIDDEN)}
        save(path, variables(classes, shape), "mlp", preprocessing=preprocessing, image_shape=shape, **fields)
        return str(path)

    return make


def given(path, **changes):
    spec = dataclasses.replace(SPEC, weights=path, **changes)
    return pretrained.read(path, build_model(spec, 10), variable_shapes(spec, DIGITS), spec.fresh_head)


def test_everything_is_read_by_name(saved):
    found, expected = given(saved()), variables()
    assert list(found) == tree.names(expected)
    for array, leaf in zip(found.values(), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(array, leaf)
    assert given(saved(), frozen=("hidden1",)).keys() == found.keys()


def test_the_head_is_left_out_where_it_has_other_classes_or_is_to_be_fresh(saved):
    body = {name for name in tree.names(variables()) if "head" not in name}
    assert given(saved("few", classes=7)).keys() == body
    assert given(saved(), fresh_head=True).keys() == body
    assert given(saved(), fresh_head=True, frozen=("hidden1",)).keys() == body


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_fields": (("hidden", (9,)), ("norm", "batch"))}, ["(64, 9)", "(64, 8)"]),
        ({"model_fields": (("hidden", (8,)),)}, ["batch_stats/norm1/mean"]),
        ({"model_fields": (("hidden", (8, 8)), ("norm", "batch"))}, ["dense2"]),
        ({"model": "connectivity_conv", "model_fields": ()}, ["layer1"]),
        ({"data": DataConfig(image_size=16)}, ["params/dense1/kernel", "(256, 8)", "(64, 8)", "size and channels"]),
        ({"data": DataConfig(channels=3)}, ["params/dense1/kernel", "(192, 8)", "size and channels"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(saved, changes, parts):
    spec = dataclasses.replace(SPEC, weights=saved(), **changes)
    with pytest.raises(UsageError) as error:
        validate(spec, [Hyper()], describe(spec.data))
    for part in ("weights.safetensors", *parts):
        assert part in str(error.value)


def test_weights_that_fit_pass(saved):
    for changes in ({}, {"frozen": ("hidden1",)}, {"fresh_head": True}, {"precision": "bfloat16"}):
        validate(dataclasses.replace(SPEC, weights=saved(), **changes), [Hyper()], DIGITS)


def test_our_own_file_says_how_its_images_were_normalised_or_nothing_does(saved):
    steps = Preprocessing(8, 8, (0.25,), (0.5,))
    for path, expected in ((saved("one", preprocessing=steps), ((0.25,), (0.5,))), (saved("other"), None)):
        assert normalization(dataclasses.replace(SPEC, weights=path), DIGITS) == expected
    assert normalization(SPEC, DIGITS) is None


@pytest.fixture(scope="module")
def of_torchvision(tmp_path_factory):
    """A file of another library, of a network of width 4."""
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.pth"
    model = models.create("resnet18", width=4, num_classes=5)
    shapes = models.parameter_shapes(model, (32, 32, 3))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    save_file(weights.export(ones, model, "torchvision"), path)
    return str(path)


@pytest.mark.slow
def test_of_other_libraries_files_it_is_known_by_the_networks_name(of_torchvision, monkeypatch):
    spec = dataclasses.replace(SPEC, model="resnet18", model_fields=(("width", 4),), weights=of_torchvision)
    info = dataclasses.replace(DIGITS, image_shape=(32, 32, 3))
    assert normalization(spec, info) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    nameless = dataclasses.replace(spec, model=models.create("resnet18", width=4, num_classes=10), model_fields=())
    with pytest.raises(UsageError, match=r"resnet18\.pth are of another library.*by its name.*not ResNet itself"):
        validate(nameless, [Hyper()], info)

    def unknown(*args):
        raise UsageError("timm says it in a file that is not there. Give it as weights.Preprocessing(...).")

    monkeypatch.setattr(pretrained, "preprocessing_of", unknown)
    with pytest.raises(UsageError, match=r"resnet18\.pth: timm says it in .* not there\. Make .* cnnjax convert"):
        validate(spec, [Hyper()], info)


def test_a_missing_file_is_named_before_anything_is_read(tmp_path):
    missing, empty = str(tmp_path / "none.safetensors"), str(tmp_path)
    for path, message in ((missing, f"weights={missing} cannot be read"), (empty, f"{empty} has no file of weights")):
        spec = dataclasses.replace(SPEC, weights=path)
        for use in (lambda spec=spec: digest(spec), lambda spec=spec: validate(spec, [Hyper()], DIGITS)):
            with pytest.raises(UsageError, match=message):
                use()


def test_a_file_is_known_by_its_content_and_not_by_its_place(saved, tmp_path):
    path = saved()
    spec = dataclasses.replace(SPEC, weights=path)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere")
    assert path not in str(to_json(spec))
    assert to_json(spec)["weights"].startswith("sha256:")
    before = digest(spec)
    assert digest(dataclasses.replace(spec, weights=str(moved))) == before != digest(SPEC)
    content = bytearray((tmp_path / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert digest(spec) != before
    assert digest({"spec": spec}) != digest({"spec": dataclasses.replace(spec, weights=str(moved))})
