"""What a program says of itself as a teacher: `.pt2` and ONNX files have their network in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekd.distill.models.parameter_names import Shape
from edgekd.distill.teachers import architecture_recognition
from edgekd.distill.teachers.architecture_recognition import PublishedPreprocessing
from edgekd.distill.teachers.checkpoints.checkpoint_contents import WeightSet
from edgekd.distill.teachers.checkpoints.pickle_values import StorageRef, TensorRef
from edgekd.distill.teachers.inspection.clarifications import Clarifications
from edgekd.distill.teachers.inspection.kinds import (
    Known,
    Network,
    OnnxFileFound,
    Pt2File,
    SourcedValue,
)
from edgekd.distill.teachers.metadata import Metadata, TeacherOptions, merge_metadata
from edgekd.errors import InputFileError, UsageError

# Either is imported when its kind of file comes
if TYPE_CHECKING:
    from edgekd.distill.teachers.onnx.loader import OnnxFile
    from edgekd.distill.teachers.pt2.loader import ProgramFile


def inspect_program(
    path: Path, format_: Literal["pt2", "onnx"], options: TeacherOptions
) -> Pt2File | OnnxFileFound:
    """What is known of a program before it is run.

    Raises:
        InputFileError: it cannot be read, is refused, or is no classifier of images.
        UsageError: an option contradicts the program, or is for weights alone.
    """
    metadata = merge_metadata(path, {}, options)
    if metadata.options.arch is not None or metadata.options.weights is not None:
        raise UsageError(
            f"{path}: --arch and --weights are for files of weights; this file has its network in it."
        )
    try:
        program = _read(path, format_)
    except InputFileError:
        if format_ != "pt2" or not metadata.options.trust_pickle:
            raise
        return _inspect_trusted(path, metadata)
    asked = Clarifications(metadata)
    # ONNX files need not keep the names
    like = _like(getattr(program, "shapes", {}))
    size = program.input or metadata.options.input
    channels = size[0] if size is not None else 3
    known = architecture_recognition.settings(like, channels=channels) if like else None
    told = _input(path, metadata, program.input, known, asked)
    origin = _origin(like)
    if getattr(program, "takes_bytes", False):
        known, origin = _of_bytes(path, metadata, channels), "its graph, which takes bytes"
    mean, std = asked.normalisation(known, origin)
    network = Network(
        source=format_,
        name=path.stem,
        because=f"its own graph of {program.nodes:,} operators"
        + (f"; names and shapes are those of {like[0]}" if like else ""),
    )
    found = Known(
        path=path,
        format=format_,
        metadata=metadata,
        channels=size[0] if size is not None else None,
        classes=program.classes,
        input=told,
        mean=mean,
        std=std,
        parameters=program.parameters,
        macs=None,
        batch_norm_layers=program.batch_norm_layers,
        batch_norm_trained=None,
        questions=tuple(asked.questions),
        notes=(*program.notes, *asked.notes),
    )
    if format_ == "pt2":
        return Pt2File(known=found, network=network)
    return OnnxFileFound(known=found, network=network)


def _read(path: Path, format_: Literal["pt2", "onnx"]) -> "ProgramFile | OnnxFile":
    if format_ == "pt2":
        from edgekd.distill.teachers.pt2.loader import read_program

        return read_program(path)
    from edgekd.distill.teachers.onnx.loader import read_onnx

    return read_onnx(path)


def _inspect_trusted(path: Path, metadata: Metadata) -> Pt2File:
    """A `.pt2` that edgekd does not read itself, and that the user says torch may unpickle."""
    asked = Clarifications(metadata)
    input_ = asked.input(None, channels=None, origin="")
    mean, std = asked.normalisation(None, "")
    known = Known(
        path=path,
        format="pt2",
        metadata=metadata,
        channels=metadata.options.input[0] if metadata.options.input else None,
        classes=None,
        input=input_,
        mean=mean,
        std=std,
        parameters=0,
        macs=None,
        batch_norm_layers=0,
        batch_norm_trained=None,
        questions=tuple(asked.questions),
        notes=("it is unpickled by torch, as --trust-pickle says", *asked.notes),
    )
    network = Network(source="pt2", name=path.stem, because="its own graph, loaded by torch")
    return Pt2File(known=known, network=network)


def _of_bytes(path: Path, metadata: Metadata, channels: int) -> PublishedPreprocessing:
    """Of a program that takes pixels as bytes: whatever is done to them is inside.

    Raises:
        UsageError: the options say that images are normalised before.
    """
    zero, one = (0.0,) * channels, (1.0,) * channels
    mean, std = metadata.options.mean, metadata.options.std
    if any(mean or ()) or any(value != 1 for value in std or ()):
        raise UsageError(
            f"{path}: takes pixels as bytes, and mean and standard deviation are inside: leave out --mean and --std, in "
            "its TOML file too."
        )
    return PublishedPreprocessing(inputs=(), others=(), normalisations=((zero, one),))


def _like(shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Networks of the libraries with these names: the graph is run, but they say how images are fed."""
    nothing = StorageRef(key="", dtype="float32", numel=0)
    tensors = {
        name: TensorRef(storage=nothing, dtype="float32", offset=0, shape=shape, stride=shape)
        for name, shape in shapes.items()
    }
    found = architecture_recognition.recognise(WeightSet(key="", tensors=tensors, prefix=""))
    if found is None:
        return ()
    return tuple(name for each in found.functions for name in each.names)


def _origin(like: tuple[str, ...]) -> str:
    source, _, name = like[0].partition(":") if like else ("", "", "")
    return f"{source}'s configuration of {name}"


def _input(
    path: Path,
    metadata: Metadata,
    inside: tuple[int, int, int] | None,
    known: PublishedPreprocessing | None,
    asked: Clarifications,
) -> SourcedValue | None:
    if inside is None:
        return asked.input(known, channels=None, origin="its library's configuration")
    if metadata.options.input not in {None, inside}:
        raise UsageError(
            f"{path}: the program takes {'x'.join(map(str, inside))}, but --input says "
            f"{'x'.join(map(str, metadata.options.input or ()))}."
        )
    return SourcedValue(value=inside, origin="its graph")
