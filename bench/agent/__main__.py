"""Measure one thing, write JSON lines to stdout, end. Started as a file, or from an archive.

    __main__.py run    --model M ...    latency of every call
    __main__.py memory --model M --stage runtime|session|runs
    __main__.py energy --model M ...    joules for each call

Each line is an object with an `event`; the last is `end`, so that a cut answer is seen as one.
Exit codes: 0 done, 2 the model or its inputs cannot be used, 3 the runtime is missing.
"""

import argparse
import json
import os
import sys
import types
from typing import Any, Dict, List


def _be_the_package() -> None:
    """Let `edgekd.bench.agent` mean this folder, with nothing else of edgekd around it.

    Imports then read the same here, in the host's tests and in an archive; and the folder leaves
    `sys.path`, where its names could hide those of a library.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    packages: Dict[str, List[str]] = {
        "edgekd": [],
        "edgekd.bench": [],
        "edgekd.bench.agent": [here],
    }
    for name, path in packages.items():
        package = types.ModuleType(name)
        package.__path__ = path
        sys.modules[name] = package
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgekd-agent")
    parser.add_argument("command", choices=["run", "memory", "energy"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--inputs", help=".npy or .npz; random values without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="where the model leaves it open")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup-min-s", type=float, default=0.5)
    parser.add_argument("--warmup-max-s", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--max-runs", type=int, default=10000)
    parser.add_argument("--stage", choices=["runtime", "session", "runs"], default="runs")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--sysfs", default="/sys")
    parser.add_argument("--proc", default="/proc")
    return parser


def _reserve_stdout() -> Any:
    """Keep stdout for the protocol: what libraries print there goes to stderr from now on."""
    sys.stdout.flush()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


def main() -> int:
    _be_the_package()
    from edgekd.bench.agent import commands, failures

    options = _parser().parse_args()
    lines = _reserve_stdout()

    def emit(event: str, **fields: Any) -> None:
        json.dump(dict(fields, event=event), lines, allow_nan=False)
        lines.write("\n")
        lines.flush()

    try:
        commands.COMMANDS[options.command](options, emit)
    except failures.RefusedError as refusal:
        emit("refused", kind=refusal.kind, message=str(refusal))
        return refusal.exit_code
    emit("end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
