"""ONNX Runtime, imported only when asked for: what is imported is part of what is measured."""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from edgekd.bench.agent.errors import RefusedError

if TYPE_CHECKING:
    from edgekd.bench.agent.golden_vectors import Vectors

# ONNX Runtime's names for tensor types, and numpy's.
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def import_runtime() -> Any:
    """The `onnxruntime` module.

    Raises:
        RefusedError: it is not installed, or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RefusedError("missing-runtime", str(error)) from error
    onnxruntime.set_default_logger_severity(3)  # errors only
    return onnxruntime


def open_session(onnxruntime: Any, model: str, threads: int, arena: bool = True) -> Any:
    """A session on the CPU with a fixed number of threads.

    Args:
        onnxruntime: the module.
        model: the file.
        threads: for one operator.
        arena: whether memory is taken in growing blocks, which is the runtime's default and reserves too much.

    Raises:
        RefusedError: the file is no ONNX model, or the runtime cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    return _session(onnxruntime, model, options)


def _session(onnxruntime: Any, model: str, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(
            model, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the runtime's own classes share no public base
        unreadable = type(error).__name__ in ("InvalidProtobuf", "NoSuchFile")
        raise RefusedError(
            "not-a-model" if unreadable else "not-runnable", _first_line(error)
        ) from error


def optimise(onnxruntime: Any, model: str, file: str) -> None:
    """Write the graph that the runtime makes of a model for this processor.

    Raises:
        RefusedError: as `open_session`.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = file
    _session(onnxruntime, model, options)


def answers(session: Any, vectors: "Vectors") -> List[List[bytes]]:
    """What a session gives for golden vectors, as `vectors.compare` takes it.

    Raises:
        RefusedError: it takes or gives other tensors.
    """
    import numpy as np

    names = [tensor.name for tensor in vectors.outputs]
    found = []
    for number in range(vectors.count):
        feed = {
            tensor.name: np.frombuffer(tensor.values[number], tensor.dtype).reshape(tensor.shape)
            for tensor in vectors.inputs
        }
        try:
            given = session.run(names, feed)
        except Exception as error:  # the runtime's own classes share no public base
            raise RefusedError("deviates", _first_line(error)) from error
        found.append([np.ascontiguousarray(each).tobytes() for each in given])
    return found


def make_inputs(session: Any, inputs: Optional[str], seed: int, batch: int) -> Dict[str, Any]:
    """An array for each input of the session, by name.

    Args:
        session: what they are for.
        inputs: a `.npy` with the only input, or a `.npz` by input name; None for random values.
        seed: of the random values; the same seed gives the same values with every numpy.
        batch: the size of the first dimension where the model leaves it open.

    Raises:
        RefusedError: a shape is open beyond its first dimension, or the file does not fit the model.
    """
    import numpy as np

    wanted = session.get_inputs()
    if inputs is not None:
        return _read_inputs(inputs, wanted, batch)
    random = np.random.RandomState(seed)
    made = {}
    for node in wanted:
        shape = _shape(node, batch)
        dtype = _dtype(node)
        if dtype.startswith("float"):
            made[node.name] = random.standard_normal(shape).astype(dtype)
        else:
            # 0 and 1 are in the range of every type.
            made[node.name] = random.randint(0, 2, size=shape).astype(dtype)
    return made


def call_of(session: Any, feed: Dict[str, Any]) -> Callable[[], None]:
    """One inference, as a function.

    Inputs and outputs are bound once: `session.run` would look at every array anew and make new ones, 2 us and more a
    call that the model does not take. Outputs go to memory that the first call takes, as a program on a board keeps
    it. So a model whose output changes its shape while its input stays, as one that draws at random could, fails.

    Raises:
        RefusedError: the runtime cannot take these inputs.
    """
    binding = session.io_binding()
    try:
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for node in session.get_outputs():
            binding.bind_output(node.name)
    except Exception as error:  # the runtime's own classes share no public base
        raise RefusedError("not-runnable", _first_line(error)) from error
    # Below the public method, which in 1.31 asks at each call what only WebGPU needs: 0.4 us. 1.10 has these names too.
    native = getattr(session, "_sess", None)
    run: Any = getattr(native, "run_with_iobinding", None)
    held = getattr(binding, "_iobinding", None)

    # That it computes on
    def call_native(_kept: Any = (binding, feed)) -> None:
        run(held, None)

    def call_public(_kept: Any = feed) -> None:
        session.run_with_iobinding(binding)

    return call_public if run is None or held is None else call_native


def try_once(call: Callable[[], None]) -> None:
    """The first call, where the runtime finds what it did not while loading.

    Raises:
        RefusedError: the runtime cannot run the model on these inputs.
    """
    try:
        call()
    except RefusedError:
        # TensorRT's reasons are known
        raise
    except Exception as error:
        raise RefusedError("not-runnable", _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return "{}: {}".format(type(error).__name__, (str(error).splitlines() or [""])[0][:500])


def _dtype(node: Any) -> str:
    if node.type not in DTYPES:
        raise RefusedError(
            "inputs", "input {!r} is a {}, which cannot be made up".format(node.name, node.type)
        )
    return DTYPES[node.type]


def _shape(node: Any, batch: int) -> List[int]:
    shape = []
    for position, size in enumerate(node.shape):
        if isinstance(size, int):
            shape.append(size)
        elif position == 0:
            shape.append(batch)
        else:
            raise RefusedError(
                "inputs",
                "input {!r} has an open shape {}; give inputs of the size to measure".format(
                    node.name, node.shape
                ),
            )
    return shape


def _read_inputs(path: str, wanted: List[Any], batch: int) -> Dict[str, Any]:
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RefusedError("inputs", "{}: {}".format(path, error)) from error
    names = list(getattr(loaded, "files", []))
    single = len(wanted) == 1 and len(names) == 1
    feed = {}
    for node in wanted:
        if not names and len(wanted) == 1:
            array = loaded
        elif node.name in names or single:
            array = loaded[node.name if node.name in names else names[0]]
        else:
            raise RefusedError(
                "inputs", "{}: holds {}, not {!r}".format(path, names or "one array", node.name)
            )
        feed[node.name] = _fit_array(array, node, batch, path)
    return feed


def _fit_array(array: Any, node: Any, batch: int, path: str) -> Any:
    """The first images of the array, as many as the model takes, in its type and shape."""
    if str(array.dtype) != _dtype(node):
        raise RefusedError(
            "inputs",
            "{}: {} values, but {!r} takes {}".format(path, array.dtype, node.name, _dtype(node)),
        )
    if not node.shape:
        return array
    count = node.shape[0] if isinstance(node.shape[0], int) else batch
    rest = [size if isinstance(size, int) else None for size in node.shape[1:]]
    fits = array.ndim == len(node.shape) and len(array) >= count
    if not fits or any(size not in (None, given) for size, given in zip(rest, array.shape[1:])):  # noqa: B905
        raise RefusedError(
            "inputs",
            "{}: shape {}, but {!r} takes {}".format(path, array.shape, node.name, node.shape),
        )
    return array[:count].copy()
