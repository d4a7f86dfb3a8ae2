import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import tree, weights
from cnnjax.typing import UsageError
from tests.fixtures.networks import filled
from tests.fixtures.toy import Toy, state_dict

STEPS = weights.Preprocessing(32, 28, (0.5,), (0.25,), "bicubic", squash=True)
CLASSES = tuple("abcde")


@pytest.fixture
def variables(toy):
    return weights.convert(state_dict(), toy)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "a.safetensors"


def test_a_round_trip_to_the_bit(path, variables):
    bias = variables["params"]["head"]["bias"]
    bias[:4] = [-0.0, np.nan, np.inf, 1e-45]
    weights.save(path, jax.tree.map(jnp.asarray, variables), "toy", preprocessing=STEPS, class_names=CLASSES)
    saved = weights.restore(path)
    assert tree.digest(saved.variables) == tree.digest(variables)
    assert (saved.name, saved.fields, saved.image_shape) == ("toy", {}, (8, 8, 3))
    assert (saved.preprocessing, saved.class_names, saved.model) == (STEPS, CLASSES, Toy())
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.json", "a.safetensors"]
    assert jax.tree.structure(saved.variables) == jax.tree.structure(variables)


def test_what_was_not_given_is_absent(path, variables):
    weights.save(path, variables, "toy")
    saved = weights.restore(path)
    assert (saved.preprocessing, saved.class_names) == (None, ())
    assert tree.digest(weights.load(path, "toy")) == tree.digest(variables)


@pytest.mark.slow
def test_the_fields_of_the_network_are_restored(path):
    fields = {"depth": 8, "width": 4, "dtype": jnp.bfloat16, "num_classes": 3}
    from cnnjax import models

    model = models.create("resnet8_cifar", **fields)
    weights.save(path, filled(model, (12, 12, 1)), "resnet8_cifar", image_shape=(12, 12, 1), **fields)
    saved = weights.restore(path)
    assert saved.model == model
    assert saved.image_shape == (12, 12, 1)
    stages = {"stages": ((4, 1), (6, 2)), "dense": (8,)}
    variables = filled(models.create("vgg_small", **stages), (32, 32, 3))
    weights.save(path.with_name("b.safetensors"), variables, "vgg_small", **stages)
    assert weights.restore(path.with_name("b.safetensors")).fields == stages


def test_a_new_head_is_left_out(path, variables):
    weights.save(path, variables, "toy")
    assert "head" not in weights.load(path, "toy", num_classes=7, head="new")["params"]
    with pytest.raises(UsageError, match=r"a.safetensors \(saved as toy\) has 5 classes and this network 7"):
        weights.load(path, "toy", num_classes=7)
    with pytest.raises(UsageError, match=r"\(saved as toy\) does not fit this Toy.*params/dense1/kernel"):
        weights.load(path, "toy_wide")


def test_every_flipped_byte_is_found(path, variables):
    weights.save(path, variables, "toy", preprocessing=STEPS)
    for file in (path, path.with_suffix(".json")):
        whole = file.read_bytes()
        for position in np.linspace(0, len(whole) - 1, 60, dtype=int):
            content = bytearray(whole)
            content[position] ^= 4
            file.write_bytes(content)
            with pytest.raises(UsageError, match=r"a\.(safetensors|json)"):
                weights.restore(path)
        file.write_bytes(whole)
    weights.restore(path)


def test_deleted_emptied_halved_and_swapped_files_are_found(path, variables, tmp_path):
    other = tmp_path / "b.safetensors"
    weights.save(path, variables, "toy")
    weights.save(other, weights.convert(state_dict(seed=1), Toy()), "toy")
    for file in (path, path.with_suffix(".json")):
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(UsageError, match=r"a\.(safetensors|json)"):
            weights.restore(path)
        swapped = other.with_suffix(file.suffix).read_bytes()
        for content in (b"", whole[: len(whole) // 2], swapped):
            file.write_bytes(content)
            with pytest.raises(UsageError, match=r"a\.(safetensors|json)"):
                weights.restore(path)
            with pytest.raises(UsageError, match=r"a\.(safetensors|json)"):
                weights.load(path, "toy")
        file.write_bytes(whole)
    weights.restore(path)


def test_a_changed_number_in_the_description_is_found(path, variables):
    weights.save(path, variables, "toy", preprocessing=STEPS)
    beside = path.with_suffix(".json")
    described = json.loads(beside.read_text())
    described["preprocessing"]["mean"] = [0.4]
    beside.write_text(json.dumps(described))
    with pytest.raises(UsageError, match=r"a\.json was changed since it was written"):
        weights.restore(path)


def test_a_write_that_fails_leaves_the_old_files(path, variables, monkeypatch):
    weights.save(path, variables, "toy")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        weights.save(path, weights.convert(state_dict(seed=1), Toy()), "toy")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_files_of_something_else_are_not_overwritten(path, variables, toy):
    weights.save(path, variables, "toy")
    weights.save(path, variables, "toy", num_classes=5)  # the same model
    wide = filled(Toy(width=7), (8, 8, 3))
    with pytest.raises(
        UsageError, match=r"a\.safetensors or a\.json holds the weights of toy. Give another path, or over"
    ):
        weights.save(path, wide, "toy_wide")
    weights.save(path, wide, "toy_wide", overwrite=True)
    assert weights.restore(path).name == "toy_wide"
    path.with_name("b.json").write_text("{}")
    with pytest.raises(UsageError, match="holds something else"):
        weights.save(path.with_name("b.safetensors"), variables, "toy")
    assert path.with_name("b.json").read_text() == "{}"


def test_other_peoples_safetensors_are_not_restored(path, variables, toy):
    from safetensors.numpy import save_file

    path.parent.mkdir()
    save_file(state_dict(), path)
    with pytest.raises(UsageError, match=r"is not a file of weights\.save"):
        weights.restore(path)
    weights.load(path, "toy")
    shutil.copy(path, path.with_name("c.safetensors"))
    with pytest.raises(UsageError, match=r"There is no file|is not a file"):
        weights.restore(path.with_name("none.safetensors"))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a.pth", {}, r"ends with \.safetensors, not to .*a\.pth"),
        ("a.safetensors", {"class_names": ("a", "b")}, "2 class names do not fit num_classes=5 of toy"),
        ("a.safetensors", {"width": 7}, r"the tree of variables does not fit this Toy.*dense1/kernel \(24, 7\)"),
        ("a.safetensors", {"widht": 7}, "Unknown field of model toy 'widht'"),
        ("a.safetensors", {"image_shape": (8, 8, 1)}, r"stem/conv/kernel \(3, 3, 1, 4\)"),
    ],
)
def test_what_does_not_belong_together_is_not_written(tmp_path, variables, name, changes, message):
    with pytest.raises(UsageError, match=message):
        weights.save(tmp_path / name, variables, "toy", **changes)
    assert not list(tmp_path.iterdir())


def test_arrays_of_another_type_are_not_written(path, variables):
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), variables)
    with pytest.raises(UsageError, match="is of type float16, not float32"):
        weights.save(path, half, "toy")
