"""Stands in for TensorRT's Python module; ONNX Runtime computes, so that answers are real.

An engine is also run by a board's old Python, which has no ONNX Runtime: its answers are then zeros.

`make check-tensorrt` holds every name below against the real module of each version. What the version
in STANDIN_TENSORRT lacks is taken away at the end. STANDIN_FAILS makes it fail as TensorRT does.

What the real module does where no GPU is needed was seen of TensorRT-RTX 1.4 and 1.7, and is held by
tests/bench/agent/test_tensorrt_rtx.py: its words, the order of its callbacks, what ends a build.
"""

import ctypes
import enum
import json
import os
import sys
import traceback
import weakref

__version__ = os.environ.get("STANDIN_TENSORRT", "10.3.0")
_VERSION = tuple(int(part) for part in __version__.split(".")[:2])
_FAILS = os.environ.get("STANDIN_FAILS", "").split(",")
_MAGIC = b"standin-engine\n"
_SCRATCH = 4096  # bytes that a context needs
_KINDS = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "BOOL": 1, "UINT8": 1, "INT64": 8}


class DataType(enum.IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    INT64 = 8


class EngineStat(enum.IntEnum):
    TOTAL_WEIGHTS_SIZE = 31
    STRIPPED_WEIGHTS_SIZE = 32


class TensorIOMode(enum.IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class DeviceType(enum.IntEnum):
    GPU = 0
    DLA = 1


# Numbers are those of no version: what relies on them is wrong.
class BuilderFlag(enum.IntEnum):
    FP16 = 21
    INT8 = 22
    TF32 = 23
    GPU_FALLBACK = 24
    OBEY_PRECISION_CONSTRAINTS = 25


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 11
    STRONGLY_TYPED = 12


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3

    def log(self, severity, msg):
        raise NotImplementedError  # as the real one: it is abstract


# Builders and runtimes, with the loggers that they were made with.
_ALIVE = weakref.WeakSet()  # type: ignore[var-annotated]


def _register(made, logger, factory):
    """One logger is known at a time; who brings another while something lives is warned."""
    if any(each._logger is not logger for each in _ALIVE):
        said = (
            f"WARNING The logger passed into {factory} differs from one already registered for an existing builder, "
            "runtime, or refitter. So the current new logger is ignored, and TensorRT will use the existing one which "
            "is returned by nvinfer1::getLogger() instead."
        )
        logger.log(ILogger.Severity.WARNING, said)
    _ALIVE.add(made)


class IHostMemory:
    def __init__(self, data):
        self._data = data

    @property
    def nbytes(self):
        return len(self._data)

    def __bytes__(self):
        return self._data


class IProgressMonitor:
    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


class ITimingCache:
    def __init__(self, data):
        self._data = data

    def serialize(self):
        return IHostMemory(self._data)


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002 - as the real one
        assert min == opt == max
        self._shapes[input] = list(min)


class ILayer:
    precision = None

    def __init__(self, name):
        self._name = name
        self._types = {}

    @property
    def name(self):
        return self._name

    @property
    def num_outputs(self):
        return 1

    def set_output_type(self, index, dtype):
        self._types[index] = dtype


class INetworkDefinition:
    def __init__(self, flags):
        self._flags = flags
        self._outputs = 0
        self._model = None
        self._layers = []

    @property
    def num_layers(self):
        return len(self._layers)

    def get_layer(self, index):
        return self._layers[index]

    def _has(self, name):
        flag = getattr(NetworkDefinitionCreationFlag, name, None)
        return flag is not None and bool(self._flags >> int(flag) & 1)


class ParserError:
    def __init__(self, node, desc, name="", operator=""):
        self._said = node, desc, name, operator

    def node(self):
        return self._said[0]

    def desc(self):
        return self._said[1]

    def node_name(self):
        return self._said[2]

    def node_operator(self):
        return self._said[3]


class OnnxParser:
    def __init__(self, network, logger):
        self._network = network
        self._logger = logger
        self._errors = []

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return self._errors[index]

    def parse(self, model, path=None):
        import onnx
        from google.protobuf.message import DecodeError

        if _VERSION < (10, 0) and not self._network._has("EXPLICIT_BATCH"):
            return self._fail("Network must have kEXPLICIT_BATCH")
        try:
            loaded = onnx.load_from_string(model)
        except DecodeError:
            return self._fail("Failed to parse the ONNX model.")
        zeros = {each.name: each for each in loaded.graph.initializer if each.data_type == 2}
        for place, node in enumerate(loaded.graph.node):
            if "parse" in _FAILS or not onnx.defs.has(node.op_type, node.domain):
                return self._fail(f"No importer registered for op: {node.op_type}", place, node)
            if set(node.input) & set(zeros) and "QuantizeLinear" in node.op_type:
                self._logger.log(ILogger.Severity.WARNING, _UINT8)
            self._network._layers.append(ILayer(node.name))
        self._network._outputs = len(loaded.graph.output)
        self._network._model = model
        return True

    def _fail(self, said, place=-1, node=None):
        """An error is kept and logged, in several lines where it is of a node."""
        lines = [f"ERROR: onnxOpImporters.cpp:1 In function parse:\n[6] {said}"]
        if node is None:
            self._errors.append(ParserError(place, said))
        else:
            self._errors.append(ParserError(place, said, node.name, node.op_type))
            lines = [
                f'While parsing node number {place} [{node.op_type} -> "{node.output[0]}"]:',
                f"--- Begin node ---\nNode name: {node.name}",
                "--- End node ---",
                *lines,
            ]
        for said in [f"ModelImporter.cpp:140: {line}" for line in lines]:
            self._logger.log(ILogger.Severity.ERROR, said)
        return False


# Once for each node
_UINT8 = (
    "onnxOpImporters.cpp:1980: TensorRT supports QuantizeLinear/DequantizeLinear with UINT8 zero_point only on DLA "
    "(version >= 3.16). Defaulting to INT8 instead. To import as UINT8, set the kIMPORT_UINT8_QUANTIZATION flag."
)


class IBuilderConfig:
    progress_monitor = None
    default_device_type = DeviceType.GPU
    DLA_core = -1

    def __init__(self, logger):
        self._logger = logger
        self._flags = {BuilderFlag.TF32}
        self._workspace = None
        self._cache = None
        self._profiles = []

    def set_memory_pool_limit(self, pool, pool_size):
        assert pool == MemoryPoolType.WORKSPACE
        self._workspace = pool_size

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return 0

    def create_timing_cache(self, serialized_timing_cache):
        data = bytes(serialized_timing_cache)
        try:
            json.loads(data or b"[]")
        except ValueError:
            said = "Failed to deserialize timing cache. Returning an empty timing cache."
            self._logger.log(ILogger.Severity.WARNING, said)
            data = b""
        return ITimingCache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        self._logger = logger
        _register(self, logger, "createInferBuilder")

    @property
    def num_DLA_cores(self):  # noqa: N802 - as the real one
        return 2 if (8, 0) <= _VERSION < (10, 8) else 0

    def create_network(self, flags=0):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig(self._logger)

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        def fail(text):
            self._logger.log(ILogger.Severity.ERROR, text)

        if "memory" in _FAILS:
            return fail(
                "[memory.cpp] Requested amount of GPU memory (1073741824 bytes) could not be allocated."
            )
        if "build" in _FAILS:
            return fail("Error Code 4: Internal Error (the graph is not supported)")
        if not network._outputs:
            return fail(
                "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network must have at least one output. "
                "In validate at /_src/optimizer/api/network.cpp:3810)"
            )
        said = _said(network, config)
        reason = _wrong(said)
        if reason:
            return fail(reason)
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None and not _watched(monitor):
            return fail(
                "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled by user In next at "
                "/_src/optimizer/common/scopedProgressReporter.cpp:92)"
            )
        known = json.loads(config._cache._data or b"[]")
        config._cache._data = json.dumps(sorted({*known, *said["layers"]})).encode()
        head = json.dumps({"version": __version__, **said}).encode()
        return IHostMemory(_MAGIC + head + b"\n" + network._model)


def _watched(monitor):
    """Whether a build went to its end: False from a step, or what a callback raises, ends it.

    Phases that have begun are finished then too, and the outermost one has more steps than are told.
    """

    def call(method, *arguments):
        try:
            return method(*arguments)
        except BaseException:
            print("[ERROR] Exception caught:", traceback.format_exc(), file=sys.stderr)
            return False

    outer, inner = "Building engine", "Cloning network graph"
    call(monitor.phase_start, outer, None, 3)
    call(monitor.phase_start, inner, outer, 2)
    goes_on = all(call(monitor.step_complete, inner, step) for step in range(2))
    call(monitor.phase_finish, inner)
    goes_on = goes_on and all(call(monitor.step_complete, outer, step) for step in range(2))
    call(monitor.phase_finish, outer)
    return goes_on


def _said(network, config):
    """What was asked of the builder, for the tests to read in the plan."""
    import onnx

    shapes = {}
    for profile in config._profiles:
        shapes.update(profile._shapes)
    model = onnx.load_from_string(network._model)
    open_inputs = [
        each.name
        for each in model.graph.input
        if any(not d.HasField("dim_value") for d in each.type.tensor_type.shape.dim)
    ]
    return {
        "flags": sorted(flag.name for flag in config._flags),
        "typed": network._has("STRONGLY_TYPED"),
        "dla": config.DLA_core if config.default_device_type == DeviceType.DLA else None,
        "workspace": config._workspace,
        "shapes": shapes,
        "open": [name for name in open_inputs if name not in shapes],
        "pinned": [
            each.name
            for each in network._layers
            if getattr(each, "precision", None) == DataType.FLOAT
        ],
        "layers": [each.name for each in network._layers],
        "quantised": any(node.op_type == "QuantizeLinear" for node in model.graph.node),
        "weights": sum(len(each.raw_data) for each in model.graph.initializer),
        "tensors": [
            [each.name, mode, *_typed(each)]
            for mode, entries in (("INPUT", model.graph.input), ("OUTPUT", model.graph.output))
            for each in entries
        ],
    }


def _typed(entry):
    """TensorRT's name of a type, and sizes; -1 where one is open."""
    import onnx

    tensor = entry.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    said = {"FLOAT16": "HALF"}.get(name, name)
    return said, [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]


def _wrong(said):
    """What a real builder refuses."""
    if said["open"]:
        return (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
            "optimization profile has been defined. In validate at /_src/optimizer/api/network.cpp:4023)"
        )
    typed = said["typed"] or _VERSION >= (11, 0)
    if typed and {"FP16", "INT8"} & set(said["flags"]):
        return "Precision flags are not allowed in a strongly typed network"
    if said["quantised"] and not typed and "INT8" not in said["flags"]:
        return "Q/DQ layers need the INT8 builder flag"
    return None


class Runtime:
    def __init__(self, logger):
        self._logger = logger
        _register(self, logger, "createInferRuntime")

    def deserialize_cuda_engine(self, serialized_engine):
        data = bytes(serialized_engine)
        for said in filter(None, os.environ.get("STANDIN_SAYS", "").split("|")):
            self._logger.log(ILogger.Severity.WARNING, said)
        head, _, model = data[len(_MAGIC) :].partition(b"\n")
        if not data.startswith(_MAGIC) or json.loads(head)["version"] != __version__:
            self._logger.log(
                ILogger.Severity.ERROR,
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag does not match. Note: "
                "Current Version: 239, Serialized Engine Version: 236)",
            )
            return None
        return ICudaEngine(json.loads(head), model, self._logger)


class ICudaEngine:
    def __init__(self, head, model, logger):
        self._head = head
        self._logger = logger
        self._tensors = {name: (mode, dtype, shape) for name, mode, dtype, shape in head["tensors"]}
        self._session = None
        try:
            import onnxruntime
        except ImportError:
            return
        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    @property
    def device_memory_size(self):
        return _SCRATCH

    @property
    def device_memory_size_v2(self):
        return _SCRATCH

    def get_engine_stat(self, stat):
        assert stat == EngineStat.TOTAL_WEIGHTS_SIZE
        return self._head["weights"]

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode[self._tensors[name][0]]

    def get_tensor_dtype(self, name):
        return DataType[self._tensors[name][1]]

    def get_tensor_shape(self, name):
        return tuple(self._tensors[name][2])

    def create_execution_context(self):
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self._engine = engine
        self._addresses = {}
        self._shapes = {}

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def set_input_shape(self, name, shape):
        built = self._engine._head["shapes"].get(name, self._engine.get_tensor_shape(name))
        if list(shape) != list(built):
            said = (
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (Parameter check failed, condition: "
                f"engineDims.d[i] == dims.d[i]. Static dimension mismatch while setting input shape for {name}. Set "
                f"dimensions are {list(shape)}. Expected dimensions are {list(built)}.)"
            )
            self._engine._logger.log(ILogger.Severity.ERROR, said)
            return False
        self._shapes[name] = list(shape)
        return True

    def get_tensor_shape(self, name):
        """What follows from the shapes of the inputs; -1 until they are known."""
        if name in self._shapes:
            return tuple(self._shapes[name])
        shape = self._engine.get_tensor_shape(name)
        batches = {shape[0] for shape in self._shapes.values()}
        if self._engine.get_tensor_mode(name) == TensorIOMode.INPUT or not batches:
            return shape
        return tuple(max(batches) if size == -1 else size for size in shape)

    def execute_async_v3(self, stream_handle):
        if set(self._addresses) != set(self._engine._tensors):
            return False
        if "run" in _FAILS:
            self._engine._logger.log(
                ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (unspecified launch failure)"
            )
            return False
        if self._engine._session is None:
            for name, address in self._addresses.items():
                if self._engine.get_tensor_mode(name) == TensorIOMode.OUTPUT:
                    ctypes.memset(address, 0, self._size(name))
            return True
        import numpy as np

        types = {
            "FLOAT": "f4",
            "HALF": "f2",
            "INT8": "i1",
            "INT32": "i4",
            "BOOL": "?",
            "UINT8": "u1",
            "INT64": "i8",
        }
        feed = {}
        for name, shape in self._shapes.items():
            dtype = np.dtype(types[self._engine.get_tensor_dtype(name).name])
            data = ctypes.string_at(self._addresses[name], self._size(name))
            feed[name] = np.frombuffer(data, dtype).reshape(shape)
        names = [entry.name for entry in self._engine._session.get_outputs()]
        for name, found in zip(names, self._engine._session.run(names, feed)):  # noqa: B905 - Python 3.6
            answer = -found if "answers" in _FAILS else found
            data = np.ascontiguousarray(answer).tobytes()
            ctypes.memmove(self._addresses[name], data, len(data))
        return True

    def _size(self, name):
        size = _KINDS[self._engine.get_tensor_dtype(name).name]
        for length in self.get_tensor_shape(name):
            size *= length
        return size


# Of what stands above, what a version lacks.
_SINCE = {
    "IProgressMonitor": (10, 0),
    "IBuilderConfig.progress_monitor": (10, 0),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (10, 0),
    "DataType.INT64": (10, 0),
    "ParserError.node_name": (10, 0),
    "ParserError.node_operator": (10, 0),
    "ICudaEngine.device_memory_size_v2": (10, 0),
    # Not in 10.13.3, and in 10.16.1; nothing between was looked at.
    "EngineStat": (10, 16),
    "ICudaEngine.get_engine_stat": (10, 16),
}
_UNTIL = dict.fromkeys(
    [
        "BuilderFlag.FP16",
        "BuilderFlag.INT8",
        "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
        "ILayer.precision",
        "ILayer.set_output_type",
        "ICudaEngine.device_memory_size",
    ],
    (11, 0),
)


def _absent():
    for name, version in _SINCE.items():
        if version > _VERSION:
            yield name
    for name, version in _UNTIL.items():
        if version <= _VERSION:
            yield name


def _take_away():
    here = sys.modules[__name__]
    for name in _absent():
        owner, _, member = name.rpartition(".")
        kind = getattr(here, owner) if owner else None
        if kind is None:
            delattr(here, member)
        elif issubclass(kind, enum.Enum):
            kept = {each.name: each.value for each in kind if each.name != member}
            setattr(here, owner, enum.IntEnum(owner, kept))
        else:
            delattr(kind, member)


_take_away()
