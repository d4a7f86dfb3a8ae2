import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnjax import models, tree, weights
from cnnjax.typing import UsageError
from tests.fixtures.torch_files import legacy, safetensors, state, zipped
from tests.fixtures.toy import Toy, state_dict


@pytest.fixture
def expected(toy):
    return tree.digest(weights.convert(state_dict(), toy))


@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.safetensors", "checkpoint"])
def test_every_kind_of_file_is_known_by_its_content(tmp_path, expected, name):
    for write in (
        lambda path: zipped(path, state(state_dict())),
        lambda path: legacy(path, state(state_dict())),
        lambda path: safetensors(path, state_dict()),
    ):
        found = weights.load(write(tmp_path / name), "toy")
        assert tree.digest(found) == expected


def test_a_network_in_place_of_its_name(tmp_path, toy, expected):
    path = safetensors(tmp_path / "a.safetensors", state_dict())
    assert tree.digest(weights.load(path, toy)) == expected
    assert tree.digest(weights.load(str(path), toy, source="torchvision")) == expected
    with pytest.raises(UsageError, match=r"Fields \(num_classes\) go with a name"):
        weights.load(path, toy, num_classes=3)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.", "backbone.", "net."]
)
def test_prefixes_of_wrapped_networks_are_taken_off(tmp_path, expected, prefix):
    tensors = {prefix + key: value for key, value in state_dict().items()}
    assert tree.digest(weights.load(zipped(tmp_path / "a.pth", {"state_dict": state(tensors)}), "toy")) == expected


def test_the_count_beside_averaged_weights_is_no_tensor_of_the_network(tmp_path, expected):
    tensors = {"n_averaged": np.array(3), **{f"module.{key}": value for key, value in state_dict().items()}}
    assert tree.digest(weights.load(zipped(tmp_path / "a.pth", {"model_ema": state(tensors)}), "toy")) == expected


@pytest.mark.parametrize("surplus", range(8))
def test_safetensors_are_known_whatever_their_length(tmp_path, expected, surplus):
    """The first byte is the header's length modulo 256, in steps of 8: some begin as a pickle does, with 128."""
    lengths = set()
    for size in range(surplus * 32, surplus * 32 + 32, 8):
        path = tmp_path / f"{size}.safetensors"
        save_file(state_dict(), path, metadata={"x": "y" * size})
        lengths.add(path.read_bytes()[0])
        assert tree.digest(weights.load(path, "toy")) == expected
    assert len(lengths) == 4


def test_a_prefix_of_some_keys_stays(tmp_path, toy):
    tensors = {"module.features.extra": np.zeros(1, np.float32), **state_dict()}
    with pytest.raises(UsageError, match=r"Not expected: module\.features\.extra"):
        weights.load(safetensors(tmp_path / "a.safetensors", tensors), "toy")


def test_other_classes_are_asked_for_or_left_out(tmp_path, toy):
    path = safetensors(tmp_path / "a.safetensors", state_dict(classes=9))
    with pytest.raises(UsageError, match=r"a\.safetensors has 9 classes and this network 5"):
        weights.load(path, "toy")
    assert weights.load(path, "toy", num_classes=9)["params"]["head"]["bias"].shape == (9,)
    assert "head" not in weights.load(path, "toy", head="new")["params"]


def test_the_name_that_a_file_fits_is_suggested(tmp_path, toy):
    path = safetensors(tmp_path / "a.safetensors", state_dict(width=7))
    with pytest.raises(UsageError, match=r"a\.safetensors does not fit this Toy; it fits toy_wide\. "):
        weights.load(path, "toy")


def test_bfloat16_and_empty_tensors_of_safetensors(tmp_path, toy):
    tensors = {key: value.astype(jnp.bfloat16) for key, value in state_dict().items()}
    path = safetensors(tmp_path / "a.safetensors", {**tensors, "extra.none": np.zeros((0, 3), np.int16)})
    assert weights.read(path)["extra.none"].shape == (0, 3)
    bias = weights.load(path, "toy")["params"]["head"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, tensors["classifier.2.bias"].astype(np.float32))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_file_of_weights_is_named(tmp_path, toy, name):
    with pytest.raises(UsageError, match=f"There is no file .*{name}"):
        weights.load(tmp_path / name, "toy")
    with pytest.raises(UsageError, match=r"The folder .* has no file of weights"):
        weights.load(tmp_path, "toy")
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(UsageError, match=f"{name} is "):
        weights.load(tmp_path / name, "toy")


def test_an_unknown_network_is_refused_before_the_file_is_read(tmp_path):
    with pytest.raises(UsageError, match="Unknown model 'resnet5O'"):
        weights.load(tmp_path / "none.pth", "resnet5O")


def test_every_shorter_safetensors_file_is_refused(tmp_path):
    whole = safetensors(tmp_path / "a.safetensors", {"w": np.ones(5, np.float32)}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.safetensors"):
            weights.read(tmp_path / "cut.safetensors")


def test_without_the_package(monkeypatch, toy):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"hf: addresses need huggingface_hub: pip install 'cnnjax\[hf\]'"):
        weights.load("hf:timm/toy", "toy")


def test_a_saved_toy_is_loaded_like_any_other_file(tmp_path, toy, expected):
    variables = weights.convert(state_dict(), toy)
    weights.save(tmp_path / "a.safetensors", variables, "toy")
    assert tree.digest(weights.load(tmp_path / "a.safetensors", "toy")) == expected
    assert models.create("toy") == Toy()
