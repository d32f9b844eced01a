"""Ask one library what it can do, in a process of its own: `python probes.py NAME`.

A library that crashes, hangs or prints while it is imported then takes only this process with it.
Run as a file and not as a module of edgekd: the standard library and the library asked, nothing
else. The last line that is printed is the answer, as JSON.
"""

import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final

Response = dict[str, Any]


def torch_probe() -> Response:
    import torch

    answer: Response = {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "gpus": [],
        "cuda_problem": None,
        # Which models for JetPack 6.0 and older are written with.
        "torchscript_exporter": "dynamo" in inspect.signature(torch.onnx.export).parameters,
    }
    try:
        if torch.cuda.is_available():
            answer["gpus"] = [_gpu(torch, index) for index in range(torch.cuda.device_count())]
    except Exception as error:  # a driver that does not fit says so in many classes
        answer["cuda_problem"] = _format_error(error)
    return answer


def _gpu(torch: Any, index: int) -> Response:  # noqa: ANN401
    found = torch.cuda.get_device_properties(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {
        "name": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "bf16": bf16,
    }


def torchvision_probe() -> Response:
    """Its operators are compiled against one torch; another makes this import fail."""
    import torchvision

    return {"version": torchvision.__version__}


def onnxruntime_probe() -> Response:
    import onnxruntime

    return {
        "version": onnxruntime.__version__,
        "providers": onnxruntime.get_available_providers(),
    }


def tensorrt_probe() -> Response:
    import tensorrt

    return {"version": tensorrt.__version__}


def tensorrt_rtx_probe() -> Response:
    """Under either of the names that its packages have."""
    try:
        import tensorrt_rtx as rtx
    except ModuleNotFoundError:
        import tensorrt_rtx_bindings as rtx
    return {"version": rtx.__version__}


def light_probe() -> Response:
    """Small libraries that the commands need, one after another; one that fails stops no other."""
    found: Response = {}
    for module in ("numpy", "onnx", "onnx_ir", "PIL", "safetensors"):
        try:
            found[module] = {"version": str(getattr(__import__(module), "__version__", "")) or None}
        except Exception as error:  # whatever it is, it is the answer
            found[module] = {"problem": _format_error(error)}
    return found


PROBES: Final[dict[str, Callable[[], Response]]] = {
    "torch": torch_probe,
    "torchvision": torchvision_probe,
    "onnxruntime": onnxruntime_probe,
    "tensorrt": tensorrt_probe,
    "tensorrt-rtx": tensorrt_rtx_probe,
    "light": light_probe,
}


def _format_error(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}".rstrip(": ")


def main() -> None:
    """Response for the library that is named."""
    # Libraries print to stdout while they are imported; the answer gets it for itself.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    started = time.perf_counter()
    try:
        answer = PROBES[sys.argv[1]]()
    except BaseException as error:  # also a library that calls sys.exit
        answer = {"problem": _format_error(error)}
    answer["took_s"] = time.perf_counter() - started
    out.write(json.dumps(answer) + "\n")
    out.flush()
    # A library that hangs or crashes while it is unloaded is not asked about that.
    os._exit(0)


if __name__ == "__main__":
    main()
