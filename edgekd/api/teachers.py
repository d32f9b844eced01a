"""A teacher as functions of the API take it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import UsageError
from edgekd.records import TeacherInfo

if TYPE_CHECKING:
    from torch import nn

NOT_STATED = TeacherOptions()


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher file that is not loaded yet, with what the file itself does not state.

    Attributes:
        path: The file.
        options: What the file does not state of its network and its input.
    """

    path: Path
    options: TeacherOptions = NOT_STATED


@dataclass(frozen=True, kw_only=True)
class LoadedTeacher:
    """A teacher that was loaded and checked; functions take it in place of a path.

    They load it again from the same file, so changes to `module` do not reach them.

    Attributes:
        source: The file and the options that it was loaded with.
        info: What was found out about it: architecture, input, classes, batch-norm.
        module: The network: evaluation mode, on the CPU, (N, C, H, W) normalised images to (N, K) logits.
    """

    source: TeacherFile
    info: TeacherInfo
    module: "nn.Module"


TeacherLike: TypeAlias = "str | Path | TeacherFile | LoadedTeacher"


def load_teacher(
    path: str | Path,
    *,
    arch: str | None = None,
    input: tuple[int, int, int] | None = None,  # noqa: A002  # as the option and the TOML key are called
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    classes: int | None = None,
    class_names: Sequence[str] | None = None,
    flip: bool | None = None,
    weights: str | None = None,
    trust_pickle: bool = False,
) -> LoadedTeacher:
    """Load a teacher and find out what it is.

    What is not given is read from the TOML file beside the teacher, from the file itself, or recognised from its weights.

    Args:
        path: Weights (.pt, .pth, .ckpt, .safetensors and others), .pt2, TorchScript or ONNX.
        arch: Built-in architecture, `timm:NAME`, `torchvision:NAME` or `FILE.py:FACTORY` (runs that code).
        input: Channels, height and width in pixels.
        mean: Mean per channel of 0..1 pixels; one number is a single channel's.
        std: Standard deviation per channel of 0..1 pixels.
        classes: Number of classes.
        class_names: Names of the classes, in the order of the outputs.
        flip: Whether a mirrored image keeps its class; None means yes for colour images.
        weights: Which of several sets of weights in the file is taken, for example `ema`.
        trust_pickle: Whether code in the file may run: pickled modules, TorchScript.

    Returns:
        The teacher, to be passed on in place of a path.

    Raises:
        UsageError: An argument is of another type.
        InputFileError: The file cannot be used, or fits no known architecture.
        UsageError: Something has to be known that no source states; the message names the options.
    """
    import torch

    from edgekd.distill.teachers import loader

    try:
        options = TeacherOptions(
            arch=arch,
            input=input,
            mean=_as_tuple(mean),
            std=_as_tuple(std),
            classes=classes,
            class_names=None if class_names is None else tuple(class_names),
            flip=flip,
            weights=weights,
            trust_pickle=trust_pickle or None,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            "load_teacher: an argument is of the wrong type or shape: input is (channels, height, width), mean and std are "
            f"numbers ({_first_problem(error)})."
        ) from error
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"{path!r} is no path of a teacher file.")
    source = TeacherFile(path=Path(path), options=options)
    loaded = loader.load_teacher(source.path, options, generator=torch.Generator().manual_seed(0))
    return LoadedTeacher(source=source, info=loaded.info, module=loaded.module)


def teacher_file(teacher: TeacherLike) -> TeacherFile:
    """The file behind whatever a caller passed as a teacher."""
    if isinstance(teacher, LoadedTeacher):
        return teacher.source
    if isinstance(teacher, TeacherFile):
        return teacher
    if not isinstance(teacher, (str, os.PathLike)):
        raise UsageError(
            f"{type(teacher).__name__} is no teacher: pass the path of its file, or what load_teacher returned, not a module."
        )
    return TeacherFile(path=Path(teacher))


def _first_problem(error: Exception) -> str:
    """The first line of a validation that says which value is meant."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join(lines[1:3]) if len(lines) > 2 else lines[0]


def _as_tuple(value: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    return tuple(value) if isinstance(value, Sequence) else (float(value),)
