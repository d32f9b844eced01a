"""Reading a pickle without running it: an interpreter that builds values and calls nothing.

A pickle is a program, and a checkpoint that nobody vouches for may hold any. What is needed of one
are names, numbers and where its tensors lie. So every global stays a name (`Global`), every call of
something that is not in a short table becomes a value that says what was asked (`Foreign`), and a
global that no checkpoint needs refuses the file. Without frameworks: describing a file must not
cost the import of one.
"""

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

OPCODES: Final = 1_500_000  # a checkpoint with its optimiser has some hundred thousand
COPIED_TEXT: Final = 64 << 20  # characters
_SIZE: Final = 1 << 62  # no shape, stride or offset is more
_AXES: Final = 64


class UnsafePickle(ValueError):  # noqa: N818 - it is an answer, not a mistake
    """The pickle asks for something that no checkpoint needs."""


class BadPickle(ValueError):  # noqa: N818
    """Not a pickle that a checkpoint is made of."""


@dataclass(frozen=True)
class GlobalReference:
    """A name that was looked up: `module.attribute`. Nothing was imported."""

    name: str


@dataclass(eq=False, slots=True)
class UnbuiltObject:
    """An object that was left unmade: what would have been called, and what with."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    appended: list[Any] | None = None


@dataclass(frozen=True, eq=False)
class StorageRef:
    """A flat block of values beside the pickle."""

    key: str
    dtype: str  # "float32"; "" where the tensor says it
    numel: int


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor that was not read: a view into a storage."""

    storage: StorageRef
    dtype: str
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class UnsupportedTensor:
    """A tensor that is no plain dense array: sparse, quantised, on the meta device, nested."""

    kind: str


_DTYPES: Final = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Roots of modules that start processes, open files or sockets, import, or make code. In a checkpoint
# they are an attack, or a habit that nobody should read past.
_HOSTILE: Final = _words(
    "os posix nt subprocess sys shutil socket ctypes runpy importlib imp pty commands pip code "
    "codeop webbrowser pickle _pickle marshal asyncio urllib http requests tempfile dill "
    "cloudpickle joblib operator _operator inspect signal threading _thread multiprocessing gc "
    "atexit site zipfile tarfile sqlite3 bdb pdb timeit trace cProfile profile linecache "
    "popen2 posixpath ntpath nturl2path mmap fcntl smtplib ftplib telnetlib pkgutil zipimport "
    "doctest ensurepip venv pydoc io _io _socket builtins __builtin__"
)
# Of these, what only holds values.
_HARMLESS: Final = frozenset(
    f"{root}.{name}"
    for root in ("builtins", "__builtin__")
    for name in _words(
        "set frozenset list dict tuple bytearray bytes complex int float str bool slice range "
        "object type NoneType Ellipsis NotImplemented unicode long ValueError TypeError "
        "RuntimeError KeyError Exception property staticmethod classmethod len max min sum abs round"
    )
)
_HOSTILE_NAMES: Final = re.compile(
    r"^(torch\.(load|hub\.|jit\.load|utils\.cpp_extension|utils\.collect_env|_dynamo\.|_inductor\.|ops\.load|"
    r"classes\.load|distributed\.|multiprocessing\.|serialization\.load|utils\.model_zoo|cuda\.nvtx|"
    r"fx\.|package\.|utils\.bottleneck|_C\._import|storage\._load_from_bytes|utils\.data\.datapipes)"
    r"|numpy\.(load|fromfile|memmap|f2py|distutils|testing|ctypeslib|lib\.npyio|DataSource)"
    r"|types\.(CodeType|FunctionType|MethodType|LambdaType)|functools\.reduce|copyreg\.add_extension"
    r"|pandas\.(eval|read_)|yaml\.(load|unsafe_load)|.*\.__(globals|builtins|code|import|subclasses|class|dict)__)"
)


def hostile(name: str) -> bool:
    """Whether a global has no business in a checkpoint."""
    if name in _HARMLESS:
        return False
    return name.partition(".")[0] in _HOSTILE or bool(_HOSTILE_NAMES.match(name))


def read_pickle(
    stream: IO[bytes], *, tensors: bool = True, storages: dict[str, StorageRef] | None = None
) -> Any:  # noqa: ANN401
    """The value of one pickle, with everything foreign left unmade.

    Args:
        stream: at its first byte; left behind its last.
        tensors: whether persistent ids name storages, as torch writes them.
        storages: filled with the storages by key.

    Raises:
        UnsafePickle: it asks for code; the message names what.
        BadPickle: damaged, beyond `OPCODES`, or with opcodes that torch never writes.
    """
    machine = _Machine(tensors=tensors, storages={} if storages is None else storages)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number > OPCODES:
                raise BadPickle(f"more than {OPCODES:,} instructions")
            machine.step(opcode.name, argument)
    except (UnsafePickle, BadPickle):
        raise
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # The interpreter and pickletools trust the order of opcodes; a damaged file has another.
        raise BadPickle(
            f"not a whole pickle: {str(error)[:100] or type(error).__name__}"
        ) from error
    return machine.result


_MARK: Final = object()


class _Machine:
    """The stack machine of the pickle protocols 0 to 5 (CPython `pickletools`), inert."""

    def __init__(self, *, tensors: bool, storages: dict[str, StorageRef]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.tensors = tensors
        self.copied_values = 0
        self.copied_text = 0
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:  # noqa: ANN401
        plain = _PLAIN.get(name)
        if plain is not None:
            self.stack.append(plain(argument))
            return
        special = getattr(self, f"_{name.lower()}", None) if name in _SPECIAL else None
        if special is None:
            raise BadPickle(f"the instruction {name}, which torch never writes")
        special(argument)

    def _take(self) -> Any:  # noqa: ANN401
        value = self.stack.pop()
        if value is _MARK:
            raise BadPickle("not a whole pickle: a mark where a value belongs")
        return value

    def _items_since_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                found = self.stack[position + 1 :]
                del self.stack[position:]
                return found
        raise BadPickle("not a whole pickle: no mark")

    # Stack and memo.

    def _proto(self, version: int) -> None:
        if version > 5:
            raise BadPickle(f"pickle protocol {version}")

    def _frame(self, _: int) -> None: ...

    def _stop(self, _: None) -> None:
        self.result = self._take()

    def _mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: None) -> None:
        self.stack.pop()

    def _pop_mark(self, _: None) -> None:
        self._items_since_mark()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    _binput = _long_binput = _put

    def _get(self, key: int) -> None:
        self.stack.append(self.memo[key])

    _binget = _long_binget = _get

    # Containers.

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self._items_since_mark()))

    def _tuple1(self, _: None) -> None:
        self.stack.append((self._take(),))

    def _tuple2(self, _: None) -> None:
        second, first = self._take(), self._take()
        self.stack.append((first, second))

    def _tuple3(self, _: None) -> None:
        third, second, first = self._take(), self._take(), self._take()
        self.stack.append((first, second, third))

    def _list(self, _: None) -> None:
        self.stack.append(self._items_since_mark())

    def _dict(self, _: None) -> None:
        self.stack.append(dict(_pairs(self._items_since_mark())))

    def _frozenset(self, _: None) -> None:
        self.stack.append(UnbuiltObject("builtins.frozenset", tuple(self._items_since_mark())))

    def _append(self, _: None) -> None:
        value = self._take()
        self._extend([value])

    def _appends(self, _: None) -> None:
        self._extend(self._items_since_mark())

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, UnbuiltObject):
            target.appended = [] if target.appended is None else target.appended
            target.appended.extend(values)
        else:
            raise BadPickle(f"values appended to {type(target).__name__}")

    def _setitem(self, _: None) -> None:
        value, key = self._take(), self._take()
        self._update([(key, value)])

    def _setitems(self, _: None) -> None:
        self._update(_pairs(self._items_since_mark()))

    def _update(self, pairs: list[tuple[Any, Any]]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, UnbuiltObject) else target
        if not isinstance(items, dict):
            raise BadPickle(f"items set on {type(target).__name__}")
        for key, value in pairs:
            items[key] = value

    # Names and calls: nothing is imported, nothing is called.

    def _global(self, argument: str) -> None:
        self._push_global(argument.replace(" ", ".", 1))

    def _stack_global(self, _: None) -> None:
        name, module = self._take(), self._take()
        if not isinstance(name, str) or not isinstance(module, str):
            raise BadPickle("a global whose name is not text")
        self._push_global(f"{module}.{name}")

    def _push_global(self, name: str) -> None:
        if hostile(name):
            raise UnsafePickle(name)
        self.stack.append(GlobalReference(name))

    def _call(self, function: Any, args: Any) -> None:  # noqa: ANN401
        # A list of the memo can be handed to a thousand calls, and each would copy it.
        for part in args if isinstance(args, tuple) else ():
            if isinstance(part, list | tuple):
                self.copied_values += len(part)
            elif isinstance(part, str):
                self.copied_text += len(part)
        if self.copied_values > OPCODES or self.copied_text > COPIED_TEXT:
            raise BadPickle("the same values copied again and again")
        self.stack.append(_call(function, args))

    def _reduce(self, _: None) -> None:
        args, function = self._take(), self._take()
        self._call(function, args)

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        _named_args, args, kind = self._take(), self._take(), self._take()
        self._call(kind, args)

    def _inst(self, argument: str) -> None:
        self._push_global(argument.replace(" ", ".", 1))
        kind = self._take()
        self._call(kind, tuple(self._items_since_mark()))

    def _obj(self, _: None) -> None:
        kind, *args = self._items_since_mark()
        self._call(kind, tuple(args))

    def _build(self, _: None) -> None:
        state = self._take()
        target = self.stack[-1]
        if isinstance(target, UnbuiltObject):
            target.state = state
        # A dict's attributes (the `_metadata` of a state dict) are of no use here.

    def _persid(self, argument: str) -> None:
        raise BadPickle(f"a reference to {argument[:40]!r}, which torch never writes")

    def _binpersid(self, _: None) -> None:
        found = self._take()
        if not self.tensors:
            raise BadPickle("a reference to something outside of the pickle")
        storage = _storage(found)
        self.storages[storage.key] = storage
        self.stack.append(storage)


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise BadPickle("a key without a value")
    return [(_hashable(key), value) for key, value in zip(values[::2], values[1::2], strict=True)]


def _hashable(key: Any) -> Any:  # noqa: ANN401
    try:
        hash(key)
    except TypeError as error:
        raise BadPickle(f"{type(key).__name__} as a key") from error
    return key


_SPECIAL: Final = _words(
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 LIST DICT FROZENSET APPEND APPENDS ADDITEMS SETITEM SETITEMS "
    "GLOBAL STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX INST OBJ BUILD PERSID BINPERSID"
)


def _same(value: Any) -> Any:  # noqa: ANN401
    return value


_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(
        _words(
            "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES "
            "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 "
            "FLOAT BINFLOAT"
        ),
        _same,
    ),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_SET": lambda _: UnbuiltObject("builtins.set"),
}


# --- the few calls that are understood -----------------------------------------------------------


def _call(function: Any, args: Any) -> Any:  # noqa: ANN401
    if not isinstance(args, tuple):
        raise BadPickle("a call without a tuple of arguments")
    if isinstance(function, UnbuiltObject):
        return UnbuiltObject(f"{function.name}()", args)
    if not isinstance(function, GlobalReference):
        raise BadPickle(f"a call of {type(function).__name__}")
    known = _KNOWN.get(function.name)
    return known(args) if known is not None else UnbuiltObject(function.name, args)


def _storage(found: Any) -> StorageRef:  # noqa: ANN401
    """('storage', type, key, location, count[, view]) as torch writes persistent ids."""
    if not isinstance(found, tuple) or len(found) < 5 or found[0] not in {"storage", b"storage"}:
        raise BadPickle("a reference that is no storage of torch")
    _, kind, key, _, numel = found[:5]
    if not isinstance(kind, GlobalReference) or not isinstance(numel, int) or numel < 0:
        raise BadPickle("a storage without type or size")
    name = kind.name.rpartition(".")[2]
    if len(found) > 5 and found[5] is not None:
        raise BadPickle("a storage that is a part of another (torch before 0.4)")
    # The type of an untyped storage is the tensor's to say.
    return StorageRef(key=str(key), dtype=_DTYPES.get(name, f"?{name}"), numel=numel)


def _tensor(args: tuple[Any, ...]) -> Any:  # noqa: ANN401
    storage, offset, shape, stride = args[:4]
    return _view(storage, offset, shape, stride, dtype=None)


def _tensor_v3(args: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])."""
    storage, offset, shape, stride = args[:4]
    dtype = args[6] if len(args) > 6 else None
    name = dtype.name.rpartition(".")[2] if isinstance(dtype, GlobalReference) else None
    return _view(storage, offset, shape, stride, dtype=name)


def _view(storage: Any, offset: Any, shape: Any, stride: Any, *, dtype: str | None) -> TensorRef:  # noqa: ANN401
    if not isinstance(storage, StorageRef):
        raise BadPickle("a tensor without a storage")
    sizes = tuple(shape) if isinstance(shape, tuple | list) else ()
    steps = tuple(stride) if isinstance(stride, tuple | list) else ()
    numbers = (offset, *sizes[:_AXES], *steps[:_AXES])
    if not len(sizes) == len(steps) <= _AXES or not all(
        type(number) is int and 0 <= number < _SIZE for number in numbers
    ):
        raise BadPickle("a tensor whose shape, strides or offset are no sizes")
    return TensorRef(
        storage=storage,
        dtype=dtype or storage.dtype,
        offset=offset,
        shape=sizes,
        stride=steps,
    )


def _first(args: tuple[Any, ...]) -> Any:  # noqa: ANN401
    return args[0]


def _from_type(args: tuple[Any, ...]) -> Any:  # noqa: ANN401
    """(function, type, arguments, state): a subclass of Tensor; its values are what counts."""
    return _call(args[0], args[2])


def _build_ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    if not args:
        return {}
    return dict(_pairs([part for pair in args[0] for part in pair]))


def _encode_latin1(args: tuple[Any, ...]) -> bytes:
    """How protocol 2 writes bytes: `_codecs.encode(text, "latin1")`."""
    text, coding = args
    if coding not in {"latin1", "latin-1", "utf-8", "utf8", "ascii"}:
        raise BadPickle(f"text encoded as {coding!r}")
    return bytes(text.encode(coding))


def _rebuilt(args: tuple[Any, ...]) -> UnbuiltObject:
    """copyreg._reconstructor(class, base, state): how protocols 0 and 1 write objects."""
    kind = args[0]
    return UnbuiltObject(kind.name if isinstance(kind, GlobalReference) else "?", args[1:])


def _default_dict(_: tuple[Any, ...]) -> dict[Any, Any]:
    return {}


def _odd(kind: str) -> Callable[[tuple[Any, ...]], UnsupportedTensor]:
    return lambda _: UnsupportedTensor(kind)


_KNOWN: Final[Mapping[str, Callable[[tuple[Any, ...]], Any]]] = {
    "collections.OrderedDict": _build_ordered_dict,
    "collections.defaultdict": _default_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _first,
    "torch.Size": lambda args: tuple(args[0]) if args else (),
    "torch._utils._rebuild_sparse_tensor": _odd("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _odd("sparse"),
    "torch._utils._rebuild_qtensor": _odd("quantised"),
    "torch._utils._rebuild_meta_tensor_no_storage": _odd("without values (meta)"),
    "torch._utils._rebuild_nested_tensor": _odd("nested"),
    "torch._utils._rebuild_wrapper_subclass": _odd("wrapped"),
    "torch._utils._rebuild_device_tensor_from_numpy": _odd("of another device"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _odd("of another device"),
    "_codecs.encode": _encode_latin1,
    "copyreg._reconstructor": _rebuilt,
    "copy_reg._reconstructor": _rebuilt,
}
