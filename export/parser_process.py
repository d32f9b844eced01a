"""NVIDIA's ONNX parser and builder in a process of their own: `python -m edgekd.export.parser_process MODULE`.

A request is a line of JSON on stdin, its answer a line on stdout. What the libraries print goes to
stderr. Native code reads files here that nobody vouches for; where it dies, only this process does.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

# Errors of one file that are told
MOST_REASONS: Final = 20
MOST_WARNINGS: Final = 20
_QUIET: Final = ("INFO", "VERBOSE")


# Of prctl(2)
_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Answer every request until stdin ends; the first line says which version answers."""
    # Who asked may be killed, and nobody would end this then.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def say(answer: dict[str, Any]) -> None:
            print(json.dumps(answer), file=answers, flush=True)

        try:
            trt: Any = importlib.import_module(sys.argv[1])
            # All of a process share the first logger, whatever later builders are given.
            logger = _logger(trt)
        except (ImportError, OSError, AttributeError) as error:
            say({"error": f"{type(error).__name__}: {error}"})
            return 1
        say({"version": str(trt.__version__)})
        for line in sys.stdin:
            logger.errors.clear()
            logger.warnings.clear()
            say(_answer(trt, logger, json.loads(line)))
    return 0


def _logger(trt: Any) -> Any:  # noqa: ANN401
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            if severity.name == "WARNING":
                self.warnings.append(msg)
            elif severity.name not in _QUIET:
                self.errors.append(msg)

    return Logger()


def _answer(trt: Any, logger: Any, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Read a file, and build it where that is asked for.

    Args:
        trt: the module.
        logger: what keeps its words.
        request: `model`, a path; `sms`, such as "8.6", or none to only read; `plan`, a path for the engine, or None.
    """
    data = Path(request["model"]).read_bytes()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    started = time.perf_counter()
    read = bool(parser.parse(data))
    answer: dict[str, Any] = {"read": read, "parse_s": time.perf_counter() - started, "reasons": []}
    if not read:
        answer["reasons"] = _reasons(parser) or [_reason(logger.errors)]
    elif request["sms"] and not _takes_shapes(network):
        started = time.perf_counter()
        plan = builder.build_serialized_network(
            network, _config(trt, builder, network, request["sms"])
        )
        answer["build_s"] = time.perf_counter() - started
        answer["built"] = plan is not None
        if plan is None:
            answer["reasons"] = [_reason(logger.errors)]
        elif request["plan"] is not None:
            Path(request["plan"]).write_bytes(plan)
    answer["warnings"] = list(dict.fromkeys(logger.warnings))[:MOST_WARNINGS]
    return answer


def _takes_shapes(network: Any) -> bool:  # noqa: ANN401
    """Whether an input holds sizes of tensors; an engine is built for values of such, and a file names none."""
    return any(network.get_input(place).is_shape_tensor for place in range(network.num_inputs))


def _config(trt: Any, builder: Any, network: Any, sms: list[str]) -> Any:  # noqa: ANN401
    """What is built for: the kinds of GPU, and one image where the batch is open."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(sms)
    for place, sm in enumerate(sms):
        name = "SM" + sm.replace(".", "")
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    profile = builder.create_optimization_profile()
    opened = False
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        if any(size < 0 for size in tensor.shape):
            shape = [max(int(size), 1) for size in tensor.shape]
            profile.set_shape(tensor.name, shape, shape, shape)
            opened = True
    if opened:
        config.add_optimization_profile(profile)
    return config


def _reasons(parser: Any) -> list[dict[str, str | None]]:  # noqa: ANN401
    found = [parser.get_error(place) for place in range(min(parser.num_errors, MOST_REASONS))]
    return [
        {
            "node": str(each.node_name()) or None,
            "operator": str(each.node_operator()) or None,
            "message": str(each.desc()),
        }
        for each in found
    ]


def _reason(words: list[str]) -> dict[str, str | None]:
    # The first says what failed, later ones who passed it on.
    return {"node": None, "operator": None, "message": words[0] if words else "it gave no reason"}


if __name__ == "__main__":
    sys.exit(main())
