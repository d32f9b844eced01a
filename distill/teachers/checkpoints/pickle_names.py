"""What the names in a pickle stand for: those that refuse the file, and the few calls that are understood."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from edgekd.distill.teachers.checkpoints.pickle_values import (
    BadPickle,
    GlobalReference,
    StorageRef,
    TensorRef,
    UnbuiltObject,
    UnsafePickle,
    UnsupportedTensor,
)

# No shape, stride or offset is more
_SIZE: Final = 1 << 62
_AXES: Final = 64


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


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Roots of modules that start processes, open files or sockets, import, or make code. In a checkpoint
# they are an attack, or a habit that nobody should read past.
_HOSTILE: Final = words(
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
    for name in words(
        "set frozenset list dict tuple bytearray bytes complex int float str bool slice range "
        "object type NoneType Ellipsis NotImplemented unicode long ValueError TypeError "
        "RuntimeError KeyError Exception property staticmethod classmethod len max min sum abs round"
    )
)
# How bound methods are written, which loggers keep (mmengine's HistoryBuffer)
_GETATTR: Final = frozenset({"builtins.getattr", "__builtin__.getattr"})
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
    # Of what, its call says
    if name in _HARMLESS or name in _GETATTR:
        return False
    return name.partition(".")[0] in _HOSTILE or bool(_HOSTILE_NAMES.match(name))


# --- the few calls that are understood -----------------------------------------------------------


def pairs_of(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise BadPickle("a key without a value")
    return [(_hashable(key), value) for key, value in zip(values[::2], values[1::2], strict=True)]


def _hashable(key: Any) -> Any:  # noqa: ANN401
    try:
        hash(key)
    except TypeError as error:
        raise BadPickle(f"{type(key).__name__} as a key") from error
    return key


def value_of_call(function: Any, args: Any) -> Any:  # noqa: ANN401
    if not isinstance(args, tuple):
        raise BadPickle("a call without a tuple of arguments")
    if isinstance(function, UnbuiltObject):
        return UnbuiltObject(f"{function.name}()", args)
    if not isinstance(function, GlobalReference):
        raise BadPickle(f"a call of {type(function).__name__}")
    known = _KNOWN.get(function.name)
    return known(args) if known is not None else UnbuiltObject(function.name, args)


def storage_of(found: Any) -> StorageRef:  # noqa: ANN401
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
    return value_of_call(args[0], args[2])


def _build_ordered_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    if not args:
        return {}
    return dict(pairs_of([part for pair in args[0] for part in pair]))


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


def _attribute(args: tuple[Any, ...]) -> UnbuiltObject:
    """getattr(object, name): what it would have been stays a name.

    Raises:
        UnsafePickle: it reaches for what has no business in a checkpoint, by another way.
    """
    if len(args) != 2 or not isinstance(args[1], str):
        raise BadPickle("getattr without an object and a name")
    owner, attribute = args
    if not isinstance(owner, UnbuiltObject | GlobalReference):
        raise UnsafePickle(f"getattr of a {type(owner).__name__}")
    name = f"{owner.name}.{attribute}"
    if "__" in attribute or hostile(name):
        raise UnsafePickle(name)
    return UnbuiltObject(name)


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
    **dict.fromkeys(sorted(_GETATTR), _attribute),
    "copyreg._reconstructor": _rebuilt,
    "copy_reg._reconstructor": _rebuilt,
}
