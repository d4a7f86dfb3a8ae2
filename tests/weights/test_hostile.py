"""Files of strangers: no code runs, nothing is written, memory stays small, and the error says what was found."""

import builtins
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from cnnjax import weights
from cnnjax.typing import UsageError
from cnnjax.weights import archive, safetensors_file, torch_file
from tests.fixtures.torch_files import Stored, Tensor, legacy, pickled, state, zipped

WRITERS = pytest.mark.parametrize("write", [zipped, legacy], ids=["zip", "legacy"])
NUMBERS = np.arange(12, dtype=np.float32)
SMALL = 100 << 20


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class WithState:
    """Pickles as an object whose state is set."""


@pytest.fixture(autouse=True)
def bounded(tmp_path, monkeypatch):
    """Nothing is run or written, and what Python allocates stays below 100 MB."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < SMALL
    assert {path.name for path in set(tmp_path.iterdir()) - before} <= {"a.pth", "a.safetensors", "a.json"}


def hidden_in_a_storage():
    run = Stored(NUMBERS)
    run.key = Call(os.system, "touch ran")
    return Tensor(run, (12,))


HOSTILE = {
    "os.system": (lambda: Call(os.system, "touch ran"), f"'{os.system.__module__}.system'"),
    "eval": (lambda: Call(builtins.eval, "open('ran', 'w')"), r"'(__builtin__|builtins)\.eval'"),
    "deep inside": (
        lambda: {"state_dict": {**state({"w": NUMBERS}), "x": [({"y": Call(os.system, "touch ran")},)]}},
        "system",
    ),
    "as a key": (lambda: {Call(os.mkdir, "ran"): 1}, "mkdir"),
    "in a storage": (hidden_in_a_storage, "system"),
    "an object": (WithState, "WithState"),
    "getattr": (lambda: Call(getattr, state({"w": NUMBERS}), "clear"), "getattr"),
    "numpy": (lambda: Call(np.memmap, "ran", "uint8", "w+", 0, (3,)), "numpy"),
}


@WRITERS
@pytest.mark.parametrize("case", HOSTILE)
def test_a_pickle_that_calls_anything_is_refused_and_named(tmp_path, write, case):
    make, name = HOSTILE[case]
    with pytest.raises(UsageError, match=f"(?s)a.pth names .*{name}.* Nothing of it was run"):
        torch_file.read(write(tmp_path / "a.pth", make()))


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"cos\nsystem\n(S'touch ran'\ntR.", "system"),
        (b"(S'touch ran'\nios\nsystem\n.", "instruction STRING"),
        (b"(ios\nsystem\n.", "instruction INST"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "'os.system'"),
        (b"\x80\x02]q\x00(c__builtin__\nlist\no.", "instruction OBJ"),
        (b"\x80\x02]\x81.", "an operand is missing"),
        (b"\x80\x02])\x81.", r"makes an object of \[\]"),
        (b"\x80\x02cos\nsystem\n)\x81.", "'os.system'"),
        (b"\x80\x02csubprocess\nPopen\n)\x81.", "'subprocess.Popen'"),
        (b"\x80\x02cargparse\nArgumentParser\n)\x81.", "'argparse.ArgumentParser'"),
        (b"\x80\x02ctorch\nSize\n)\x81.", "makes an object of"),
        (b"\x80\x02cargparse\nNamespace\nK\x01\x81.", "int in the place of tuple"),
        (b"\x80\x02cargparse\nNamespace\n)\x81)R.", "calls <"),
        (b"\x80\x04cargparse\nNamespace\n)}\x92.", "instruction NEWOBJ_EX"),
        (b"\x80\x02c_codecs\nlookup\n)R.", "'_codecs.lookup'"),
        (b"\x80\x02c__builtin__\ngetattr\n)R.", r"'__builtin__\.getattr'"),
        (b"\x80\x02cnumpy\nload\n)R.", r"'numpy\.load'"),
        (b"\x80\x02}cargparse\nNamespace\n)\x81K\x01s.", "Record as a key"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls .*FloatStorage"),
        (b"\x80\x02X\x05\x00\x00\x00helloK\x01\x85R.", "calls 'hello'"),
        (b"\x80\x02ctorch\n\n)R.", r"names 'torch\.'"),
        (b"\x80\x02ctorch\nStorage\x1b[2J\n.", r"Storage\\x1b"),
        (b"\x80\x02K\x01Q.", "damaged"),  # a storage that is a number
        (b"\x80\x02(K\x01K\x02K\x03K\x04K\x05tQ.", "refers to 1"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02R.", "an operand is missing"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02}]K\x01s.", "list as a key"),
        (b"\x80\x02]K\x01K\x02s.", "list in the place of dict"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "damaged"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "damaged"),
        (b"\x80\x02c" + b"x" * 10_000_000, "truncated"),
        (b"\x80\x02})\x85K\x01s.", "tuple as a key"),
    ],
)
def test_hand_made_pickles(tmp_path, instructions, message):
    with pytest.raises(UsageError, match=message):
        torch_file.read(zipped(tmp_path / "a.pth", (instructions, {})))


def test_attributes_are_never_set(tmp_path):
    content, runs = pickled(state({"w": NUMBERS}))
    state_of = b"}X\x08\x00\x00\x00__dict__X\x03\x00\x00\x00badsb."
    found = torch_file.read(zipped(tmp_path / "a.pth", (content[:-1] + state_of, runs)))
    assert list(found) == ["w"]


def test_the_standard_library_would_have_run_it(tmp_path):
    content, _ = pickled(Call(os.mkdir, str(tmp_path / "a.json")))
    pickle.loads(content)  # so that the tests above test something
    assert (tmp_path / "a.json").is_dir()


@WRITERS
@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (13,)},
        {"shape": (3, 4), "strides": (4, 2)},
        {"shape": (12,), "offset": 1},
        {"shape": (2,), "strides": (2**40,)},
        {"shape": (1000, 1000), "strides": (0, 0)},  # a single number, shown a million times
        {"shape": (2**33, 2**33)},  # the product overflows 64 bits
        {"shape": (2**31, 2**31, 4), "strides": (0, 0, 1)},
        {"shape": (-3, -4)},
        {"shape": (12,), "strides": (-1,)},
        {"shape": (12,), "offset": -1},
        {"shape": (12,), "offset": 2**62},
        {"shape": (12,), "strides": ()},
        {"shape": (1,) * 9},
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, write, arguments):
    with pytest.raises(UsageError, match=r"a\.pth"):
        torch_file.read(write(tmp_path / "a.pth", {"w": Tensor(Stored(NUMBERS), **arguments)}))


@WRITERS
@pytest.mark.parametrize("count", [13, 2**40, 2**61, -1])
def test_storages_longer_than_the_file_are_refused(tmp_path, write, count):
    if write is legacy and count < 0:
        count = 2**63 - 1
    with pytest.raises(UsageError, match=r"a\.pth"):
        torch_file.read(write(tmp_path / "a.pth", {"w": Tensor(Stored(NUMBERS, count=count), (12,))}))


def test_a_storage_of_two_types_is_refused(tmp_path):
    tensors = {"w": Tensor(Stored(NUMBERS)), "v": Tensor(Stored(NUMBERS, dtype="float16"), (2,))}
    with pytest.raises(UsageError, match="storage '0' is of two types"):
        torch_file.read(zipped(tmp_path / "a.pth", tensors))


# Archives


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "\\evil", "C:\\evil", "C:evil"])
def test_members_that_point_out_of_the_archive(tmp_path, name):
    with pytest.raises(UsageError, match=r"has a member .*evil', which points out of it"):
        torch_file.read(zipped(tmp_path / "a.pth", state({"w": NUMBERS}), members=[(name, b"x")]))


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("archive/data.pkl", "w") as member:
        for _ in range(100):
            member.write(bytes(1 << 20))
    with pytest.raises(UsageError, match=r"would unpack to 104857600 bytes from .* It was not unpacked"):
        torch_file.read(path)


def test_a_bomb_that_lies_about_its_size(tmp_path):
    path = zipped(tmp_path / "a.pth", ((b"\x80\x02" + b")0" * 1000_000 + b"."), {}), deflate=True)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<L", 5)
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"member 'archive/data.pkl' has 6 bytes, not 5"):
        torch_file.read(path)


def end(count, size, start):
    return b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, count, count, size, start, 0)


def test_a_million_members(tmp_path):
    path = tmp_path / "a.pth"
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1_000_000, 1_000_000, 60_000_000, 4)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 60_000_004, 1)
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(60_000_004)
        file.write(record + locator + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    with pytest.raises(UsageError, match="lists 1000000 members; files of weights have at most 100000"):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (end(1, 46, 0), "its directory is not where its end says"),
        (b"PK\x01\x02" * 20 + end(2, 80, 0), "too short"),
        (bytes(100) + end(1, 60, 0), "too short"),
        (b"PK\x06\x07" + struct.pack("<LQL", 0, 2**63, 1) + end(0xFFFF, 0, 0), "its end is missing"),
    ],
)
def test_directories_that_lie(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04" + content)
    with pytest.raises(UsageError, match=message):
        archive.Archive(tmp_path / "a.pth")


def test_two_members_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "a.pth", state({"w": NUMBERS}), members=[("archive/data/0", b"x")])
    with pytest.raises(UsageError, match="has two members 'archive/data/0'"):
        torch_file.read(path)


@pytest.mark.parametrize("position", [6, 8])
def test_encrypted_members_and_other_packings(tmp_path, position):
    path = zipped(tmp_path / "a.pth", state({"w": NUMBERS}))
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + position + 2] |= 0x01 if position == 6 else 0x0C
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is encrypted or packed by method"):
        torch_file.read(path)


def test_huge_members_of_an_archive_are_those_of_the_standard_library(tmp_path):
    """The 64-bit fields, which the standard library writes where it is told that a member may be large."""
    path = tmp_path / "a.pth"
    content, runs = pickled(state({"w": NUMBERS}))
    with zipfile.ZipFile(path, "w") as file:
        for name, data in (("a/data.pkl", content), ("a/data/0", runs["0"].array.tobytes())):
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    np.testing.assert_array_equal(torch_file.read(path)["w"], NUMBERS)


# safetensors


def lying(header, content=bytes(48)):
    text = header if isinstance(header, bytes) else repr(header).replace("'", '"').encode()
    return struct.pack("<Q", len(text)) + text + content


def entry(dtype="F32", shape=(12,), start=0, stop=48):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2**63 + 5) + b"{}",
        struct.pack("<Q", 90 << 20) + b"{" + bytes(100),
        lying(b"{not json"),
        lying(b"[1, 2]"),
        lying({"w": entry(shape=(13,))}),
        lying({"w": entry(stop=2**62)}),
        lying({"w": entry(start=60, stop=48)}),
        lying({"w": entry(shape=(2**33, 2**33))}),
        lying({"w": entry(shape=(-12,))}),
        lying({"w": entry(dtype="F33")}),
        lying({"w": entry(), "v": entry()}),
        lying({"w": entry(stop=44, shape=(11,))}),
        lying({"w": entry()}, bytes(47)),
        lying({"w": {"dtype": "F32"}}),
        b"{",
        b"",
    ],
)
def test_safetensors_headers_that_lie(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    for read in (safetensors_file.read, weights.read):
        with pytest.raises(UsageError, match=r"a\.safetensors"):
            read(path)


def test_a_type_without_an_array(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(lying({"w": entry(dtype="F8_E4M3", shape=(48,))}))
    with pytest.raises(UsageError, match="w is of type F8_E4M3; weights are of F64"):
        safetensors_file.read(tmp_path / "a.safetensors")
