"""Files of weights that are written to do harm; nothing of them may run, and none may be believed."""

import io
import json
import os
import pickle
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any


class _Harm:
    """Pickles as a call that makes the file $HARM."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ('touch "$HARM"',)


def write_all(folder: Path, small: bool = False) -> None:
    """Writes every hostile file into a new folder.

    Args:
      folder: to be made.
      small: make the bomb unpack to 100 MB in place of 4 GB.
    """
    folder.mkdir()
    harm = pickle.dumps({"w": _Harm()})
    files: dict[str, bytes] = {
        "pickle.pth": harm,
        "pickle.pkl": pickle.dumps(_Harm()),
        "pickle.safetensors": harm,
        "pickle.msgpack": harm,
        "packed.msgpack": b"\x81\xa1w\xc7\x04\x01" + harm[:4] + harm,
        "pickle.npz": zipped({"w.npy": _object_array(harm)}),
        "pickle.npy": _object_array(harm),
        "inside.pth": zipped({"archive/data.pkl": harm, "archive/version": b"3\n"}),
        "up.pth": zipped({"../evil": b"x", "archive/data.pkl": harm}),
        "deep-up.pth": zipped({"archive/data/../../../evil": b"x", "archive/data.pkl": harm}),
        "absolute.pth": zipped({"/etc/evil": b"x", "archive/data.pkl": harm}),
        "drive.pth": zipped({"C:\\evil": b"x", "archive/data.pkl": harm}),
        "link.pth": zipped({"archive/data.pkl": b"/etc/passwd"}, links=True),
        "link-data.pth": zipped({"archive/data": b"/etc", "archive/data/passwd": b"x"}, links=True),
        "up.npz": zipped({"../evil.npy": b"x"}),
        "lies.pth": _lying_bomb(),
        "empty.pth": b"",
        "text.pth": b"<html>404</html>",
    }
    entry = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}
    headers: dict[str, Any] = {
        "no-json": b"{not json",
        "list": [1],
        "longer": {"w": {**entry, "shape": [13]}},
        "beyond": {"w": {**entry, "data_offsets": [0, 2**62]}},
        "backwards": {"w": {**entry, "data_offsets": [60, 48]}},
        "overflow": {"w": {**entry, "shape": [2**33, 2**33]}},
        "overflow-to-fit": {"w": {**entry, "shape": [2**62, 4, 3]}},
        "negative": {"w": {**entry, "shape": [-12]}},
        "nested": b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "twice": {"w": entry, "v": entry},
        "type": {"w": {**entry, "dtype": "O"}},
    }
    for name, header in headers.items():
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        files[f"{name}.safetensors"] = struct.pack("<Q", len(text)) + text + bytes(48)
    files["length.safetensors"] = struct.pack("<Q", 2**62) + b"{}"
    files["huge-header.safetensors"] = struct.pack("<Q", 90 << 20) + b"{" + bytes(100)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    _bomb(folder / "bomb.pth", (100 if small else 4000) << 20)
    _many(folder / "many.pth", 1_000_000)
    (folder / "device.pth").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.pth")
    (folder / "folder.pth").mkdir()


def zipped(members: dict[str, bytes], links: bool = False) -> bytes:
    """An archive; with ``links`` the first member is a symbolic link with this content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, content) in enumerate(members.items()):
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is: ZipInfo would mend some
            if links and number == 0:
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _object_array(content: bytes) -> bytes:
    """A NumPy file of an object array, whose content is a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def _lying_bomb() -> bytes:
    """An archive whose member unpacks to more than its directory says."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b")0" * 1_000_000 + b".")
    content = bytearray(buffer.getvalue())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<L", 5)
    return bytes(content)


def _bomb(path: Path, size: int) -> None:
    """An archive of a few megabytes or less that would unpack to ``size`` bytes."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))


def _many(path: Path, count: int) -> None:
    """An archive that truly lists so many members, all of them empty."""
    local, entries, position = b"", [], 0
    with path.open("wb") as file:
        for number in range(count):
            name = f"archive/data/{number}".encode()
            local = struct.pack("<4sHHHHHLLLHH", b"PK\x03\x04", 20, 0, 0, 0, 0, zlib.crc32(b""), 0, 0, len(name), 0)
            file.write(local + name)
            fields = (20, 20, 0, 0, 0, 0, zlib.crc32(b""), 0, 0, len(name), 0, 0, 0, 0, 0, position)
            entries.append(struct.pack("<4sHHHHHHLLLHHHHHLL", b"PK\x01\x02", *fields) + name)
            position += len(local) + len(name)
        directory = b"".join(entries)
        file.write(directory)
        end = position + len(directory)
        file.write(b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), position))
        file.write(b"PK\x06\x07" + struct.pack("<LQL", 0, end, 1))
        file.write(b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
