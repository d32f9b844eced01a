"""A student's folder: its record, its network, its weights."""

from pathlib import Path
from typing import Final

from torch import nn

from edgekd.distill.models.architectures import BUILDABLE
from edgekd.distill.pruning.build_network import build_network
from edgekd.distill.teachers.pt2.loader import load_program
from edgekd.distill.teachers.state_dict import read_weights
from edgekd.errors import InputFileError
from edgekd.files import digest_of, read_text
from edgekd.records import Cut, Student, from_json

RECORD: Final = "student.json"


def read_student(folder: Path) -> tuple[Student, nn.Module]:
    """The record and the network, in evaluation mode; nothing of the folder is trusted.

    Raises:
        InputFileError: a file is missing, or not the one that the record names.
    """
    origin = folder / RECORD
    student = from_json(Student, read_text(origin), origin=str(origin), schema="student")
    weights = folder / student.checkpoint
    _require(weights, student.digest, "weights")
    module = _build(folder, student)
    try:
        module.load_state_dict(read_weights(weights).state)
    except RuntimeError as error:
        raise InputFileError(
            f"{weights}: not the weights of {student.architecture} ({error})."
        ) from error
    return student, module.eval().requires_grad_(False)


def _build(folder: Path, student: Student) -> nn.Module:
    """The network with whatever weights."""
    cut = _read_cut(folder, student)
    architecture = student.architecture
    if architecture.source in BUILDABLE:
        return build_network(architecture, cut, origin=str(folder / (student.cut or RECORD)))
    if student.program is None or student.program_digest is None:
        raise InputFileError(
            f"{folder / RECORD}: {architecture} cannot be built from its name, and no program of it is named. Distil again."
        )
    path = folder / student.program
    _require(path, student.program_digest, "program")
    return load_program(path)


def _read_cut(folder: Path, student: Student) -> Cut | None:
    if student.cut is None or student.cut_digest is None:
        return None
    path = folder / student.cut
    _require(path, student.cut_digest, "record of the cut")
    cut = from_json(Cut, read_text(path), origin=str(path), schema="cut")
    if cut.teacher_digest != student.teacher_digest:
        raise InputFileError(f"{path}: the record of a cut of another teacher than {RECORD} names.")
    return cut


def _require(path: Path, digest: str, what: str) -> None:
    """Raise unless a file is there and the one that the record names."""
    if not path.is_file():
        raise InputFileError(
            f"{path}: missing, the {what} that {RECORD} names. Copy the student's whole folder."
        )
    if digest_of(path) != digest:
        raise InputFileError(f"{path}: not the {what} that {RECORD} names.")
