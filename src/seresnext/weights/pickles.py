"""Read pickles as data: opcodes are interpreted, nothing that a pickle names is imported or called.

Tensors come back as `Tensor`, which says where the numbers are; dictionaries, lists, texts and
numbers as themselves; other values of known harmless types as an `Opaque` that keeps its type's
name only. Everything else is refused by name. Time and memory grow with the number of opcodes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

MAX_PICKLE_BYTES = 64 << 20
_MAX_OPCODES = 5_000_000
"""A training checkpoint of the family's largest network has 200,000."""

_KINDS = {
    **{"Float": "F32", "Double": "F64", "Half": "F16", "BFloat16": "BF16", "Bool": "BOOL"},
    **{"Long": "I64", "Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8"},
}
_DTYPES = {
    **{"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"},
    **{"uint16": "U16", "uint32": "U32", "uint64": "U64"},
}
"""Names in PyTorch -> safetensors' names."""

_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_HARMLESS = {
    *(f"builtins.{n}" for n in "bytearray bytes complex dict float frozenset int list".split()),
    *(f"builtins.{n}" for n in "object range set slice str tuple bool".split()),
    *(f"datetime.{n}" for n in "date datetime time timedelta timezone".split()),
    *(f"pathlib.{n}" for n in "Path PosixPath PurePath PurePosixPath WindowsPath".split()),
    *("pathlib.PureWindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *("argparse.Namespace", "types.SimpleNamespace", "collections.deque", "copyreg._reconstructor"),
    *("_codecs.encode", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
    *(f"numpy.{n}" for n in "dtype ndarray core.multiarray.scalar _core.multiarray.scalar".split()),
    *(f"numpy.{n}" for n in "core.multiarray._reconstruct _core.multiarray._reconstruct".split()),
    *(f"numpy.{n}" for n in "bool_ float16 float32 float64 int8 int16 int32 int64 uint8".split()),
    *("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *("torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"),
    *("torch.nn.parameter.Buffer", "torch.serialization._get_layout", "torch.Generator"),
}
_PREFIXES = ("numpy.dtypes.", "numpy.dtype[")


class Refused(Exception):
    """The pickle holds something else than data; the message says what."""


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names, as a name."""

    name: str


class Opaque(Named):
    """A value of a harmless type, whose content is not kept."""


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of."""

    kind: str
    """safetensors' name of the type; empty for bytes without one."""
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage. `problem` says why it cannot be read, if so."""

    storage: Storage | None = None
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    kind: str = ""
    problem: str = ""


_Mark = object()


def read_pickle(data: BytesIO) -> tuple[Any, dict[str, Storage]]:
    """(value, storages by key) of the pickle that begins here; `data` is left at its end.

    Raises Refused, and anything a damaged pickle leads to (ValueError, IndexError, TypeError, ...).
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_OPCODES:
            raise Refused("more values than a checkpoint of this family")
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    return value, machine.storages


class _Machine:
    """The pickle virtual machine, without the parts that run code."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"the opcode {name}")

    def since_mark(self) -> list[Any]:
        """Take everything above the topmost mark off the stack, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _Mark:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def take(self, count: int) -> list[Any]:
        """Take the topmost values off the stack."""
        if len(self.stack) < count:
            raise ValueError("a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def get(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    def put(self, argument: Any) -> None:
        self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Other keys are never those of a network, and could take for ever to hash.
            if isinstance(target, dict) and isinstance(key, str | int):
                target[key] = value

    def name(self, *path: Any) -> None:
        if not all(isinstance(part, str) for part in path):
            raise ValueError("a name is no text")
        self.stack.append(_named(".".join(path)))

    def storage(self, reference: Any) -> None:
        storage = _storage(reference)
        self.storages[storage.key] = storage
        self.stack.append(storage)

    def instance(self, type_: Any, arguments: Any) -> None:
        self.stack.append(_made(type_, list(arguments) if isinstance(arguments, tuple) else []))


def _named(path: str) -> Named:
    """The class or function of this name. Raises Refused unless it is known to be harmless."""
    path = path.replace("__builtin__.", "builtins.").replace("copy_reg.", "copyreg.")
    storage = path.removeprefix("torch.").removeprefix("cuda.").removesuffix("Storage")
    known = (
        *(path in _HARMLESS, path in _DICTIONARIES, path in _REBUILD, path.startswith(_PREFIXES)),
        path.startswith("torch.") and path.removeprefix("torch.") in _DTYPES,
        path.startswith("torch.") and (storage in _KINDS or storage == "storage.Untyped"),
    )
    if not any(known):
        raise Refused(f"a pickled object, {path[:100]}")
    return Named(path)


def _made(type_: Any, arguments: list[Any]) -> Any:
    """What calling `type_` would give."""
    if not isinstance(type_, Named):
        raise Refused("a call of something that is no name")
    if type_.name in _REBUILD:
        return _REBUILD[type_.name](*arguments)
    if type_.name in _DICTIONARIES:
        given = arguments[0] if arguments else {}
        pairs = given.items() if isinstance(given, dict) else given if type(given) is list else ()
        return {key: value for key, value in pairs if isinstance(key, str | int)}
    return Opaque(type_.name)


def _storage(reference: Any) -> Storage:
    """What torch's persistent ids name: ("storage", type, key, location, count)."""
    word, type_, key, _, count = reference[:5]
    plain = isinstance(type_, Named) and isinstance(key, str | int) and _is_size(count)
    if word != "storage" or not plain or (len(reference) > 5 and reference[5] is not None):
        raise Refused("a reference to something that is no storage")
    name = type_.name.removeprefix("torch.").removeprefix("cuda.").removesuffix("Storage")
    return Storage(_KINDS.get(name, ""), str(key), count)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any, dtype: Any = None
) -> Tensor:
    if not isinstance(storage, Storage):
        return Tensor(problem="a tensor without numbers of its own")
    kind = _DTYPES.get(dtype.name.removeprefix("torch."), "") if dtype else storage.kind
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > 8 or not all(_is_size(n) for n in numbers):
        return Tensor(problem="a tensor of an impossible shape")
    if not kind:
        return Tensor(problem="a tensor of a type that is not read here")
    return Tensor(storage, offset, tuple(shape), tuple(strides), kind)


def _tensor_of_dtype(*a: Any) -> Tensor:
    """`_rebuild_tensor_v3`: (storage, offset, shape, strides, grad, hooks, dtype, ...)."""
    return _tensor(*a[:4], dtype=a[6])


def _is_size(number: Any) -> bool:
    return type(number) is int and 0 <= number < 1 << 48


def _other_tensor(*a: Any) -> Tensor:
    return Tensor(problem="sparse, quantized or on another kind of device")


_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda data, *a: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *a: data,
    "torch._tensor._rebuild_from_type_v2": lambda function, type_, a, *state: _made(
        function, list(a)
    ),
    **{
        f"torch._utils._rebuild_{what}": _other_tensor
        for what in (
            *("sparse_tensor", "qtensor", "meta_tensor_no_storage", "nested_tensor"),
            *("wrapper_subclass", "device_tensor_from_numpy", "device_tensor_from_cpu_tensor"),
        )
    },
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Opaque("builtins.set"),
}
_LITERALS = set(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    """.split()
)


def _replace(function: Callable[[_Machine], Any]) -> Callable[[_Machine, Any], None]:
    """An action that puts on the stack what the function makes of the values it takes off."""
    return lambda machine, argument: machine.stack.append(function(machine))


def _dictionary(machine: _Machine) -> dict[Any, Any]:
    values = machine.since_mark()
    pairs = zip(values[::2], values[1::2], strict=True)
    return {key: value for key, value in pairs if isinstance(key, str | int)}


_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "POP": lambda m, a: m.take(1),
    "POP_MARK": lambda m, a: m.since_mark(),
    "DUP": lambda m, a: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    "TUPLE": _replace(lambda m: tuple(m.since_mark())),
    "TUPLE1": _replace(lambda m: tuple(m.take(1))),
    "TUPLE2": _replace(lambda m: tuple(m.take(2))),
    "TUPLE3": _replace(lambda m: tuple(m.take(3))),
    "LIST": _replace(_Machine.since_mark),
    "DICT": _replace(_dictionary),
    "FROZENSET": _replace(lambda m: (m.since_mark(), Opaque("builtins.frozenset"))[1]),
    "APPEND": lambda m, a: m.extend(m.take(1)),
    "APPENDS": lambda m, a: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, a: m.since_mark(),
    "SETITEM": lambda m, a: m.set_items(m.take(2)),
    "SETITEMS": lambda m, a: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, a: m.name(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.name(*m.take(2)),
    "INST": lambda m, a: m.instance(_named(a.replace(" ", ".", 1)), tuple(m.since_mark())),
    "REDUCE": lambda m, a: m.instance(*m.take(2)),
    "NEWOBJ": lambda m, a: m.instance(*m.take(2)),
    "NEWOBJ_EX": lambda m, a: m.instance(*m.take(3)[:2]),
    "BUILD": lambda m, a: m.take(1),  # an object's attributes
    "BINPERSID": lambda m, a: m.storage(*m.take(1)),
}
"""Opcode -> what it does to the machine, given its argument."""
