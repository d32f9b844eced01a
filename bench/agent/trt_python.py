"""Every call of TensorRT's Python module, 8.5 to 11.4, and of TensorRT-RTX's, 1.4 to 1.7.

Quoted annotations say what a value is to TensorRT; `make check-tensorrt` holds every name and
keyword below against the real modules by them. What only some versions have is asked for with `hasattr`
first, by name: numbers of flags differ between versions.
"""

import importlib
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional

from edgekd.bench.agent import random_inputs
from edgekd.bench.agent.build_request import Built, Tool, Wish
from edgekd.bench.agent.cuda import Cuda
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.golden_vectors import Tensor, Vectors
from edgekd.bench.agent.trt_messages import distinct, last_words, refusal

if TYPE_CHECKING:
    from tensorrt import (
        Builder,
        DataType,
        IBuilderConfig,
        ICudaEngine,
        IExecutionContext,
        ILayer,
        ILogger,
        INetworkDefinition,
        IOptimizationProfile,
        ITimingCache,
        OnnxParser,
        ParserError,
        Runtime,
    )

# Tensors have names there; older ones are left to trtexec
OLDEST = (8, 5)
# By names that a Python may have them under, the first that is there is taken: TensorRT, and TensorRT-RTX as its
# metapackage and its wheel of bindings name it.
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
# Before the version of TensorRT-RTX, whose numbers are its own: 1.7 is newer than TensorRT 10, and loads none of its engines.
RTX = "rtx-"
# numpy's names of types, and TensorRT's.
TYPES = {"float32": "FLOAT", "int32": "INT32", "uint8": "UINT8"}

Progress = Callable[[str, int, int], None]
Opened = NamedTuple(
    "Opened",
    [
        ("call", Callable[[], None]),
        ("inputs", List[Dict[str, Any]]),
        ("declared", Dict[str, Optional[int]]),  # bytes: "weights", "scratch"
        ("said", Callable[[], List[str]]),  # until now, each line once
    ],
)
# What TensorRT says: errors alone, and warnings with them, in order.
Words = NamedTuple("Words", [("errors", List[str]), ("all", List[str])])
_PARSER = "ModelImporter.cpp:"
# By their module; see `_logger`.
_LOGGERS: Dict[Any, Any] = {}


def import_tensorrt() -> Any:
    """The module of TensorRT that this Python has, else of TensorRT-RTX.

    Raises:
        RefusedError: neither is there or loads, or TensorRT is older than `OLDEST`.
    """
    trt = _import_first()
    version = version_of(trt)
    if not _is_rtx(trt) and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise RefusedError(
            "missing-runtime",
            "TensorRT's Python module is {}, older than 8.5: use trtexec".format(version),
        )
    return trt


def _import_first() -> Any:
    reasons: List[str] = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            # Of TensorRT-RTX only what is there and does not load: few have it
            if not reasons or not isinstance(error, ModuleNotFoundError):
                reasons.append(str(error))
    raise RefusedError("missing-runtime", "TensorRT's Python module: {}".format("; ".join(reasons)))


def version_of(trt: Any) -> str:
    """Its version, by which engines are told apart: "10.3.0", "rtx-1.7.1.116"."""
    return version_text(trt.__name__, trt.__version__)


def version_text(module: str, version: str) -> str:
    return (RTX if module in MODULES[1:] else "") + version


def _is_rtx(trt: Any) -> bool:
    return version_of(trt).startswith(RTX)


def tool_of(trt: Any, cuda: Cuda, progress: Progress) -> Tool:
    """TensorRT's Python module as a tool."""

    def build(wish: Wish) -> Built:
        return _build(trt, wish, progress)

    def answers(plan: bytes, vectors: Vectors) -> List[List[bytes]]:
        return _answers(trt, cuda, plan, vectors)

    return Tool("python", version_of(trt), build, answers)


def _build(trt: Any, wish: Wish, progress: Progress) -> Built:
    words = Words([], [])
    logger: "ILogger" = _logger(trt, words)
    builder: "Builder" = trt.Builder(logger)
    network: "INetworkDefinition" = builder.create_network(_network_flags(trt, wish))
    parser: "OnnxParser" = trt.OnnxParser(network, logger)
    with open(wish.model, "rb") as stream:
        model = stream.read()
    if not parser.parse(model):
        raise refusal("TensorRT cannot read the model", _parser_words(parser, words))
    config: "IBuilderConfig" = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wish.workspace_bytes)
    _set_types(trt, config, wish)
    _set_compute_capabilities(trt, config, wish)
    unpinned = _pin(trt, network, config, wish)
    _set_shapes(builder, config, wish)
    if wish.dla is not None:
        _use_dla(trt, builder, config, wish.dla)
    # TensorRT-RTX chooses tactics on the device where it runs: its timing caches do nothing, and say that they are deprecated.
    cached = not _is_rtx(trt)
    if cached:
        cache: "ITimingCache" = config.create_timing_cache(wish.timing_cache or b"")
        config.set_timing_cache(cache, False)
    failures: List[BaseException] = []
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, progress, failures)
    plan = builder.build_serialized_network(network, config)
    if failures:
        raise failures[0]
    if plan is None:
        raise refusal("TensorRT cannot build the engine", words.errors or words.all)
    timings: Optional[bytes] = None
    if cached:
        kept: "ITimingCache" = config.get_timing_cache()
        timings = bytes(kept.serialize())
    return Built(bytes(plan), timings, unpinned, distinct(words.all))


def _logger(trt: Any, words: Words) -> Any:
    """The logger of this process, which tells `words` from now on.

    TensorRT registers the first logger of a process. While anything lives that was made with it, another is ignored, with
    a warning: what concerns no builder or runtime alone is told to the first.
    """
    if trt not in _LOGGERS:

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.words = words

            def log(self, severity: "ILogger.Severity", msg: str) -> None:
                if severity.name in ("INTERNAL_ERROR", "ERROR"):
                    self.words.errors.append(msg)
                if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                    self.words.all.append(msg)

        _LOGGERS[trt] = Logger()
    _LOGGERS[trt].words = words
    return _LOGGERS[trt]


def _monitor(trt: Any, progress: Progress, failures: List[BaseException]) -> Any:
    """What tells of the outermost phases; None where this TensorRT has no such thing.

    What `progress` raises ends the build and is left in `failures`: TensorRT would print it and say no more than that the
    build was cancelled.
    """
    if hasattr(trt, "IProgressMonitor"):

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)
                self._of: Dict[str, int] = {}

            def phase_start(
                self, phase_name: str, parent_phase: Optional[str], num_steps: int
            ) -> None:
                if parent_phase is None:
                    self._of[phase_name] = num_steps

            def step_complete(self, phase_name: str, step: int) -> bool:
                self._tell(phase_name, step + 1)
                return not failures

            def phase_finish(self, phase_name: str) -> None:
                self._tell(phase_name, self._of.get(phase_name, 0))

            def _tell(self, phase_name: str, step: int) -> None:
                if phase_name in self._of and not failures:
                    try:
                        progress(phase_name, step, self._of[phase_name])
                    except BaseException as failure:
                        failures.append(failure)

        return Monitor()
    return None


def _network_flags(trt: Any, wish: Wish) -> int:
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if wish.typing == "strong":
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
            return flags | 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        raise _other("takes no types from the graph; export for its JetPack", trt)
    return flags


def _set_types(trt: Any, config: "IBuilderConfig", wish: Wish) -> None:
    if wish.typing == "strong":
        return
    if wish.precision == "fp32":
        # TF32 has the mantissa of FP16.
        config.clear_flag(trt.BuilderFlag.TF32)
        return
    # TensorRT-RTX 1.4 has the flag still, and no network that it holds for.
    if hasattr(trt.BuilderFlag, "FP16") and not _is_rtx(trt):
        config.set_flag(trt.BuilderFlag.FP16)
    else:
        raise _other("takes types from the graph alone; export for a target that does", trt)
    if wish.precision == "int8" and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)


def _set_compute_capabilities(trt: Any, config: "IBuilderConfig", wish: Wish) -> None:
    """The GPUs that the engine is for; the one that is here where none is named."""
    if not wish.compute_capabilities:
        return
    if (
        hasattr(trt, "ComputeCapability")
        and hasattr(config, "num_compute_capabilities")
        and hasattr(config, "set_compute_capability")
    ):
        config.num_compute_capabilities = len(wish.compute_capabilities)
        for place, capability in enumerate(wish.compute_capabilities):
            name = "SM" + capability.replace(".", "")
            if not hasattr(trt.ComputeCapability, name):
                raise _other("builds no engine for compute capability " + capability, trt)
            # By name: numbers, again, differ
            config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    else:
        raise _other("builds for the GPU that is here alone", trt)


def _pin(
    trt: Any, network: "INetworkDefinition", config: "IBuilderConfig", wish: Wish
) -> List[str]:
    """Keep layers in FP32 that FP16 cannot hold; those that are not there by that name come back."""
    left = set(wish.pinned)
    if wish.typing == "strong" or wish.precision == "fp32" or not left:
        return []
    for number in range(network.num_layers):
        layer: "ILayer" = network.get_layer(number)
        if layer.name in left and hasattr(layer, "precision") and hasattr(layer, "set_output_type"):
            layer.precision = trt.DataType.FLOAT
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.DataType.FLOAT)
            left.discard(layer.name)
    if hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"):
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    return sorted(left)


def _set_shapes(builder: "Builder", config: "IBuilderConfig", wish: Wish) -> None:
    """One size where the model leaves the batch open."""
    if not wish.open_inputs:
        return
    profile: "IOptimizationProfile" = builder.create_optimization_profile()
    for name, shape in wish.open_inputs:
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)


def _use_dla(trt: Any, builder: "Builder", config: "IBuilderConfig", core: int) -> None:
    cores = builder.num_DLA_cores
    if core >= cores:
        raise RefusedError(
            "not-buildable",
            "DLA core {} was asked for, and TensorRT {} sees {} on this board".format(
                core, version_of(trt), cores
            ),
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _parser_words(parser: "OnnxParser", words: Words) -> List[str]:
    """Why a model cannot be read: what else was logged, then each error with its node."""
    found, others = [], words.errors or words.all
    for number in range(parser.num_errors):
        error: "ParserError" = parser.get_error(number)
        node, reason = str(error.node()), error.desc()
        if hasattr(error, "node_name") and hasattr(error, "node_operator"):
            operator = error.node_operator()
            node = "{!r} ({})".format(error.node_name(), operator) if operator else node
        found.append("node {}: {}".format(node, reason))
        # The parser logs its errors too, with where in its own source it found them and what the node is.
        others = [said for said in others if reason not in said and _PARSER not in said]
    return others + found


def _answers(trt: Any, cuda: Cuda, plan: bytes, vectors: Vectors) -> List[List[bytes]]:
    words = Words([], [])
    runtime: "Runtime" = trt.Runtime(_logger(trt, words))
    engine: "ICudaEngine" = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise refusal("TensorRT cannot load the engine", words.errors or words.all)
    _check_tensors(trt, engine, vectors)
    context: "IExecutionContext" = engine.create_execution_context()
    if context is None:
        raise refusal("TensorRT cannot run the engine", words.errors or words.all)
    addresses = {}
    for tensor in vectors.inputs + vectors.outputs:
        addresses[tensor.name] = cuda.allocate(len(tensor.values[0]))
        context.set_tensor_address(tensor.name, addresses[tensor.name])
    for tensor in vectors.inputs:
        context.set_input_shape(tensor.name, tensor.shape)
    answers = []
    for number in range(vectors.count):
        for tensor in vectors.inputs:
            cuda.copy_in(addresses[tensor.name], tensor.values[number])
        if not context.execute_async_v3(cuda.stream):
            raise refusal("TensorRT cannot run the engine", words.errors or words.all)
        cuda.wait()
        answers.append(
            [cuda.copy_out(addresses[t.name], len(t.values[0])) for t in vectors.outputs]
        )
    return answers


def open_engine(trt: Any, cuda: Cuda, plan: bytes, *, seed: int, batch: int) -> Opened:
    """An engine ready to be called: values in, run, values out, synchronised.

    Args:
        trt: the module.
        cuda: a device; what is allocated there stays until it is left.
        plan: the engine.
        seed: of the values of its inputs.
        batch: where the engine leaves it open.

    Raises:
        RefusedError: it cannot be loaded here, or takes what cannot be made up.
    """
    words = Words([], [])
    runtime: "Runtime" = trt.Runtime(_logger(trt, words))
    engine: "ICudaEngine" = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise refusal("TensorRT cannot load the engine", words.errors or words.all)
    context: "IExecutionContext" = engine.create_execution_context()
    if context is None:
        raise refusal("TensorRT cannot run the engine", words.errors or words.all)
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    given, answers, taken = [], [], []
    # Inputs first: the shapes of outputs follow from theirs.
    for name in sorted(
        names, key=lambda each: engine.get_tensor_mode(each) != trt.TensorIOMode.INPUT
    ):
        dtype: "DataType" = engine.get_tensor_dtype(name)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            shape = [batch if size < 0 else size for size in engine.get_tensor_shape(name)]
            if not context.set_input_shape(name, shape):
                raise RefusedError(
                    "inputs",
                    "{} {}: {}".format(name, "x".join(map(str, shape)), last_words(words.errors)),
                )
            data = random_inputs.random_bytes(dtype.name, shape, seed)
            address = cuda.allocate(len(data))
            given.append((address, data))
            taken.append({"name": name, "dtype": random_inputs.NUMPY[dtype.name], "shape": shape})
        else:
            size = random_inputs.size_of(dtype.name, list(context.get_tensor_shape(name)))
            address = cuda.allocate(size)
            answers.append((address, size))
        context.set_tensor_address(name, address)

    def call() -> None:
        _logger(trt, words)
        for address, data in given:
            cuda.copy_in(address, data)
        if not context.execute_async_v3(cuda.stream):
            raise refusal("TensorRT cannot run the engine", words.errors or words.all)
        cuda.wait()
        for address, size in answers:
            cuda.copy_out(address, size)

    return Opened(call, taken, _read_declared_memory(trt, engine), lambda: distinct(words.all))


def _read_declared_memory(trt: Any, engine: "ICudaEngine") -> Dict[str, Optional[int]]:
    weights: Optional[int] = None
    if hasattr(trt, "EngineStat") and hasattr(engine, "get_engine_stat"):
        weights = int(engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))
    scratch: Optional[int] = None
    if hasattr(engine, "device_memory_size_v2"):
        scratch = int(engine.device_memory_size_v2)
    elif hasattr(engine, "device_memory_size"):
        scratch = int(engine.device_memory_size)
    return {"weights": weights, "scratch": scratch}


def _check_tensors(trt: Any, engine: "ICudaEngine", vectors: Vectors) -> None:
    """Refuse to run an engine on memory of another size than its tensors have.

    Raises:
        RefusedError: it takes or gives other tensors than the golden vectors have.
    """
    wanted = {tensor.name: tensor for tensor in vectors.inputs + vectors.outputs}
    there = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    if sorted(there) != sorted(wanted):
        raise RefusedError(
            "deviates", "the engine has tensors {}, the vectors {}".format(there, sorted(wanted))
        )
    for name in there:
        fits = _fits(engine, name, wanted[name])
        given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if not fits or given != (wanted[name] in vectors.inputs):
            raise RefusedError(
                "deviates",
                "the engine's {} is no {} {}".format(name, wanted[name].dtype, wanted[name].shape),
            )


def _fits(engine: "ICudaEngine", name: str, tensor: Tensor) -> bool:
    dtype: "DataType" = engine.get_tensor_dtype(name)
    shape = list(engine.get_tensor_shape(name))
    same = len(shape) == len(tensor.shape) and all(
        size in (-1, given)
        for size, given in zip(shape, tensor.shape)  # noqa: B905
    )
    return bool(same and dtype.name == TYPES[tensor.dtype])


def _other(why: str, trt: Any) -> RefusedError:
    return RefusedError("other-version", "TensorRT {} {}".format(version_of(trt), why))
