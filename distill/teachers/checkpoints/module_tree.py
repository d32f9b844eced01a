"""Walking what was saved: modules in modules, and the entries that hold tensors by name."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgekd.distill.teachers.checkpoints.pickle_values import (
    BadPickle,
    TensorRef,
    UnbuiltObject,
    UnsupportedTensor,
)

METADATA_KEY: Final = "edgekd"
# What training scripts keep beside, tensors in it or not.
_BESIDE: Final = re.compile(
    r"optim|sched|scaler|rng|criterion|loss|grad|momentum|\bamp\b|callback|metric", re.IGNORECASE
)
# Modules in modules
_DEEP: Final = 40
TENSORS: Final = 50_000


def _items(value: Any) -> dict[Any, Any] | None:  # noqa: ANN401
    """What a value holds by name: of a dict, of a subclass of dict, of a whole pickled module."""
    if isinstance(value, dict):
        return value
    if isinstance(value, UnbuiltObject):
        if isinstance(value.state, dict) and "_parameters" in value.state:
            return dict(ModuleWalk().module(value))
        if value.items:
            return value.items
        if isinstance(value.state, dict):
            return value.state
    return None


def _direct(mapping: Mapping[Any, Any]) -> dict[str, TensorRef | UnsupportedTensor]:
    return {
        name: value
        for name, value in mapping.items()
        if isinstance(name, str) and isinstance(value, TensorRef | UnsupportedTensor)
    }


def mappings(content: Any) -> Iterator[tuple[str, dict[str, TensorRef | UnsupportedTensor]]]:  # noqa: ANN401
    """Entries with tensors by name, at most two levels down ({"model": {"state_dict": ...}})."""
    top = _items(content)
    if top is None:
        return
    direct = _direct(top)
    if direct:
        yield "", direct
    for key, value in top.items():
        inner = _items(value) if isinstance(key, str) and not _BESIDE.search(key) else None
        if inner is None or key == METADATA_KEY:
            continue
        direct = _direct(inner)
        if direct:
            yield key, direct
            continue
        for second, deeper in inner.items():
            found = _items(deeper) if isinstance(second, str) else None
            if found is not None and not _BESIDE.search(second) and (direct := _direct(found)):
                yield f"{key}.{second}", direct


class ModuleWalk:
    """Goes through modules in modules; files may nest or share them without end."""

    def __init__(self) -> None:
        self.visited = 0

    def _enter(self, depth: int) -> None:
        self.visited += 1
        if depth > _DEEP or self.visited > TENSORS:
            raise BadPickle("modules in modules without end")

    def module(
        self, module: UnbuiltObject, prefix: str = "", depth: int = 0
    ) -> Iterator[tuple[str, TensorRef | UnsupportedTensor]]:
        """Parameters and buffers of an `nn.Module` that was pickled whole, named as its state dict's."""
        self._enter(depth)
        state = module.state if isinstance(module.state, dict) else {}
        transient = _members(state.get("_non_persistent_buffers_set"))
        for group in ("_parameters", "_buffers"):
            for name, value in _table(state, group).items():
                if isinstance(value, TensorRef | UnsupportedTensor) and (
                    group == "_parameters" or name not in transient
                ):
                    yield f"{prefix}{name}", value
        for name, part in _table(state, "_modules").items():
            if isinstance(part, UnbuiltObject):
                yield from self.module(part, f"{prefix}{name}.", depth + 1)

    def walk_scripted(
        self, module: UnbuiltObject, prefix: str = "", depth: int = 0
    ) -> Iterator[tuple[str, TensorRef | UnsupportedTensor]]:
        """Tensors of a scripted module: its attributes, and those of the modules in it."""
        self._enter(depth)
        for name, value in (module.state if isinstance(module.state, dict) else {}).items():
            if isinstance(value, TensorRef | UnsupportedTensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, UnbuiltObject):
                yield from self.walk_scripted(value, f"{prefix}{name}.", depth + 1)


def _table(state: dict[Any, Any], name: str) -> dict[Any, Any]:
    found = state.get(name)
    return found if isinstance(found, dict) else {}


def _members(value: Any) -> list[Any]:  # noqa: ANN401
    """Of a set, as either protocol writes it."""
    if not isinstance(value, UnbuiltObject):
        return []
    given = value.args[0] if value.args and isinstance(value.args[0], list) else []
    return [*given, *(value.appended or [])]


def whole_module(content: Any) -> UnbuiltObject | None:  # noqa: ANN401
    """The module that was pickled whole, if one was: at the top or in an entry of it."""
    candidates = [content]
    if isinstance(content, dict):
        candidates += list(content.values())
    for value in candidates:
        if not isinstance(value, UnbuiltObject):
            continue
        if isinstance(value.state, dict) and {"_modules", "_parameters"} <= value.state.keys():
            return value
    return None
