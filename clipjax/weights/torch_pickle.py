"""The part of pickle that torch writes, read as data: no name of the file is looked up, nothing of it is called.

Whatever a stream says, what comes out is made of dicts, lists, tuples, texts, numbers and the four inert kinds here.
"""

import pickletools
import warnings
from typing import Any, NamedTuple

_MOST_STEPS = 2_000_000  # a model's pickle has some ten thousand
_TYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "DoubleStorage": "float64",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_STORAGES = {f"torch {name}": dtype for name, dtype in _TYPES.items()}
_ORDERED_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_LISTS = tuple(f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor"))  # in TorchScript
_ALLOWED = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_LISTS, *_STORAGES}


class Name(NamedTuple):
    """A name that the stream mentions, "module name"."""

    text: str


class Storage(NamedTuple):
    """A member `data/{key}` of `count` numbers."""

    dtype: str
    key: str
    count: int


class Tensor(NamedTuple):
    """A view into a storage; offset and strides count elements and are not checked here."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Record:
    """An object of a TorchScript class: its class's name and its attributes."""

    def __init__(self, name: str):
        self.name = name
        self.attributes: dict[str, Any] = {}


def load(data: bytes) -> Any:
    """What the stream describes. Raises ValueError, saying why, for everything that torch's own pickles do not hold."""
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text with escapes that mean nothing, in a damaged name
            for steps, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if steps >= _MOST_STEPS:
                    raise ValueError(f"more than {_MOST_STEPS} opcodes")
                if opcode.name == "STOP":
                    return machine.stack.pop()
                machine.step(opcode.name, argument)
    except (IndexError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"damaged pickle ({type(error).__name__})") from None
    raise ValueError("damaged pickle, it does not end")


class _Machine:
    """The stack, the marks and the memo of pickle."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO":
                if argument != 2:
                    raise ValueError(f"pickle protocol {argument}, 2 expected")
            case "MARK":
                self.marks.append(len(stack))
            case "GLOBAL":
                stack.append(_name(argument))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.take(int(opcode[-1]))))
            case "TUPLE":
                stack.append(tuple(self.marked()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "SETITEM":
                _set(stack[-3], self.take(2))
            case "SETITEMS":
                items = self.marked()
                _set(stack[-1], items)
            case "APPEND":
                _append(stack[-2], self.take(1))
            case "APPENDS":
                items = self.marked()
                _append(stack[-1], items)
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "NEWOBJ":
                stack.append(_record(*self.take(2)))
            case "REDUCE":
                stack.append(_rebuild(*self.take(2)))
            case "BUILD":
                (state,) = self.take(1)
                _build(stack[-1], state)
            case _:
                raise ValueError(f"pickle opcode {opcode}, which torch does not write")

    def take(self, count: int) -> list[Any]:
        """The last `count` values, off the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def marked(self) -> list[Any]:
        """The values since the last mark, off the stack."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values


def _name(text: str) -> Name:
    if text not in _ALLOWED and not text.startswith("__torch__."):
        raise ValueError(
            f"it names {text.replace(' ', '.')!r:.80}, which no file of weights needs; nothing was executed"
        )
    return Name(text)


def _storage(value: Any) -> Storage:
    if isinstance(value, tuple) and len(value) == 5 and value[0] == "storage" and isinstance(value[1], Name):
        _, kind, key, _, count = value
        if kind.text in _STORAGES and isinstance(key, str) and _is_size(count):
            return Storage(_STORAGES[kind.text], key, count)
    raise ValueError("damaged pickle, a storage is described wrongly")


def _rebuild(function: Any, arguments: Any) -> Any:
    name = function.text if isinstance(function, Name) else ""
    match arguments:
        case () if name == _ORDERED_DICT:
            return {}
        case (Storage() as storage, offset, tuple() as size, tuple() as stride, *_) if name == _TENSOR:
            if len(size) == len(stride) <= 32 and all(map(_is_size, (offset, *size, *stride))):
                return Tensor(storage, offset, size, stride)
        case (Tensor() as tensor, *_) if name == _PARAMETER:
            return tensor
        case (list() as values,) if name in _LISTS:
            return values
    raise ValueError(f"damaged pickle, {name or 'something'} is called with wrong values")


def _record(kind: Any, arguments: Any) -> Record:
    if not isinstance(kind, Name) or not kind.text.startswith("__torch__.") or arguments != ():
        raise ValueError("damaged pickle, an object of no TorchScript class")
    return Record(kind.text)


def _build(target: Any, state: Any) -> None:
    """Attributes of a record; what an OrderedDict gets besides its items (`_metadata`) is left out."""
    if not isinstance(state, dict) or not isinstance(target, Record | dict):
        raise ValueError("damaged pickle, attributes of something that has none")
    if isinstance(target, Record):
        target.attributes = state


def _set(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("damaged pickle, items of something that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):
            raise ValueError(f"damaged pickle, a key of type {type(key).__name__}")
        if key in target:
            raise ValueError(f"the key {key!r:.80} stands there twice")
        target[key] = value


def _append(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("damaged pickle, items of something that is no list")
    target.extend(items)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0
