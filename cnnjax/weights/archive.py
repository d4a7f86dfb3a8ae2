"""Members of a zip file in memory that is mapped, not read: nothing is extracted, and a bomb is refused unopened.

The standard library's reader makes an object for every entry that a directory lists before one can look at their
number, and cannot map a member; both matter for files of strangers and of many hundred megabytes.
"""

import mmap
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from cnnjax.typing import UsageError

MEMBERS = 100_000  # files of weights have some thousands
INFLATED = (64 << 20, 8)  # deflated members may need this many bytes, or this many times the file's size
END, END_64, LOCATOR_64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
ENTRY, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
MANY_16, MANY_32 = 0xFFFF, 0xFFFFFFFF  # the number stands in a 64-bit field
STORED, DEFLATED = 0, 8


class Entry(NamedTuple):
    """A member as the directory lists it: sizes in bytes."""

    method: int
    checksum: int
    packed: int
    size: int
    offset: int


class Archive:
    """The members of a zip file by name.

    Raises:
      UsageError: the file is no zip file, truncated, or written to do harm.
    """

    def __init__(self, path: Path):
        self.path = path
        self.data = mapped(path)
        self.entries = self._entries(*self._directory())
        inflated = sum(entry.size for entry in self.entries.values() if entry.method == DEFLATED)
        if inflated > max(INFLATED[0], INFLATED[1] * len(self.data)):
            raise UsageError(f"{path} would unpack to {inflated} bytes from {len(self.data)}. It was not unpacked.")

    def read(self, name: str) -> memoryview:
        """A member's bytes; those of a stored member are the file's own, mapped.

        Raises:
          UsageError: it is missing, truncated, damaged or packed in another way.
        """
        if name not in self.entries:
            raise UsageError(f"{self.path} has no member {name!r}.")
        entry = self.entries[name]
        header = self.data[entry.offset : entry.offset + 30]
        if len(header) < 30 or not header.startswith(LOCAL):
            raise self._damaged(f"member {name!r} is not where the directory says")
        start = entry.offset + 30 + sum(struct.unpack_from("<HH", header, 26))
        if start + entry.packed > len(self.data):
            raise self._damaged(f"member {name!r} needs {entry.packed} bytes, which are not there")
        content = memoryview(self.data)[start : start + entry.packed]
        if entry.method == DEFLATED:
            content = self._inflated(name, content, entry.size)
        if len(content) != entry.size:
            raise self._damaged(f"member {name!r} has {len(content)} bytes, not {entry.size}")
        if entry.checksum and zlib.crc32(content) != entry.checksum:  # 0 where torch was told to write none
            raise self._damaged(f"member {name!r} has another checksum")
        return content

    def _inflated(self, name: str, content: memoryview, size: int) -> memoryview:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            return memoryview(unpacker.decompress(content, size + 1))
        except zlib.error as error:
            raise self._damaged(f"member {name!r}: {error}") from error

    def _directory(self) -> tuple[int, int, int]:
        """Number of entries, start and size in bytes of the directory."""
        data = self.data
        end = data.rfind(END, max(0, len(data) - 22 - MANY_16))
        if end < 0 or end + 22 > len(data):
            if data[:4] == LOCAL:
                raise self._damaged("its end is missing")
            raise UsageError(f"{self.path} is no zip file.")
        count, size, start = struct.unpack_from("<HLL", data, end + 10)
        if MANY_16 in (count,) or MANY_32 in (size, start):
            locator = end - 20
            if locator >= 0 and data[locator : locator + 4] == LOCATOR_64:
                (record,) = struct.unpack_from("<Q", data, locator + 8)
                if record + 56 > len(data) or data[record : record + 4] != END_64:
                    raise self._damaged("its end is missing")
                count, size, start = struct.unpack_from("<QQQ", data, record + 32)
        if start + size > end:
            raise self._damaged("its directory is not where its end says")
        if count > MEMBERS:
            raise UsageError(f"{self.path} lists {count} members; files of weights have at most {MEMBERS}.")
        return count, start, size

    def _entries(self, count: int, start: int, size: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        position, end = start, start + size
        for _ in range(count):
            if position + 46 > end or self.data[position : position + 4] != ENTRY:
                raise self._damaged("its directory is too short")
            flags, method = struct.unpack_from("<HH", self.data, position + 8)
            checksum, packed, unpacked = struct.unpack_from("<LLL", self.data, position + 16)
            lengths = struct.unpack_from("<HHH", self.data, position + 28)  # name, extra fields, comment
            (offset,) = struct.unpack_from("<L", self.data, position + 42)
            name_end = position + 46 + lengths[0]
            extra = self.data[name_end : name_end + lengths[1]]
            unpacked, packed, offset = self._wide(extra, (unpacked, packed, offset))
            name = self._checked(self.data[position + 46 : name_end])
            position += 46 + sum(lengths)
            if name in entries:
                raise UsageError(f"{self.path} has two members {name!r}.")
            if flags & 1 or method not in (STORED, DEFLATED):
                raise UsageError(f"{self.path}: member {name!r} is encrypted or packed by method {method}.")
            entries[name] = Entry(method, checksum, packed, unpacked, offset)
        return entries

    def _wide(self, extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, ...]:
        """The numbers that stand in the 64-bit extra field in place of those that are full."""
        position, wide = 0, b""
        while position + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, position)
            if kind == 1:
                wide = extra[position + 4 : position + 4 + length]
            position += 4 + length
        if len(wide) < 8 * numbers.count(MANY_32):
            raise self._damaged("a size is missing in its directory")
        rest = iter(struct.unpack_from(f"<{numbers.count(MANY_32)}Q", wide))
        return tuple(next(rest) if number == MANY_32 else number for number in numbers)

    def _checked(self, raw: bytes) -> str:
        name = raw.decode("utf-8", "backslashreplace")
        if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/"):
            raise UsageError(f"{self.path} has a member {name!r}, which points out of it.")
        return name

    def _damaged(self, what: str) -> UsageError:
        return damaged(self.path, what)


def mapped(path: Path) -> mmap.mmap:
    """The bytes of a file, read when they are used.

    Raises:
      UsageError: there is no such file, or nothing in it.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise UsageError(f"{path} is empty. Fetch it again.")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def damaged(path: Path, what: str) -> UsageError:
    """The error for a file that is not whole."""
    return UsageError(f"{path} is truncated or damaged: {what}. Fetch it again.")
