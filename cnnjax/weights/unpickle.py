"""The few instructions of Python's pickle that a state dict of torch consists of; every other one is refused.

A pickle is a program: it may name any function of any module and call it. This machine knows eleven names, none
of which does anything but describe a tensor, and calls nothing else; it sets no attributes; and its work and its
memory are bounded by the bytes of the pickle.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple, cast

from cnnjax.typing import UsageError

INSTRUCTIONS = 1_000_000  # a tensor takes about fifty
AXES = 8
BYTES = 16 << 20  # of one pickle
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class Storage(NamedTuple):
    """A run of ``size`` numbers in the file that tensors are views of; ``view`` is the first, in old files."""

    dtype: str
    key: str
    size: int
    view: int


class Tensor(NamedTuple):
    """What a state dict says of a tensor; offset and strides in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Stream:
    """The bytes of a pickle from ``position``, as ``pickletools`` reads them, within bounds."""

    def __init__(self, data: Any, position: int = 0):
        self.data, self.position, self.end = data, position, min(len(data), position + BYTES)

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes."""
        count = min(count, self.end - self.position)
        self.position += count
        return bytes(self.data[self.position - count : self.position])

    def readline(self) -> bytes:
        """Up to the next newline, or 1,000 bytes."""
        line = bytes(self.data[self.position : min(self.end, self.position + 1000)])
        line = line[: line.find(b"\n") + 1] or line
        self.position += len(line)
        return line


def unpickle(stream: Stream, label: str) -> Any:
    """The object of one pickle, with ``Tensor`` in the place of tensors.

    Raises:
      UsageError: it names or does something that no state dict needs, or is truncated.
    """
    machine = _Machine(label)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
            if count > INSTRUCTIONS:
                raise UsageError(f"{label} has a pickle of more than {INSTRUCTIONS} instructions.")
            machine.step(instruction.name, argument)
        return machine.stack.pop()
    except UsageError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{label} has a pickle that is truncated, damaged or no state dict: {error}.") from error


class _Global(NamedTuple):
    """A name of the table below."""

    module: str
    name: str


class _Mark:
    """Where a group of operands starts."""


class _Machine:
    def __init__(self, label: str):
        self.label = label
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise UsageError(f"{self.label} has the pickle instruction {name}, which no state dict needs.")

    def group(self) -> list[Any]:
        """The operands since the last mark, taken off the stack."""
        start = len(self.stack) - 1
        while not isinstance(self.stack[start], _Mark):
            start -= 1
            if start < 0:
                raise ValueError("a mark is missing")
        group = self.stack[start + 1 :]
        del self.stack[start:]
        return group

    def take(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("an operand is missing")
        group = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return group

    def name(self, module: str, name: str) -> None:
        storage = module in ("torch", "torch.cuda") and name in STORAGES
        dtype = module == "torch" and name in STORAGES.values()
        if not (storage or dtype or (module, name) in _FUNCTIONS):
            raise UsageError(
                f"{self.label} names {module + '.' + name!a:.200}, which no state dict needs. Nothing of it was run. "
                "Use a file that holds only tensors: torch.save(network.state_dict(), path), or better .safetensors."
            )
        self.stack.append(_Global(module, name))

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Global) or (function.module, function.name) not in _FUNCTIONS:
            raise UsageError(f"{self.label} calls {function!r:.60}, which is no function of a state dict.")
        self.stack.append(_FUNCTIONS[function.module, function.name](*arguments))

    def build(self, _: Any) -> None:
        self.take(1)  # attributes, such as a state dict's _metadata: of no use here, and never set

    def persistent(self, _: Any) -> None:
        """A storage: ("storage", type, key, device, count) and, in old files, (key, first number, count)."""
        kind, storage, key, _, count, *view = self.take(1)[0]
        if kind != "storage" or not isinstance(storage, _Global) or not isinstance(key, str):
            raise UsageError(f"{self.label} refers to {kind!r:.60}, which is no storage of a tensor.")
        first = view[0][1] if view and view[0] else 0
        self.stack.append(Storage(STORAGES[storage.name], key, _whole(count), _whole(first)))

    def append(self, items: list[Any]) -> None:
        _expect(self.stack[-1], list).extend(items)

    def put(self, items: list[Any]) -> None:
        _expect(self.stack[-1], dict).update(_pairs(zip(items[::2], items[1::2], strict=True)))

    def stack_name(self, _: Any) -> None:
        module, name = self.take(2)
        self.name(_expect(module, str), _expect(name, str))

    def keep(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Of ``_rebuild_tensor_v2`` and, in the oldest files, ``_rebuild_tensor``."""
    shape, strides = (tuple(_whole(number) for number in _size(numbers)) for numbers in (shape, strides))
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of shape {shape} has strides {strides}")
    return Tensor(_expect(storage, Storage), _whole(offset), shape, strides)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    return _expect(tensor, Tensor)


def _size(numbers: Any) -> tuple[int, ...]:
    if len(_expect(numbers, tuple)) > AXES:
        raise ValueError(f"a size of {len(numbers)} numbers")
    return numbers


def _ordered(items: Any = ()) -> dict[Any, Any]:
    """A pickle of Python 2 gives the items as lists of two; they are taken out, so that no list is copied often."""
    pairs = OrderedDict(_pairs((key, value) for key, value in items))
    if items:
        _expect(items, list).clear()
    return pairs


def _pairs(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str | int, Any]]:
    """Keys of other types are never needed, and hashing one of many levels ends the process."""
    for key, value in items:
        if type(key) not in (str, int):
            raise TypeError(f"{type(key).__name__} as a key")
        yield key, value


def _whole(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**62:
        raise ValueError(f"{number!r:.60} is no count")
    return number


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in the place of {kind.__name__}")
    return value


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _ordered,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "BINPUT": _Machine.keep,
    "LONG_BINPUT": _Machine.keep,
    "MEMOIZE": _Machine.keep,
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.group()),
    "SETITEM": lambda machine, _: machine.put(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.put(machine.group()),
    "GLOBAL": lambda machine, name: machine.name(*name.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_name,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
