"""Files of format 1, as format 2 would have written them.

One function for each schema that changed. What they are given is JSON that nobody has checked yet:
what has not the expected form is left as it is, for the record to refuse.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

Plain = dict[str, Any]

# In format 1 a limit of a budget was told from a gate of the bundle by this in front of its name.
_BUDGET: Final = "budget "


def migrate(schema: str, plain: Plain) -> Plain:
    """The content of a file of format 1, without the two keys that say so."""
    changed = _CHANGED.get(schema)
    return plain if changed is None else changed(plain)


def _manifest(plain: Plain) -> Plain:
    return {**plain, **_each(plain, "quality_gates", _gate)}


def _report(plain: Plain) -> Plain:
    evaluation = plain.get("evaluation")
    if isinstance(evaluation, dict):
        evaluation = _rename(evaluation, {"int8_same_as_fp32": "int8_top1_agreement"})
        plain = {**plain, "evaluation": evaluation}
    return {
        **plain,
        **_each(plain, "measurements", _one_measurement),
        **_each(plain, "gates", _gate),
    }


def _judgement(plain: Plain) -> Plain:
    return {**plain, **_each(plain, "results", _gate)}


def _measurements(plain: Plain) -> Plain:
    return {**plain, **_each(plain, "measurements", _one_measurement)}


# --- parts of several schemas -----------------------------------------------------------------


def _one_measurement(plain: Plain) -> Plain:
    plain = _rename(plain, {"doubts": "warnings"})
    engine = plain.get("engine")
    if isinstance(engine, dict):
        names = {"signature": "build_key", "unpinned": "not_kept_in_fp32"}
        plain = {**plain, "engine": _rename(engine, names)}
    return plain


def _gate(plain: Plain) -> Plain:
    """Format 1 left the kind of a gate, and the metric of a limit, to its name."""
    name = plain.get("name")
    if not isinstance(name, str):
        return plain
    metric = name.removeprefix(_BUDGET)
    decides = metric in {"agreement", "accuracy"} or metric.startswith(("parity", "calibration"))
    return {
        **plain,
        "kind": "quality" if decides else "budget",
        "metric": metric if name.startswith(_BUDGET) else None,
    }


def _rename(plain: Plain, names: dict[str, str]) -> Plain:
    # A file that has the new name too is neither format: the old key stays, and is refused.
    return {
        names[key] if key in names and names[key] not in plain else key: value
        for key, value in plain.items()
    }


def _each(plain: Plain, key: str, change: Callable[[Plain], Plain]) -> Plain:
    """The list under a key with every object in it changed; nothing, where there is no list."""
    found = plain.get(key)
    if not isinstance(found, list):
        return {}
    return {key: list(_change_each(found, change))}


def _change_each(items: list[Any], change: Callable[[Plain], Plain]) -> Iterator[Any]:
    for item in items:
        yield change(item) if isinstance(item, dict) else item


_CHANGED: Final[dict[str, Callable[[Plain], Plain]]] = {
    "judgement": _judgement,
    "manifest": _manifest,
    "measurements": _measurements,
    "report": _report,
}
