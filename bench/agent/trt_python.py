"""Every call of TensorRT's Python module, 8.5 to 11.4.

Quoted annotations say what a value is to TensorRT; `make check-tensorrt` holds every name and
keyword below against the real modules by them. What only some versions have is asked for with `hasattr`
first, by name: numbers of flags differ between versions.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional

from edgekd.bench.agent import random_inputs
from edgekd.bench.agent.build_request import Built, Tool, Wish
from edgekd.bench.agent.cuda import Cuda
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.golden_vectors import Tensor, Vectors
from edgekd.bench.agent.trt_messages import last_words, refusal

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
# numpy's names of types, and TensorRT's.
TYPES = {"float32": "FLOAT", "int32": "INT32", "uint8": "UINT8"}

Progress = Callable[[str, int, int], None]
Opened = NamedTuple(
    "Opened",
    [
        ("call", Callable[[], None]),
        ("inputs", List[Dict[str, Any]]),
        ("declared", Dict[str, Optional[int]]),  # bytes: "weights", "scratch"
    ],
)


def import_tensorrt() -> Any:
    """The `tensorrt` module of this Python.

    Raises:
        RefusedError: it is not there, does not load, or is older than `OLDEST`.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise RefusedError(
            "missing-runtime", "TensorRT's Python module: {}".format(error)
        ) from error
    version = str(tensorrt.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise RefusedError(
            "missing-runtime",
            "TensorRT's Python module is {}, older than 8.5: use trtexec".format(version),
        )
    return tensorrt


def tool_of(trt: Any, cuda: Cuda, progress: Progress) -> Tool:
    """TensorRT's Python module as a tool."""

    def build(wish: Wish) -> Built:
        return _build(trt, wish, progress)

    def answers(plan: bytes, vectors: Vectors) -> List[List[bytes]]:
        return _answers(trt, cuda, plan, vectors)

    return Tool("python", str(trt.__version__), build, answers)


def _build(trt: Any, wish: Wish, progress: Progress) -> Built:
    words: List[str] = []
    logger: "ILogger" = _logger(trt, words)
    builder: "Builder" = trt.Builder(logger)
    network: "INetworkDefinition" = builder.create_network(_network_flags(trt, wish))
    parser: "OnnxParser" = trt.OnnxParser(network, logger)
    with open(wish.model, "rb") as stream:
        model = stream.read()
    if not parser.parse(model):
        raise refusal("TensorRT cannot read the model", _parser_words(parser) + words)
    config: "IBuilderConfig" = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wish.workspace_bytes)
    _set_types(trt, config, wish)
    unpinned = _pin(trt, network, config, wish)
    _set_shapes(builder, config, wish)
    if wish.dla is not None:
        _use_dla(trt, builder, config, wish.dla)
    cache: "ITimingCache" = config.create_timing_cache(wish.timing_cache or b"")
    config.set_timing_cache(cache, False)
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise refusal("TensorRT cannot build the engine", words)
    kept: "ITimingCache" = config.get_timing_cache()
    return Built(bytes(plan), bytes(kept.serialize()), unpinned)


def _logger(trt: Any, words: List[str]) -> Any:
    """A logger that keeps warnings and errors."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: "ILogger.Severity", msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                words.append(msg)

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    """What tells of the outermost phases; None where this TensorRT has no such thing."""
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
                if phase_name in self._of:
                    progress(phase_name, step + 1, self._of[phase_name])
                return True

            def phase_finish(self, phase_name: str) -> None:
                if phase_name in self._of:
                    progress(phase_name, self._of[phase_name], self._of[phase_name])

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
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    else:
        raise _other("takes types from the graph alone; export for its JetPack", trt)
    if wish.precision == "int8" and hasattr(trt.BuilderFlag, "INT8"):
        config.set_flag(trt.BuilderFlag.INT8)


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
                core, trt.__version__, cores
            ),
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _parser_words(parser: "OnnxParser") -> List[str]:
    words = []
    for number in range(parser.num_errors):
        error: "ParserError" = parser.get_error(number)
        words.append("node {}: {}".format(error.node(), error.desc()))
    return words


def _answers(trt: Any, cuda: Cuda, plan: bytes, vectors: Vectors) -> List[List[bytes]]:
    words: List[str] = []
    runtime: "Runtime" = trt.Runtime(_logger(trt, words))
    engine: "ICudaEngine" = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise refusal("TensorRT cannot load the engine", words)
    _check_tensors(trt, engine, vectors)
    context: "IExecutionContext" = engine.create_execution_context()
    if context is None:
        raise refusal("TensorRT cannot run the engine", words)
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
            raise refusal("TensorRT cannot run the engine", words)
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
    words: List[str] = []
    runtime: "Runtime" = trt.Runtime(_logger(trt, words))
    engine: "ICudaEngine" = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise refusal("TensorRT cannot load the engine", words)
    context: "IExecutionContext" = engine.create_execution_context()
    if context is None:
        raise refusal("TensorRT cannot run the engine", words)
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
                    "inputs", "{} {}: {}".format(name, "x".join(map(str, shape)), last_words(words))
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
        for address, data in given:
            cuda.copy_in(address, data)
        if not context.execute_async_v3(cuda.stream):
            raise refusal("TensorRT cannot run the engine", words)
        cuda.wait()
        for address, size in answers:
            cuda.copy_out(address, size)

    return Opened(call, taken, _read_declared_memory(trt, engine))


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
    return RefusedError("other-version", "TensorRT {} {}".format(trt.__version__, why))
