"""The few instructions of Python's pickle that a checkpoint of torch consists of; every other one is refused.

A pickle is a program: it may name any function of any module and call it. This machine knows few names. Those of
torch's tensors make descriptions of tensors (``Tensor``); the others, of what training scripts keep beside the weights
(their arguments, NumPy's numbers, paths), stand for a ``Record`` of the name and the arguments, and are never imported,
called or given attributes. Its work and its memory are bounded by the bytes of the pickle.
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
# Module -> the types and functions in it that stand for a ``Record``.
RECORDS: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "collections": ("Counter", "defaultdict", "deque"),
    **dict.fromkeys(
        ("builtins", "__builtin__"),
        ("set", "frozenset", "complex", "slice", "range", "xrange", "bytearray", "dict", "list", "int", "float"),
    ),
    "_codecs": ("encode",),  # bytes, in the protocols of pickles that have none
    "numpy": ("dtype", "ndarray"),
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar", "_reconstruct")),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.core.numeric": ("_frombuffer",),
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
    ),
    "datetime": ("datetime", "date", "timedelta"),
    "torch": ("device",),
    **dict.fromkeys(
        ("pytorch_lightning.utilities.parsing", "lightning_fabric.utilities.data", "lightning.fabric.utilities.data"),
        ("AttributeDict",),
    ),
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


class Record:
    """An object of another type than the plain ones, which is described and never made.

    Attributes:
      name: of its type or of the function that would have made it, such as argparse.Namespace.
      parts: what that would have been called with.
      state: its attributes, where the pickle sets a dictionary of them; or the items of a dictionary.
    """

    def __init__(self, name: str, parts: tuple[Any, ...]):
        self.name, self.parts = name, parts
        self.state: dict[Any, Any] = {}


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
    """A name of the tables below."""

    module: str
    name: str

    @property
    def is_record(self) -> bool:
        """Whether calls of it are kept as ``Record``."""
        return self.name in RECORDS.get(self.module, ())


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
        known = _Global(module, name)
        if not (storage or dtype or known in _FUNCTIONS or known.is_record):
            raise UsageError(
                f"{self.label} names {module + '.' + name!a:.200}, which no state dict needs. Nothing of it was run. "
                "Use a file that holds only tensors: torch.save(network.state_dict(), path), or better .safetensors."
            )
        self.stack.append(known)

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        if isinstance(function, _Global) and function.is_record:
            self.stack.append(Record(f"{function.module}.{function.name}", _expect(arguments, tuple)))
        elif isinstance(function, _Global) and function in _FUNCTIONS:
            self.stack.append(_FUNCTIONS[function](*arguments))
        else:
            raise UsageError(f"{self.label} calls {function!r:.60}, which is no function of a state dict.")

    def new(self, _: Any) -> None:
        """An object of a type, before its attributes."""
        kind, arguments = self.take(2)
        if not isinstance(kind, _Global) or not kind.is_record:
            raise UsageError(f"{self.label} makes an object of {kind!r:.60}, which is no type of a state dict.")
        self.stack.append(Record(f"{kind.module}.{kind.name}", _expect(arguments, tuple)))

    def build(self, _: Any) -> None:
        """Attributes: a record's are kept; others, such as a state dict's _metadata, are of no use and never set."""
        (state,) = self.take(1)
        target = self.stack[-1]
        if isinstance(target, Record) and isinstance(state, dict):
            target.state = state

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
        target = self.stack[-1]
        target = target.state if isinstance(target, Record) else _expect(target, dict)
        target.update(_pairs(zip(items[::2], items[1::2], strict=True)))

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


def _pairs(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Keys of other types are never needed, and hashing one of many levels ends the process."""
    for key, value in items:
        if type(key) not in (str, int, float, bool, type(None)):
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


_FUNCTIONS: dict[_Global, Callable[..., Any]] = {
    _Global("collections", "OrderedDict"): _ordered,
    _Global("torch._utils", "_rebuild_tensor"): _tensor,
    _Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Global("torch._utils", "_rebuild_parameter"): _parameter,
    _Global("torch", "Size"): _size,
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
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
    "FROZENSET": lambda machine, _: machine.stack.append(machine.group()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.group()),
    "ADDITEMS": lambda machine, _: machine.append(machine.group()),
    "SETITEM": lambda machine, _: machine.put(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.put(machine.group()),
    "GLOBAL": lambda machine, name: machine.name(*name.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_name,
    "BINPERSID": _Machine.persistent,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
}
