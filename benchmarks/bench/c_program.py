"""The C program beside this file: built by the system's compiler, run with the shared library of the wheel."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgekd.bench.agent import ort_runtime
from edgekd.bench.config import BenchConfig

SOURCE: Final = Path(__file__).parent / "timing.c"
FLAGS: Final = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-Wall", "-Wextra", "-Werror")

Array = npt.NDArray[np.float32]


class NoCompilerError(Exception):
    """There is nothing here to build the program with, or to link it to."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What one process of the program said."""

    version: str  # of the runtime
    first_ns: int
    warmup_runs: int
    stationary: bool
    values_ns: tuple[int, ...]
    output: Array  # flat


def library() -> Path:
    """ONNX Runtime's shared library, out of the wheel.

    Raises:
        NoCompilerError: this wheel has none.
    """
    folder = Path(onnxruntime.__file__).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so.*"))
    if not found:
        raise NoCompilerError("this wheel of onnxruntime has no libonnxruntime.so")
    return found[-1]


def compiler() -> str:
    """The system's `cc`.

    Raises:
        NoCompilerError: there is none.
    """
    found = shutil.which("cc")
    if found is None:
        raise NoCompilerError("no C compiler here: apt install gcc libc6-dev")
    return found


def built(folder: Path) -> Path:
    """The program, in the folder.

    Raises:
        NoCompilerError: there is no compiler.
        subprocess.CalledProcessError: it does not compile.
    """
    program = folder / "timing"
    subprocess.run([compiler(), *FLAGS, str(SOURCE), "-o", str(program), "-ldl"], check=True)
    return program


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with one input and one output, and what goes in and comes out by Python."""

    model: Path
    input_name: str
    output_name: str
    values: Array
    expected: Array


def case_of(model: Path, config: BenchConfig) -> Case:
    """The agent's own session and inputs, run once."""
    session: Any = ort_runtime.open_session(
        ort_runtime.import_runtime(), str(model), config.threads
    )
    feed = ort_runtime.make_inputs(session, None, config.seed, config.batch)
    ((name, values),) = feed.items()
    (output,) = session.get_outputs()
    (expected,) = session.run([output.name], feed)
    return Case(
        model=model, input_name=name, output_name=output.name, values=values, expected=expected
    )


def command(program: Path, case: Case, config: BenchConfig, folder: Path) -> list[str]:
    """Words of a process of the program, by the rules of the configuration; its input is written."""
    given, found = _files(folder)
    case.values.tofile(given)
    return [
        *map(str, (program, library(), case.model, config.threads)),
        *map(str, (given, case.input_name, found, case.output_name)),
        *map(str, (config.warmup_min_s, config.warmup_max_s, config.seconds, config.max_runs)),
        *map(str, case.values.shape),
    ]


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "input.bin", folder / "output.bin"


def read(text: str, folder: Path) -> Timed:
    """What it printed, with the output that it wrote."""
    said = dict(line.split(" ", 1) for line in text.splitlines())
    return Timed(
        version=said["version"],
        first_ns=int(said["first_ns"]),
        warmup_runs=int(said["warmup_runs"]),
        stationary=said["stationary"] == "1",
        values_ns=tuple(map(int, said["values_ns"].split())),
        output=np.fromfile(_files(folder)[1], np.float32),
    )
