"""Reading a pickle without running it: an interpreter that builds values and calls nothing.

A pickle is a program, and a checkpoint that nobody vouches for may hold any. What is needed of one
are names, numbers and where its tensors lie. So every global stays a name (`GlobalReference`), every call
of something that is not in a short table becomes a value that says what was asked (`UnbuiltObject`), and a
global that no checkpoint needs refuses the file. Without frameworks: describing a file must not
cost the import of one.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from edgekd.distill.teachers.checkpoints.pickle_names import (
    hostile,
    pairs_of,
    storage_of,
    value_of_call,
    words,
)
from edgekd.distill.teachers.checkpoints.pickle_values import (
    BadPickle,
    GlobalReference,
    StorageRef,
    UnbuiltObject,
    UnsafePickle,
)

# A checkpoint with its optimiser has some hundred thousand
OPCODES: Final = 1_500_000
COPIED_TEXT: Final = 64 << 20  # characters


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
        self.stack.append(dict(pairs_of(self._items_since_mark())))

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
        self._update(pairs_of(self._items_since_mark()))

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
        self.stack.append(value_of_call(function, args))

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
        storage = storage_of(found)
        self.storages[storage.key] = storage
        self.stack.append(storage)


_SPECIAL: Final = words(
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 LIST DICT FROZENSET APPEND APPENDS ADDITEMS SETITEM SETITEMS "
    "GLOBAL STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX INST OBJ BUILD PERSID BINPERSID"
)


def _same(value: Any) -> Any:  # noqa: ANN401
    return value


_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(
        words(
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
