"""Large, deep and changed files, read in a process whose memory is measured and whose calls are not checked."""

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.torch_files import legacy, state, zipped

ROOT = Path(__file__).parents[2]
NUMBERS = np.arange(12, dtype=np.float32)


def refusals(folder):
    command = [sys.executable, "-m", "tests.fixtures.refusals", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_large_and_deep_files_take_little_memory_and_any_change_of_a_file_is_an_error_or_nothing(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    messages = {
        "deep_storage": (b")" + b"\x85" * 100_000 + b"Q", "damaged"),
        "deep_key": (b"})" + b"\x85" * 100_000 + b"K\x01s", "tuple as a key"),  # its hash would overflow the stack
        "deep_function": (b")" + b"\x85" * 100_000 + b")R", "damaged"),
        "deep": (b")" + b"\x85" * 100_000, "holds no state dict"),
        "long": (b"]" * 1_100_000, "more than 1000000 instructions"),
        "copies": (b"]q\x00(" + b"h\x00" * 100_000 + b"eK\x01" + b"ctorch\nSize\nh\x00\x85R" * 30_000, "damaged"),
        # Ten megabytes for each of these calls, if they were made.
        "calls": (
            b"X\x00\x00\xa0\x00" + b"x" * (10 << 20) + b"q\x00" + b"c_codecs\nencode\nh\x00\x85R" * 30_000,
            "no state",
        ),
        "ranges": (b"c__builtin__\nrange\nJ\xff\xff\xff\x7f\x85R" * 30_000, "holds no state dict"),
        "line": (b"c" + b"x" * 10_000_000, "truncated"),
        "text": (b"X\x00\x00\x00\x02" + b"x" * (1 << 25), "truncated"),
    }
    for name, (instructions, _) in messages.items():
        zipped(folder / name, (b"\x80\x02" + instructions + b".", {}))
    changes = [changed(folder / f"changed{index}", np.random.default_rng(index)) for index in range(200)]
    found = refusals(folder)
    assert found["grown"] < 200
    for name, (_, message) in messages.items():
        assert message in found["errors"][name]
        assert name in found["errors"][name]
    errors = [found["errors"][path.name] for path in changes]
    assert errors.count(None) > 10  # a changed number, which no checksum guards here
    assert errors.count(None) < 190


def changed(path, rng):
    """A file, without checksums where there are any, with up to three bytes changed."""
    write = (zipped, legacy)[rng.integers(2)]
    write(path, {"epoch": 1, "model": state({"w": NUMBERS, "v": NUMBERS[:3]})})
    content = path.read_bytes()
    if write is zipped:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                content = content.replace(struct.pack("<L", info.CRC), bytes(4))
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(content)
    return path
