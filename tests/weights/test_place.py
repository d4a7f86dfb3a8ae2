"""Folders, weights in several files, and NumPy's files."""

import json
import shutil
import struct

import numpy as np
import pytest

from cnnjax import tree, weights
from cnnjax.train import pretrained
from cnnjax.typing import UsageError
from cnnjax.weights import npz_file, place
from tests.fixtures.torch_files import safetensors, state, zipped
from tests.fixtures.toy import Toy, state_dict


@pytest.fixture
def expected(toy):
    return tree.digest(weights.convert(state_dict(), toy))


def sharded(folder, name="model.safetensors", write=safetensors, **changes):
    """The toy's tensors in two files, and their index, some of whose entries are changed; returns the index."""
    tensors, keys = state_dict(), list(state_dict())
    parts = {f"part-{n}-{name}": keys[n::2] for n in range(2)}
    for file, part in parts.items():
        write(folder / file, {key: tensors[key] for key in part})
    weight_map = {key: file for file, part in parts.items() for key in part} | changes
    weight_map = {key: file for key, file in weight_map.items() if file is not None}
    path = folder / f"{name}.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def torch_zipped(path, tensors):
    return zipped(path, state(tensors))


# Folders


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "mine.pth", "weights.npz"])
def test_a_folder_stands_for_the_weights_in_it(tmp_path, expected, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("words")
    if name.endswith(".npz"):
        np.savez(tmp_path / name, **state_dict())
    else:
        (safetensors if name.endswith("safetensors") else torch_zipped)(tmp_path / name, state_dict())
    assert place.local_path(tmp_path) == tmp_path / name
    assert tree.digest(weights.load(tmp_path, "toy")) == expected
    assert tree.digest(weights.load(str(tmp_path), "toy")) == expected


def test_the_hubs_names_come_first_and_other_files_must_be_alone(tmp_path, expected):
    safetensors(tmp_path / "model.safetensors", state_dict())
    torch_zipped(tmp_path / "pytorch_model.bin", state_dict(seed=1))
    torch_zipped(tmp_path / "a.pth", state_dict(seed=2))
    assert tree.digest(weights.load(tmp_path, "toy")) == expected
    (tmp_path / "model.safetensors").unlink()
    assert place.local_path(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "b.pth")
    with pytest.raises(UsageError, match=r"has several files of weights \(a\.pth; b\.pth\)\. Give the path of one"):
        weights.load(tmp_path, "toy")


def test_a_folder_of_our_own(tmp_path, toy, expected):
    weights.save(tmp_path / "a.safetensors", weights.convert(state_dict(), toy), "toy")
    assert tree.digest(weights.load(tmp_path, "toy")) == expected
    assert tree.digest(weights.restore(tmp_path).variables) == expected


def test_a_folder_without_weights(tmp_path, toy):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub.pth").mkdir()
    with pytest.raises(UsageError, match=r"has no file of weights\. Give the path of one that ends with \.safetensors"):
        weights.load(tmp_path, "toy")


# Several files


@pytest.mark.parametrize(
    ("name", "write"), [("model.safetensors", safetensors), ("pytorch_model.bin", torch_zipped)], ids=["own", "torch"]
)
def test_weights_in_several_files(tmp_path, expected, name, write):
    path = sharded(tmp_path, name, write)
    assert tree.digest(weights.load(path, "toy")) == expected
    assert tree.digest(weights.load(tmp_path, "toy")) == expected
    assert len(place.files(tmp_path)) == 3


def test_another_content_of_any_of_several_files_is_another_digest(tmp_path):
    found = set()
    for changed in (None, "part-0-model.safetensors", "part-1-model.safetensors", "model.safetensors.index.json"):
        folder = tmp_path / f"{changed}"
        folder.mkdir()
        path = sharded(folder)
        if changed:
            (folder / changed).write_bytes((folder / changed).read_bytes() + b" ")
        found.add(pretrained.sha256(str(path)))
    assert len(found) == 4
    assert {len(digest) for digest in found} == {len("sha256:") + 64}


@pytest.mark.parametrize(
    "file",
    [
        "../outside.safetensors", "/etc/passwd", "sub/inside.safetensors", "..", ".", "", "a\\b.safetensors",
        "C:evil", "a\0b", "model.safetensors.index.json", "./part-0-model.safetensors",
    ],
)  # fmt: skip
def test_an_index_that_points_out_of_its_folder(tmp_path, toy, file):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub").mkdir()
    safetensors(tmp_path / "outside.safetensors", {"features.conv.weight": state_dict()["features.conv.weight"]})
    shutil.copy(tmp_path / "outside.safetensors", tmp_path / "in" / "sub" / "inside.safetensors")
    path = sharded(tmp_path / "in", **{"features.conv.weight": file})
    with pytest.raises(UsageError, match=r"index\.json lists .*, which is no name of a file of weights beside it"):
        weights.load(path, "toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.conv.weight": "gone.safetensors"}, r"lists files that are not beside it: gone\.safetensors"),
        ({"more.weight": "part-0-model.safetensors"}, r"part-0-.* does not hold what .* says\. Missing: more\.weight"),
        ({"features.conv.weight": None}, r"does not hold what .*\. Not in the index: features\.conv\.weight"),
        ({"features.conv.weight": "part-1-model.safetensors"}, r"part-0-.* Not in the index: features\.conv\.weight"),
    ],
)
def test_an_index_that_lies(tmp_path, toy, changes, message):
    with pytest.raises(UsageError, match=message):
        weights.load(sharded(tmp_path, **changes), "toy")


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000,
        '{"weight_map": {"a": "part-0-model.safetensors", "a": "part-1-model.safetensors"}}', b"\xff\xfe{}",
    ],
)  # fmt: skip
def test_what_is_no_index(tmp_path, toy, content):
    path = sharded(tmp_path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=r"model\.safetensors\.index\.json is no index of weights"):
        weights.load(path, "toy")
    with pytest.raises(UsageError, match=r"There is no file .*other\.index\.json"):
        weights.load(tmp_path / "other.index.json", "toy")


# NumPy's files


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_of_numpy(tmp_path, write, toy, expected):
    tensors = {
        **state_dict(),
        "dense/kernel:0": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "none": np.zeros((0, 2)),
    }
    write(tmp_path / "a.npz", **tensors)
    found = npz_file.read(tmp_path / "a.npz")
    assert list(found) == list(tensors)
    for key, array in tensors.items():
        np.testing.assert_array_equal(found[key], array)
        assert not found[key].flags.writeable or not array.size
    np.savez(tmp_path / "a.npz", **state_dict())
    assert tree.digest(weights.load(tmp_path / "a.npz", "toy")) == expected


def test_every_shorter_file_of_numpy_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(3, np.float32))
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.npz"):
            weights.read(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "of type object; weights are numbers"),
        ("{'descr': '<U2', 'fortran_order': False, 'shape': (1,), }", "of type <U2; weights are numbers"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2**40,), }", "is no array of NumPy"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }", "has .* bytes for an array"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "has .* bytes for an array"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': __import__('os')}", "is no array of NumPy"),
        ("__import__('os').mkdir('ran')", "is no array of NumPy"),
    ],
)
def test_headers_of_numpy_that_lie(tmp_path, header, message):
    import zipfile

    text = header.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(4))
    with pytest.raises(UsageError, match=message):
        npz_file.read(tmp_path / "a.npz")
    assert Toy()  # the network plays no part
