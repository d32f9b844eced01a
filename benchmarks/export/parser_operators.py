"""Which of many operators NVIDIA's parser has: `python parser_operators.py MODULE...`, names as JSON on stdin.

A process of its own, run by any Python that has one version of TensorRT-RTX and nothing else: only
the standard library is used. Prints JSON: the module's name, its version, the operators.
"""

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    # The library prints to stdout too.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    name, found = _find(sys.argv[1:])
    trt: Any = found

    class Quiet(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            pass

    logger = Quiet()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    known = [each for each in json.load(sys.stdin) if parser.supports_operator(each)]
    with answers:
        json.dump({"module": name, "version": str(trt.__version__), "operators": known}, answers)


def _find(names: list[str]) -> tuple[str, Any]:
    for name in names:
        try:
            return name, importlib.import_module(name)
        except ImportError:
            continue
    sys.exit(f"none of {', '.join(names)} is installed")


if __name__ == "__main__":
    main()
