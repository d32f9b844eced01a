"""What a teacher file is, for `edgekd teacher describe`: as a record, as text, as a TOML file.

Nothing of the file is run, and no framework is imported where the shipped index knows the network.
"""

import json
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from edgekd.distill.teachers.checkpoints import checkpoint_contents
from edgekd.distill.teachers.checkpoints.file_contents import NAMES
from edgekd.distill.teachers.checkpoints.pickle_values import TensorRef
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.inspection.factory_text import FACTORY, factory_path
from edgekd.distill.teachers.inspection.kinds import (
    Inspection,
    OnnxFileFound,
    Pt2File,
    SourcedValue,
)
from edgekd.distill.teachers.metadata import (
    METADATA_VERSION,
    TeacherOptions,
    toml_beside,
    toml_path,
)
from edgekd.files import digest_of, translate_os_errors, write_atomically
from edgekd.records import Count, Digest, record


@record
class OpenQuestion:
    """What no source says: an option, why it must be given, and the answers that are possible."""

    option: str
    text: str
    # By value: what sets it apart
    choices: dict[str, str]


@record
class StatedValue:
    """A value with where it came from."""

    value: tuple[float, ...]
    origin: str


@record
class Description:
    """What `edgekd teacher describe --json` prints."""

    file: str
    file_digest: Digest
    size_bytes: Count
    format: str
    # None where the file holds no weights by name
    weights_key: str | None
    other_weights: tuple[str, ...]
    tensors: Count
    types: tuple[str, ...]
    network: str | None
    # Names of other libraries for the same function
    same_as: tuple[str, ...]
    network_from: str | None
    parameters: Count
    # Of one image; None where only running it would tell
    macs: Count | None
    channels: Annotated[int, Field(ge=1)] | None
    classes: Count | None
    input: StatedValue | None
    mean: StatedValue | None
    std: StatedValue | None
    batch_norm_layers: Count
    # None: only loading tells
    batch_norm_trained: bool | None
    questions: tuple[OpenQuestion, ...]
    notes: tuple[str, ...]


def describe_teacher(path: Path, options: TeacherOptions) -> tuple[Description, Inspection]:
    """Find out what a file is, and check its values.

    Raises:
        InputFileError: it cannot be read, is refused, or is no classifier of images.
        UsageError: an option names what is not there.
    """
    found = inspect_teacher(path, options)
    known, taken, network = found.known, found.taken, found.network
    path = known.path
    tensors = taken.weights.tensors if taken is not None else {}
    if taken is not None:
        checkpoint_contents.check_weights(taken.checkpoint, taken.weights)
    kinds = {tensor.dtype for tensor in tensors.values() if isinstance(tensor, TensorRef)}
    description = Description(
        file=path.name,
        file_digest=digest_of(path),
        size_bytes=path.stat().st_size,
        format=NAMES[known.format],
        weights_key=taken.weights.key if taken is not None else None,
        other_weights=taken.others if taken is not None else (),
        tensors=len(tensors),
        types=tuple(sorted(kinds)),
        network=str(network) if network is not None else None,
        same_as=network.same_as if network is not None else (),
        network_from=network.because if network is not None else None,
        parameters=known.parameters,
        macs=known.macs,
        channels=known.channels,
        classes=known.classes,
        input=_setting(known.input),
        mean=_setting(known.mean),
        std=_setting(known.std),
        batch_norm_layers=known.batch_norm_layers,
        batch_norm_trained=known.batch_norm_trained,
        questions=tuple(
            OpenQuestion(option=each.option, text=each.text, choices=dict(each.choices))
            for each in known.questions
        ),
        notes=known.notes,
    )
    return description, found


def _setting(told: SourcedValue | None) -> StatedValue | None:
    return StatedValue(value=told.value, origin=told.origin) if told is not None else None


# --- in words -----------------------------------------------------------------------------------


def format_description(found: Description) -> str:
    """The description for a terminal."""
    lines = [
        f"{found.file}: {found.format}, {_size(found.size_bytes)}, sha256 {found.file_digest[:12]}",
    ]
    if found.weights_key is not None:
        key = found.weights_key or "the whole file"
        lines.append(_line("weights", f"{key}: {found.tensors} tensors, {', '.join(found.types)}"))
    same = f" (the same function: {', '.join(found.same_as)})" if found.same_as else ""
    network = f"{found.network}{same}, {found.network_from}" if found.network else _unknown(found)
    lines.append(_line("network", network))
    # Counted with the library's thousand classes: the head is a small part of it.
    macs = f", about {found.macs / 1e6:,.0f} M MACs per image" if found.macs is not None else ""
    lines.append(_line("size", f"{found.parameters:,} parameters{macs}"))
    lines.append(_line("classes", str(found.classes) if found.classes else "not known"))
    for name, setting in (("input", found.input), ("mean", found.mean), ("std", found.std)):
        lines.append(_line(name, _format_setting(name, setting)))
    lines.append(_line("signals", _signals(found)))
    lines += [_line("note", note) for note in found.notes]
    for question in found.questions:
        lines.append(_line("missing", f"{question.option} {question.text}"))
        lines += [
            _line("", f"  {value}{f'  {apart}' if apart else ''}")
            for value, apart in question.choices.items()
        ]
    return "\n".join(lines)


def _unknown(found: Description) -> str:
    names = [name for each in found.questions if "--arch" in each.option for name in each.choices]
    if len(names) == 1:
        return f"looks like {names[0]}"
    return f"one of the {len(names)} below" if names else "not known"


def _line(head: str, rest: str) -> str:
    return f"  {head:9}{rest}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e5 else f"{size_bytes:,} bytes"


def _format_setting(name: str, setting: StatedValue | None) -> str:
    if setting is None:
        return "not known"
    if name == "input":
        value = "x".join(str(int(size)) for size in setting.value)
    else:
        value = ", ".join(f"{number:g}" for number in setting.value)
    return f"{value}  from {setting.origin}"


def _signals(found: Description) -> str:
    if not found.batch_norm_layers:
        return "its answers and features; no batch-norm, so inversion lacks its best signal"
    layers = f"its answers and features; {found.batch_norm_layers} batch-norm layers"
    if found.batch_norm_trained is None:
        return layers
    return f"{layers}, {'trained' if found.batch_norm_trained else 'untrained'} statistics"


# --- the TOML file ------------------------------------------------------------------------------


def write_toml(known: Inspection, found: Description, *, force: bool) -> str:
    """Write what is known beside the teacher, with what is missing as comments to fill in.

    Returns:
        One line that says what was done: a file that is there is kept unless `force`.

    Raises:
        UsageError: it cannot be written there.
    """
    path = known.known.path
    beside = toml_beside(path)
    if beside is not None and not force:
        return f"kept {beside}, which is read with the teacher (--force rewrites it)"
    out = beside or toml_path(path)
    with translate_os_errors(out):
        write_atomically(out, toml(known, found))
    todo = " with lines to fill in" if found.questions else ""
    return f"{_write_factory(known, force=force)}wrote {out}{todo}: it is read with the teacher, and options of the command line win"


def _write_factory(known: Inspection, *, force: bool) -> str:
    """Write a factory to look through, where all but the head is known; a line that says so."""
    text, path = known.known.factory, factory_path(known.known.path)
    if text is None:
        return ""
    if path.exists() and not force:
        return f"kept {path} (--force rewrites it)\n"
    with translate_os_errors(path):
        write_atomically(path, text)
    return f"wrote {path}: a factory with the layers that the file has; look at its lines with CHECK, then --arch {path}:{FACTORY}\n"


def toml(known: Inspection, found: Description) -> str:
    """The text of the TOML file."""
    metadata = known.known.metadata.options
    lines = [
        f"# {found.file}, sha256 {found.file_digest}",
        f"schema_version = {METADATA_VERSION}",
    ]
    if isinstance(known, Pt2File | OnnxFileFound):
        lines.append(f"# the network is in the file: {found.network_from}")
    elif found.network is not None:
        same = f"  # the same function: {', '.join(found.same_as)}" if found.same_as else ""
        arch = metadata.arch or found.network
        lines.append(f"arch = {json.dumps(arch)}{same}")
    elif any(question.option.startswith("--arch") for question in found.questions):
        lines += _open(found, "arch")
    if metadata.weights is not None:
        lines.append(f"weights = {json.dumps(metadata.weights)}")
    elif found.other_weights:
        lines.append(f"# weights = {json.dumps(found.other_weights[0])}  # another set in the file")
    for name, setting in (("input", found.input), ("mean", found.mean), ("std", found.std)):
        if setting is None:
            lines += _open(found, name)
            continue
        numbers = [int(value) if name == "input" else value for value in setting.value]
        lines.append(f"{name} = {json.dumps(numbers)}  # {setting.origin}")
    # Of a network that is not known it would be a guess, which might refuse the true one
    if found.classes and found.network is not None:
        lines.append(f"classes = {found.classes}")
    names = metadata.class_names
    lines.append(
        f"class_names = {json.dumps(list(names), ensure_ascii=False)}"
        if names
        else '# class_names = ["first", "second"]  # in the order of the teacher\'s outputs'
    )
    if metadata.flip is not None:
        lines.append(f"flip = {json.dumps(metadata.flip)}")
    return "\n".join(lines) + "\n"


_EXAMPLES: Final = {
    "arch": '"timm:NAME"',
    "input": "[3, 224, 224]",
    "mean": "[0.485, 0.456, 0.406]",
    "std": "[0.229, 0.224, 0.225]",
}


def _open(found: Description, key: str) -> list[str]:
    """Comments to fill in, for what is missing."""
    lines = []
    for question in found.questions:
        if f"--{key} " not in question.option:
            continue
        lines.append(f"# {key}: {question.text}")
        for value, apart in question.choices.items():
            lines.append(f"# {key} = {_as_toml(key, value)}{f'  # {apart}' if apart else ''}")
        if not question.choices:
            lines.append(f"# {key} = {_EXAMPLES[key]}")
    return lines


def _as_toml(key: str, value: str) -> str:
    """A choice as a value of TOML: a name, a shape, or one of `--mean M,... --std S,...`."""
    if key == "arch":
        return json.dumps(value)
    if key == "input":
        return f"[{value.replace('x', ', ')}]"
    numbers = value.partition(f"--{key} ")[2].partition(" ")[0]
    return f"[{numbers.replace(',', ', ')}]"
