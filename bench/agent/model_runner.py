"""A model made ready to be called, by whichever runtime the board has.

A runtime is a module beside `ort_runtime` and `trt_python`, and a branch of `open_model` that gives a `Ready` of it: `call` takes
no argument and returns when the outputs are there, with nothing left to do; what the runtime lacks is a `RefusedError`. The names
that a host may ask for are `--runtime` in `__main__` and `BenchConfig`.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional

from edgekd.bench.agent import ort_runtime
from edgekd.bench.agent.errors import RefusedError

Ready = NamedTuple(
    "Ready",
    [
        ("call", Callable[[], None]),  # one inference: inputs in, outputs out, all work done
        ("runtime", str),
        ("provider", str),
        ("inputs", List[Dict[str, Any]]),
        # Bytes that an engine says it needs: weights, and scratch for one context.
        ("declared", Optional[Dict[str, Optional[int]]]),
        # What the runtime warned of until now, each line once
        ("said", Callable[[], List[str]]),
    ],
)


def open_model(options: Any) -> Ready:
    """By ONNX Runtime, or an engine by TensorRT's Python module.

    Raises:
        RefusedError: the runtime is missing, or cannot run it.
    """
    if options.runtime == "tensorrt":
        return _tensorrt(options)
    if options.runtime != "onnxruntime":
        raise RefusedError("missing-runtime", "trtexec runs a model by itself alone")
    module = ort_runtime.import_runtime()
    session = ort_runtime.open_session(
        module, options.model, options.threads, arena=not options.no_arena
    )
    feed = ort_runtime.make_inputs(session, options.inputs, options.seed, options.batch)
    return Ready(
        ort_runtime.call_of(session, feed),
        "onnxruntime " + module.__version__,
        session.get_providers()[0],
        [
            {"name": name, "dtype": str(array.dtype), "shape": list(array.shape)}
            for name, array in feed.items()
        ],
        None,
        list,
    )


def import_only(options: Any) -> Any:
    """The runtime's module, without a model.

    Raises:
        RefusedError: it is not there, or is a program.
    """
    if options.runtime == "onnxruntime":
        return ort_runtime.import_runtime()
    if options.runtime == "trtexec":
        raise RefusedError("missing-runtime", "the memory of trtexec is not the model's")
    from edgekd.bench.agent import cuda, trt_python

    module = trt_python.import_tensorrt()
    device = cuda.Cuda(cuda.find_library(options.cudart))
    # The context of CUDA belongs to the runtime
    device.__enter__()
    return module, device


def _tensorrt(options: Any) -> Ready:
    from edgekd.bench.agent import cuda, trt_python

    if options.inputs is not None:
        raise RefusedError("inputs", "values can be given to ONNX Runtime alone")
    trt = trt_python.import_tensorrt()
    device = cuda.Cuda(cuda.find_library(options.cudart))
    # Until this process ends: what is measured keeps it
    device.__enter__()
    with open(options.model, "rb") as stream:
        plan = stream.read()
    opened = trt_python.open_engine(trt, device, plan, seed=options.seed, batch=options.batch)
    return Ready(
        opened.call,
        "tensorrt {} (python)".format(trt_python.version_of(trt)),
        "SM " + device.sm(),
        opened.inputs,
        opened.declared,
        opened.said,
    )
