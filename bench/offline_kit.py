"""A folder to carry to a board that cannot be reached, and what it brings back."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.requests import UploadedModel
from edgekd.bench.protocol.responses import PROTOCOL, Response
from edgekd.bench.runner import Subject
from edgekd.bench.transport import agent_process
from edgekd.bench.transport.agent_zipapp import agent_archive
from edgekd.errors import DeviceError, InputFileError, IntegrityError
from edgekd.files import digest_of, read_text
from edgekd.records import (
    Precision,
    from_json,
    record,
    to_json,
)

# Of bench/agent/offline_kit.py
FORMAT: Final = 1
AGENT: Final = "agent.pyz"
PLAN: Final = "plan.json"
RESULT: Final = "result.json"
CONFIG: Final = "kit.json"
MAX_RESULT_BYTES: Final = 512 * 2**20
_README: Final = """edgekd offline kit

On the board, in this folder, with nothing else running:

    sh run.sh

It writes {result}. Bring that file back, and take it in where this folder was made:

    edgekd bench import {result} --kit .
"""
_RUN: Final = """#!/bin/sh
# Measures what plan.json asks for and writes {result}. Needs Python 3.6 or newer and {runtime}.
cd "$(dirname "$0")" && exec "${{PYTHON:-python3}}" {agent} kit --plan {plan} --out {result}
"""


@record
class _Model:
    file: str
    name: str
    precision: Precision
    digest: str


@record
class Kit:
    """What a kit asks, for whoever takes its answers in: `kit.json`."""

    models: tuple[_Model, ...]
    config: BenchConfig
    runtime: Literal["onnxruntime", "tensorrt", "trtexec"]
    target: str | None
    plan_sha256: str


@record
class _Said:
    arguments: tuple[str, ...]
    code: int
    stdout: Annotated[str, Field(max_length=MAX_RESULT_BYTES)]
    stderr: Annotated[str, Field(max_length=8192)]


@record
class _Result:
    plan_sha256: str
    answers: Annotated[tuple[_Said, ...], Field(max_length=10_000)]


def write_kit(
    folder: Path,
    subjects: Sequence[Subject],
    config: BenchConfig,
    *,
    runtime: requests.Runtime,
    target: str | None,
) -> None:
    """Fill an empty folder with the agent, the models and a plan.

    Args:
        folder: exists, and is empty.
        subjects: ONNX files for ONNX Runtime, engines for TensorRT.
        config: how long and how often.
        runtime: that the board has.
        target: the board that the models are for.
    """
    (folder / AGENT).write_bytes(agent_archive())
    inputs = None
    if config.inputs is not None:
        inputs = f"inputs{config.inputs.suffix}"
        shutil.copyfile(config.inputs, folder / inputs)
    models, placed = [], []
    for number, subject in enumerate(subjects):
        name = f"model-{number}{subject.file.suffix}"
        shutil.copyfile(subject.file, folder / name)
        digest = digest_of(subject.file)
        models.append(
            _Model(file=name, name=subject.name, precision=subject.precision, digest=digest)
        )
        placed.append(UploadedModel(name, digest, inputs))
    asked: list[tuple[str, ...]] = [(*requests.probe(config), "--protocol", str(PROTOCOL))]
    asked += [
        (*question.arguments, "--protocol", str(PROTOCOL))
        for question in requests.questions(placed, config, runtime)
    ]
    environment = {"OMP_NUM_THREADS": str(config.threads)}
    plan = {
        "schema": "kit",
        "schema_version": FORMAT,
        "questions": [{"arguments": words, "environment": environment} for words in asked],
    }
    text = json.dumps(plan, indent=1)
    (folder / PLAN).write_text(text, encoding="utf-8")
    kit = Kit(
        models=tuple(models),
        config=BenchConfig(**{**vars(config), "inputs": None if inputs is None else Path(inputs)}),
        runtime=runtime,
        target=target,
        plan_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    (folder / CONFIG).write_text(to_json(kit, schema="kit"), encoding="utf-8")
    (folder / "README").write_text(_README.format(result=RESULT), encoding="ascii")
    needs = "ONNX Runtime" if runtime == "onnxruntime" else "TensorRT"
    run = folder / "run.sh"
    run.write_text(
        _RUN.format(agent=AGENT, plan=PLAN, result=RESULT, runtime=needs), encoding="ascii"
    )
    run.chmod(0o755)


def read_kit(folder: Path) -> Kit:
    """What a kit asks.

    Raises:
        InputFileError: it is no kit.
        IntegrityError: its plan is another one, or a model.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputFileError(
            f"{folder}: no offline kit. Write one: edgekd bench MODEL --offline-kit DIR"
        )
    kit = from_json(Kit, read_text(path), origin=str(path), schema="kit")
    for model in kit.models:
        if Path(model.file).name != model.file or not (folder / model.file).is_file():
            raise InputFileError(f"{folder}: its model {model.file!r} is not there.")
        if digest_of(folder / model.file) != model.digest:
            raise IntegrityError(
                f"{folder / model.file} is another file than the kit was made with."
            )
    return kit


class KitAccess:
    """The answers that a kit brought back; each question is answered once, in the order that it was asked."""

    def __init__(self, folder: Path, kit: Kit, result: Path) -> None:
        """Read them.

        Raises:
            InputFileError: no result of a kit, or too large.
            IntegrityError: it answers another plan.
        """
        self._folder = folder
        self.name = f"kit {result.name}"
        if not result.is_file():
            raise InputFileError(f"{result}: no such file.")
        if result.stat().st_size > MAX_RESULT_BYTES:
            raise InputFileError(
                f"{result}: larger than {MAX_RESULT_BYTES >> 20} MiB; no result of a kit is."
            )
        plain = from_json(_Result, result.read_bytes(), origin=str(result), schema="kit-result")
        if plain.plan_sha256 != kit.plan_sha256:
            raise IntegrityError(f"{result} answers another plan than the kit in {folder} asks.")
        self._answers: dict[tuple[str, ...], list[_Said]] = {}
        for output in plain.answers:
            self._answers.setdefault(output.arguments, []).append(output)

    def place(self, file: Path) -> str:
        return file.name

    def engine_path(self, name: str) -> str:
        return name

    def ask(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,  # noqa: ARG002 - it was asked long ago
        environment: Mapping[str, str] | None = None,  # noqa: ARG002
        heard: Callable[[Response], None] | None = None,
    ) -> list[Response]:
        there = self._answers.get((*arguments, "--protocol", str(PROTOCOL)), [])
        if not there:
            raise DeviceError(
                f"{self.name} has no answer to: {' '.join(arguments)}. Run the kit again."
            )
        output = there.pop(0)
        answers = agent_process.parse_answers(output.stdout.encode(), output.code, output.stderr)
        for answer in answers:
            if heard is not None:
                heard(answer)
        return answers
