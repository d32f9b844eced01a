"""Measure one thing, write JSON lines to stdout, end. Started as a file, or from an archive.

    __main__.py probe
    __main__.py run    --model M ...    latency of every call
    __main__.py memory --model M --stage runtime|session|runs
    __main__.py energy --model M ...    power while the model is called, and while it is not
    __main__.py sample --seconds S      power alone
    __main__.py build  --model M --engine E --vectors V ...    a TensorRT engine, tried on golden vectors
    __main__.py firstboot --bundle B --state S    what a bundle's model runs as here: made once, tried, kept
    __main__.py hold   --home H         keep the board for one host; until stdin closes
    __main__.py kit    --plan P --out O all that a plan asks, into one file

Each line is an object with an `event`. The first is `hello`, with the protocol that is spoken; the last is `end`, so that
a cut answer is seen as one. Exit codes are in `errors.py`.
"""

import argparse
import json
import os
import platform
import sys
import types
from typing import Any, Dict, List

MEASURING = ("probe", "run", "memory", "energy", "build", "firstboot")


def _be_the_package() -> None:
    """Let `edgekd.bench.agent` mean this folder or archive, with nothing else of edgekd around it.

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
    parser.add_argument("command", choices=[*MEASURING, "sample", "hold", "kit"])
    parser.add_argument("--protocol", type=int, help="that the host speaks")
    parser.add_argument("--inner", action="store_true", help="this is the child that measures")
    parser.add_argument("--watch-stdin", action="store_true", help="end when it closes")
    parser.add_argument("--deadline-s", type=float)
    parser.add_argument("--run-folder", help="of the contact that this belongs to")
    parser.add_argument(
        "--model", help="ONNX, or an engine; build goes without where the engine is there"
    )
    parser.add_argument("--model-digest", help="SHA-256 that the model must have")
    parser.add_argument(
        "--runtime",
        choices=["onnxruntime", "tensorrt", "trtexec"],
        help="default: onnxruntime; firstboot: the bundle's",
    )
    parser.add_argument("--no-arena", action="store_true", help="of ONNX Runtime's memory")
    parser.add_argument("--inputs", help=".npy or .npz; random values without it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="where the model leaves it open")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup-min-s", type=float, default=0.5)
    parser.add_argument("--warmup-max-s", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--max-runs", type=int, default=10000)
    parser.add_argument(
        "--fps", type=float, help="a call is due so often; without it, back to back"
    )
    parser.add_argument("--stage", choices=["runtime", "session", "runs"], default="runs")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--sysfs", default="/sys")
    parser.add_argument("--proc", default="/proc")
    parser.add_argument("--root", default="/")
    parser.add_argument("--home", help="the agent's folder on a board")
    parser.add_argument("--owner", default="somebody", help="who holds the board")
    parser.add_argument("--silence-s", type=float, default=30.0)
    parser.add_argument("--plan", help="JSON of what a kit is to do")
    parser.add_argument("--out", help="where a kit's answers go")
    _add_power(parser)
    _add_build(parser)
    parser.add_argument("--bundle", help="folder of a bundle")
    parser.add_argument("--state", help="folder that outlives updates, for what firstboot makes")
    return parser


def _add_power(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sensor", default="auto", help="a name; none: windows without readings")
    parser.add_argument("--idle-seconds", type=float, default=2.0, help="before, and after")
    parser.add_argument("--on-gpu", action="store_true", help="the model runs on a graphics card")
    parser.add_argument("--gpu", type=int, default=0, help="its number for NVML")
    parser.add_argument("--core", type=int, help="that the sampler stays on")
    parser.add_argument("--until-closed", action="store_true", help="sample until stdin closes")


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", help="file to write; its record and timing cache go beside it")
    parser.add_argument("--vectors", help="JSON of golden vectors")
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8"],
        help="default: fp32; firstboot: that of the bundle's last model",
    )
    parser.add_argument("--typing", choices=["weak", "strong"], default="weak")
    parser.add_argument("--tool", choices=["auto", "python", "trtexec"], default="auto")
    parser.add_argument("--trtexec", help="the program")
    parser.add_argument("--cudart", help="the library")
    parser.add_argument("--workspace-mb", type=int)
    parser.add_argument("--open-input", action="append", default=[], metavar="NAME:1x3x32x32")
    parser.add_argument("--dla", type=int, metavar="CORE")
    parser.add_argument("--pin", action="append", default=[], metavar="LAYER", help="to FP32")
    parser.add_argument("--timing-cache")
    parser.add_argument("--timing-cache-digest")
    parser.add_argument("--rebuild", action="store_true")
    parser.add_argument("--expect-tensorrt", metavar="10.3", help="refuse another one")
    parser.add_argument("--expect-sm", metavar="8.7", help="refuse another GPU")


def _reserve_stdout() -> Any:
    """Keep stdout for the protocol: what libraries print there goes to stderr from now on."""
    sys.stdout.flush()
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


NEEDED = {
    "run": ("model",),
    "memory": ("model",),
    "energy": ("model",),
    "build": ("engine", "vectors"),
    "firstboot": ("bundle", "state"),
    "hold": ("home",),
    "kit": ("plan", "out"),
}


def main() -> int:
    _be_the_package()
    from edgekd.bench.agent import commands, errors

    parser = _parser()
    options = parser.parse_args()
    for name in NEEDED.get(options.command, ()):
        if getattr(options, name) is None:
            parser.error("{} needs --{}".format(options.command, name))
    if options.command != "firstboot":
        options.runtime = options.runtime or "onnxruntime"
        options.precision = options.precision or "fp32"
    lines = _reserve_stdout()

    def emit(event: str, **fields: Any) -> None:
        json.dump(dict(fields, event=event), lines, allow_nan=False)
        lines.write("\n")
        lines.flush()

    if not options.inner:
        emit(
            "hello",
            protocol=commands.PROTOCOL,
            agent=commands.VERSION,
            python=platform.python_version(),
        )
    code = 0
    try:
        if options.inner:
            commands.COMMANDS[options.command](options, emit)
            return 0
        commands.check_protocol(options.protocol)
        if options.command in MEASURING:
            code = commands.run_supervised(options, sys.argv[1:], lines)
        else:
            commands.COMMANDS[options.command](options, emit)
    except errors.RefusedError as refusal:
        emit("refused", kind=refusal.kind, message=str(refusal))
        return refusal.exit_code
    if code == 0:
        emit("end")
    return code


if __name__ == "__main__":
    sys.exit(main())
