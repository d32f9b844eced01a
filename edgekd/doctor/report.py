"""The doctor's findings in words."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from edgekd.doctor.findings import (
    GIB,
    CommandState,
    Doctor,
    Library,
    TensorRt,
)
from edgekd.doctor.requirements import install_lines

WIDTH: Final = 80
_INDENT: Final = 13
# A space at which no line is folded
_FIXED: Final = "\u00a0"


def diagnosis(found: Doctor) -> str:
    """Lines for a terminal: the machine, its libraries, then each command."""
    lines = [
        *_machine(found),
        *_libraries(found),
        *_accelerators(found),
        *_energy(found),
        "",
        *_commands(found.commands),
        "",
        *_todo(found),
    ]
    return "\n".join(lines)


def _machine(found: Doctor) -> Iterator[str]:
    machine = found.machine
    yield from _entry("edgekd", found.made_with.removeprefix("edgekd "))
    yield from _entry("machine", f"{machine.processor}, {machine.architecture}")
    yield from _entry("system", f"{machine.os}, Python {machine.python}")
    yield from _entry("processors", f"{machine.usable_processors:g} usable of {machine.processors}")
    limit = " (limit of the control group)" if machine.memory_is_limited else ""
    yield from _entry(
        "memory", f"{_gib(machine.memory_bytes)}{limit}, {_gib(machine.available_bytes)} free"
    )
    yield from _entry("disk", f"{_gib(machine.disk_free_bytes)} free in this folder")


def _libraries(found: Doctor) -> Iterator[str]:
    fine = [library for library in found.libraries if library.problem is None]
    if fine:
        yield from _entry("libraries", ", ".join(map(_version, fine)))
    for library in found.libraries:
        if library.problem is not None:
            there = f" {library.version}" if library.version else ""
            yield from _entry("", f"{library.name}{there}: {library.problem}")


def _version(library: Library) -> str:
    took = f" (imported in {library.took_s:.1f} s)" if library.took_s and library.took_s > 1 else ""
    text = f"{library.name} {library.version or 'of unknown version'}{took}"
    return text.replace(" ", _FIXED)


def _accelerators(found: Doctor) -> Iterator[str]:
    for gpu in found.cuda.gpus:
        text = (
            f"{gpu.name}, compute capability {gpu.compute_capability}, {_gib(gpu.memory_bytes)}, "
            f"bf16 {'yes' if gpu.bf16 else 'no'}, torch built for CUDA {found.cuda.build}"
        )
        yield from _entry("CUDA", text)
    if not found.cuda.gpus:
        yield from _entry("CUDA", f"no: {found.cuda.reason}")
    flags = found.machine.bf16_instructions
    yield from _entry(
        "bf16 on CPU", f"yes: {', '.join(flags)}" if flags else "no: the processor names none"
    )
    if found.machine.architecture in {"x86_64", "AMD64"}:
        dots = found.machine.vnni_instructions
        yield from _entry(
            "VNNI",
            f"yes: {', '.join(dots)}; INT8 for this processor: --target x86-vnni"
            if dots
            else "no: INT8 for this processor: --target x86, whose weights have 7 bits",
        )
    providers = ", ".join(found.onnxruntime_providers) or "no: onnxruntime cannot be imported"
    yield from _entry("ONNX Runtime", providers)
    yield from _tensorrt(found)


def _tensorrt(found: Doctor) -> Iterator[str]:
    there = found.tensorrt
    parts = [
        f"Python bindings {there.bindings}" if there.bindings else "no Python bindings",
        f"trtexec {there.trtexec}" if there.trtexec else "no trtexec",
    ]
    yield from _entry("TensorRT", ", ".join(parts))
    if there.reason is not None and "No module named" not in there.reason:
        yield from _entry("", f"its bindings are there and do not load: {there.reason}")
    if there.trtexec is None:
        yield from _entry(
            "",
            "edgekd does not need it: engines are built on the board. On a Jetson it comes with "
            "JetPack: trtexec in /usr/src/tensorrt/bin, bindings for the system's Python",
        )
    yield from _entry("TRT parser", _parser(there))


def _parser(there: TensorRt) -> str:
    """Whether NVIDIA's own parser can be asked here."""
    if there.rtx is not None:
        return f"TensorRT-RTX {there.rtx}: `edgekd export check` asks it"
    if there.rtx_reason is not None and "No module named" not in there.rtx_reason:
        return f"TensorRT-RTX is there and does not load: {there.rtx_reason}"
    return "no: pip install 'edgekd[tensorrt-rtx]' (x86-64 Linux), if `export check` is to ask it"


def _energy(found: Doctor) -> Iterator[str]:
    for sensor in found.energy:
        if sensor.scope is not None:
            yield from _entry("energy", f"{sensor.name}: {sensor.scope}")
            continue
        yield from _entry("energy", f"{sensor.name} no: {sensor.reason}")
        if sensor.reason is not None and "permission denied" in sensor.reason:
            yield from _entry("", "-> run `edgekd bench` as a user who may read that file")


def _commands(states: Sequence[CommandState]) -> Iterator[str]:
    """Commands of which the same is to be said stand together."""
    groups: dict[tuple[object, ...], list[CommandState]] = {}
    for state in states:
        said = state.limits if state.works else state.missing
        groups.setdefault((state.works, said), []).append(state)
    for alike in groups.values():
        first = alike[0]
        verdict = "can run" if first.works else f"CANNOT RUN without {', '.join(first.missing)}"
        yield from _entry(
            "" if first is not states[0] else "commands",
            f"{', '.join(state.command for state in alike)}: {verdict}",
        )
        for limit in first.limits if first.works else ():
            yield from _entry("", f"- {limit}")


def _todo(found: Doctor) -> Iterator[str]:
    for line in install_lines([library for library in found.libraries if library.problem]):
        # In one piece, to be copied
        yield f"{'to install':{_INDENT}}{line}"
    yield from _entry(
        "done",
        f"in {found.took_s:.1f} s; {'every' if found.works else 'not every'} command can run here",
    )


def _entry(name: str, text: str) -> Iterator[str]:
    """Name and text in two columns, folded."""
    if text.startswith("-> "):
        # A command is not folded
        yield " " * _INDENT + text
        return
    folded = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{name:{_INDENT}}",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from (line.replace(_FIXED, " ") for line in folded)


def _gib(value: int | None) -> str:
    return "unknown" if value is None else f"{value / GIB:.1f} GiB"
