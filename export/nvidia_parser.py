"""What NVIDIA's own ONNX parser and builder say of a file: TensorRT-RTX, which needs no GPU for that.

TensorRT itself has no package for machines without its libraries. TensorRT-RTX (PyPI:
tensorrt-rtx-cu13-bindings and -libs, x86-64 Linux) is built of the same parser and of a compiler of its
own. So its verdict stands beside edgekd's and is never mixed with it: it is one version's, for PCs' GPUs.
"""

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from edgekd.errors import InputFileError, MissingToolError
from edgekd.records import Fact, Precision, compute_capabilities, from_json, printable, record

T = TypeVar("T")
# As the package without bindings of its own calls it, and as the bindings do
MODULES: Final = ("tensorrt_rtx", "tensorrt_rtx_bindings")
NAME: Final = "TensorRT-RTX"
INSTALL: Final = "pip install 'edgekd[tensorrt-rtx]'"
# Compute capabilities that TensorRT-RTX builds for
SMS: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
# Of these the one for which it compiles no products in FP32, which TensorRT does on Xavier (7.2)
TURING: Final = "7.5"
# The nearest to Orin's 8.7
DEFAULT_SM: Final = "8.6"
# For one file
TIMEOUT_S: Final = 300.0
# Letters of a message; assertions of the parser hold whole expressions
_LONGEST: Final = 400


@record
class ParserReason:
    """Why the parser or the builder refused a file, in its own words."""

    # None: it named none
    node: str | None
    operator: str | None
    message: str


@record
class ParserAnswer:
    """What it said of one file."""

    read: bool
    parse_s: float
    reasons: tuple[ParserReason, ...]
    # None: it was not built, because it could not be read or because no GPU was named
    built: bool | None = None
    build_s: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def taken(self) -> bool:
        """Whether it was read, and built where that was tried."""
        return self.read and self.built is not False


def in_words(answer: ParserAnswer, sms: Sequence[str], *, timed: bool = True) -> str:
    """What it said, in a few words; with the time of the build, which is never twice the same, or without."""
    named = ", ".join(sms)
    took = f" in {answer.build_s:.1f} s" if timed and answer.build_s is not None else ""
    if not answer.read:
        return "refused"
    return {
        True: f"read, built for SM {named}{took}",
        False: f"read, not built for SM {named}",
        None: "read; not built, because an input holds sizes of tensors",
    }[answer.built]


def sms_of(facts: Mapping[str, Fact], precision: Precision | None = None) -> tuple[str, ...]:
    """What to build for: the highest compute capability that TensorRT-RTX knows and the board's GPU has.

    Of each where a board is sold with several. For GPUs that are older than all that it knows, the first that compiles everything.
    """
    found = []
    for sm in compute_capabilities(facts):
        below = [known for known in SMS if numbers_of(known) <= numbers_of(sm)]
        found.append(below[-1] if below else SMS[1])
    # TensorRT-RTX 1.7 compiles no product of matrices in FP32 for Turing (findings/fp32-products-on-turing.sh).
    sms = [sm for sm in found if precision != "fp32" or sm != TURING]
    return tuple(dict.fromkeys(sms)) or (DEFAULT_SM,)


def numbers_of(sm: str) -> tuple[int, ...]:
    """A compute capability, to compare."""
    return tuple(int(part) for part in sm.split(".") if part.isdecimal())


@record
class _Start:
    """The first line of the process."""

    version: str | None = None
    error: str | None = None


class ParserDiedError(Exception):
    """The process ended, was ended before it answered, or answered nonsense; whoever asks says so and goes on."""


@record
class ParserRequest:
    """One file to look at."""

    model: Path
    # Compute capabilities to build for; none: only read
    sms: tuple[str, ...] = (DEFAULT_SM,)
    # Where the engine goes
    plan: Path | None = None


def find_module() -> str | None:
    """The name of TensorRT-RTX's Python module; None where it is not installed."""
    return next((name for name in MODULES if importlib.util.find_spec(name) is not None), None)


def require_module() -> str:
    """The same.

    Raises:
        MissingToolError: it is not installed; with how to install it.
    """
    found = find_module()
    if found is None:
        raise MissingToolError(
            f"{NAME}, which holds NVIDIA's parser, is not installed: {INSTALL} (x86-64 Linux; NVIDIA's licence)"
        )
    return found


class NvidiaParser:
    """NVIDIA's parser in a child process, from the start of the block to its end.

    The child works while its caller does something else; `answers` waits for it.
    """

    def __init__(self, requests: Sequence[ParserRequest], *, timeout_s: float = TIMEOUT_S) -> None:
        """Nothing is started yet.

        Args:
            requests: what is asked, in order.
            timeout_s: seconds for each; when all of them together are over, the process is ended.

        Raises:
            MissingToolError: it is not installed.
        """
        module = require_module()
        self._command = [sys.executable, "-P", "-m", "edgekd.export.parser_process", module]
        self._requests = requests
        self._timeout_s = timeout_s * max(len(requests), 1)
        self.version: str | None = None

    def __enter__(self) -> Self:
        # From a file, so that it begins at once, whoever waits for whom
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(map(_line, self._requests)).encode())
            asked.seek(0)
            self._process = subprocess.Popen(
                self._command, stdin=asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def answers(self) -> Iterator[ParserAnswer]:
        """What it says of each file.

        Raises:
            MissingToolError: the module is there and does not load.
            ParserDiedError: it ended before it had answered, or answered nonsense; what came before was given out.
        """
        late = False
        try:
            said, words = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            late = True
            self._process.kill()
            said, words = self._process.communicate()
        lines = [line for line in said.splitlines(keepends=True) if line.endswith(b"\n")]
        if not lines:
            raise ParserDiedError(self._how_it_ended(words, late=late))
        start = _read(_Start, lines[0])
        if start.version is None:
            raise MissingToolError(
                f"{NAME} is installed and does not load: {clean(start.error or '')}"
            )
        self.version = clean(start.version)
        for line in lines[1:]:
            yield _cleaned(_read(ParserAnswer, line))
        if len(lines) - 1 < len(self._requests):
            raise ParserDiedError(self._how_it_ended(words, late=late))

    def _how_it_ended(self, words: bytes, *, late: bool) -> str:
        if late:
            return f"no answer within {self._timeout_s:g} s; it was ended"
        code = self._process.returncode
        how = f"with exit code {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}"
        last = words.decode(errors="replace").strip().splitlines()[-1:]
        return f"its process ended {how} before it answered" + "".join(
            f": {clean(e)}" for e in last
        )


def _read(kind: type[T], line: bytes) -> T:
    # What a process says is not trusted because it was started here.
    try:
        return from_json(kind, line, origin=NAME)
    except InputFileError as error:
        raise ParserDiedError(f"its process answered nonsense: {clean(str(error))}") from error


def _line(request: ParserRequest) -> str:
    plan = None if request.plan is None else str(request.plan.absolute())
    # Where links lead to: /dev/stdin is another file to the child
    asked = {"model": str(request.model.resolve()), "sms": list(request.sms), "plan": plan}
    return json.dumps(asked) + "\n"


def _cleaned(answer: ParserAnswer) -> ParserAnswer:
    """The answer with texts that can be shown: names and words come from the file."""
    return ParserAnswer(
        read=answer.read,
        parse_s=answer.parse_s,
        reasons=tuple(
            ParserReason(
                node=None if each.node is None else clean(each.node),
                operator=None if each.operator is None else clean(each.operator),
                message=clean(each.message),
            )
            for each in answer.reasons
        ),
        built=answer.built,
        build_s=answer.build_s,
        warnings=tuple(map(clean, answer.warnings)),
    )


def clean(text: str) -> str:
    """Text of a file or a library as one line that can be shown."""
    return " ".join(printable(text).split())[:_LONGEST]
