import io
import zipfile
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.typing import UsageError
from cnnjax.weights import torch_file
from tests.fixtures.torch_files import Size, Stored, Tensor, legacy, pickled, state, tensor, zipped

WRITERS = pytest.mark.parametrize("write", [zipped, legacy], ids=["zip", "legacy"])
BASE = np.arange(12, dtype=np.float32)


@WRITERS
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    "dtype",
    ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"],
)
def test_every_type_is_read_in_both_orders_of_bytes(tmp_path, write, order, dtype):
    kind = jnp.bfloat16 if dtype == "bfloat16" else dtype
    array = np.array([[1, 0, 3], [1, 5, 100]], kind)
    if dtype == "bfloat16" and order == "big":
        array = array.view(np.uint16)  # NumPy swaps the bytes only of its own types
        stored = Stored(array, dtype="bfloat16")
        found = torch_file.read(write(tmp_path / "a.pth", {"w": Tensor(stored, (2, 3))}, order=order))["w"]
        np.testing.assert_array_equal(found.view(np.uint16), array)
        return
    found = torch_file.read(write(tmp_path / "a.pth", {"w": tensor(array, "7")}, order=order))
    assert list(found) == ["w"]
    assert found["w"].dtype == array.dtype
    np.testing.assert_array_equal(found["w"], array)


@WRITERS
def test_views_of_one_storage(tmp_path, write):
    shared = Stored(BASE)
    tensors = {
        "whole": Tensor(shared, (3, 4)),
        "transposed": Tensor(shared, (4, 3), (1, 4)),
        "part": Tensor(shared, (2, 2), (4, 2), offset=4),
        "row": Tensor(shared, (4,), (1,), offset=8, parameter=True),
        "scalar": Tensor(shared, (), (), offset=5),
        "empty": Tensor(shared, (0, 3), (3, 1)),
    }
    found = torch_file.read(write(tmp_path / "a.pth", tensors))
    matrix = BASE.reshape(3, 4)
    expected = {
        "whole": matrix, "transposed": matrix.T, "part": matrix[1:, ::2], "row": matrix[2], "scalar": 5,
        "empty": np.zeros((0, 3)),
    }  # fmt: skip
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == np.float32


@WRITERS
@pytest.mark.parametrize("container", [*torch_file.CONTAINERS, None])
def test_containers_are_opened(tmp_path, write, container):
    tensors = state({"w": BASE})
    objects = {"epoch": 3, "rate": 0.1, "shape": Size(1, 2), "optimizer": [1, None, (True, "x")], container: tensors}
    found = torch_file.read(write(tmp_path / "a.pth", objects if container else tensors))
    np.testing.assert_array_equal(found["w"], BASE)


@WRITERS
def test_a_tensor_beside_the_container_does_not_hide_it(tmp_path, write):
    objects = {"best": tensor(BASE[:1], "9"), "state_dict": {"model": {"epoch": 1}, **state({"w": BASE})}}
    assert list(torch_file.read(write(tmp_path / "a.pth", objects))) == ["w"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickles_with_tensors(tmp_path, protocol):
    found = torch_file.read(zipped(tmp_path / "a.pt", state({"w": BASE, "b": BASE[:2]}), protocol=protocol))
    np.testing.assert_array_equal(found["b"], BASE[:2])


def test_deflated_members_are_read(tmp_path):
    found = torch_file.read(zipped(tmp_path / "a.pt", state({"w": BASE}), deflate=True))
    np.testing.assert_array_equal(found["w"], BASE)


def test_stored_tensors_are_views_of_the_mapped_file(tmp_path):
    found = torch_file.read(zipped(tmp_path / "a.pt", state({"w": BASE})))["w"]
    assert not found.flags.owndata
    assert not found.flags.writeable


@WRITERS
@pytest.mark.slow
def test_every_shorter_file_is_refused(tmp_path, write):
    whole = write(tmp_path / "a.pth", state({"w": BASE, "v": BASE[:5]})).read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.pth"):
            torch_file.read(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file .*a.pth"),
        (b"", "a.pth is empty"),
        (b"not found <html>", "a.pth is no file of torch.save: it starts with b'not '"),
        (b"PK\x03\x04 but nothing more", "a.pth is truncated or damaged: its end is missing"),
        (b"\x80\x02K\x01.", "a.pth is a pickle, but not of torch.save"),
        (b"\x80\x02]q\x00.", "a.pth is a pickle, but not of torch.save"),
    ],
)
def test_what_is_no_file_of_torch_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        torch_file.read(tmp_path / "a.pth")


def test_other_zip_files_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", w=BASE)
    with pytest.raises(UsageError, match=r"a\.npz is a zip file without one data\.pkl"):
        torch_file.read(tmp_path / "a.npz")


@WRITERS
@pytest.mark.parametrize("objects", [{}, {"epoch": 1}, [1], {"state_dict": {"model": {}}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, write, objects):
    with pytest.raises(UsageError, match="holds no state dict"):
        torch_file.read(write(tmp_path / "a.pth", objects))


def test_a_flipped_bit_of_a_tensor_is_found(tmp_path):
    path = zipped(tmp_path / "a.pth", state({"w": BASE}))
    content = bytearray(path.read_bytes())
    content[content.index(BASE.tobytes()) + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="member 'archive/data/0' has another checksum"):
        torch_file.read(path)


def test_a_file_without_checksums_is_read(tmp_path):
    path = zipped(tmp_path / "a.pth", state({"w": BASE}))
    with zipfile.ZipFile(path) as file:
        checksums = [info.CRC.to_bytes(4, "little") for info in file.infolist()]
    content = path.read_bytes()
    for checksum in checksums:
        content = content.replace(checksum, bytes(4))
    path.write_bytes(content)
    np.testing.assert_array_equal(torch_file.read(path)["w"], BASE)


class OfPython2:
    """Python 2 gave the items of a dictionary in order as lists of two."""

    def __init__(self, items):
        self.items = items

    def __reduce__(self):
        return OrderedDict, ([list(item) for item in self.items.items()],)


def test_the_oldest_files_are_read(tmp_path):
    content, runs = pickled({"state_dict": OfPython2(state({"w": BASE, "v": BASE[:2]}))})
    content = content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    found = torch_file.read(legacy(tmp_path / "a.pth", (content, runs)))
    np.testing.assert_array_equal(found["w"], BASE)
    np.testing.assert_array_equal(found["v"], BASE[:2])


def test_storages_that_are_views_of_others(tmp_path):
    """In the old format: (key, first number, count) of the view behind the storage's own count."""
    content, runs = pickled({"w": Tensor(Stored(BASE), (3,))}, legacy_view=("9", 4, 3))
    np.testing.assert_array_equal(torch_file.read(legacy(tmp_path / "a.pth", (content, runs)))["w"], BASE[4:7])


# Against torch itself, where it is installed


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zip_format", [True, False])
def test_what_torch_saves_is_read(tmp_path, torch, zip_format, protocol):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1:, ::2, 1:],
        "parameter": torch.nn.Parameter(base[0]),
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "count": torch.tensor(7),
        "flags": base > 3,
        "bytes": base.byte(),
        "none": base[:, :0],
    }
    buffer = io.BytesIO()
    checkpoint = {"epoch": 1, "optimizer": {"state": {0: base}}, "state_dict": tensors}
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=zip_format, pickle_protocol=protocol)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    found = torch_file.read(tmp_path / "a.pth")
    assert list(found) == list(tensors)
    for name, theirs in tensors.items():
        np.testing.assert_array_equal(found[name].astype(np.float64), theirs.detach().double().numpy(), err_msg=name)


def test_a_network_of_torch(tmp_path, torch):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    found = torch_file.read(tmp_path / "a.pth")
    assert {key: value.shape for key, value in found.items()} == {
        key: tuple(value.shape) for key, value in network.state_dict().items()
    }
    torch.save(network, tmp_path / "whole.pth")
    with pytest.raises(UsageError, match=r"names 'torch\.nn\.modules\.container\.Sequential'.* Nothing of it was run"):
        torch_file.read(tmp_path / "whole.pth")
