"""The agent's calls of TensorRT in TensorRT-RTX itself, whose parser and builder need no GPU, and in the stand-in.

What both are asked here, the stand-in answers as the real module does. An engine cannot be run without a GPU. The
builds are small and end in tens of milliseconds, so they are made in this process.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd import records
from edgekd.bench.agent import trt_python
from edgekd.bench.agent.build_request import Wish
from edgekd.bench.agent.cuda import Cuda
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.golden_vectors import Vectors
from edgekd.export import nvidia_parser
from tests.standin.cudart import Cudart

STANDIN = Path(__file__).parents[2] / "standin"
TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


@pytest.fixture
def rtx():
    return pytest.importorskip(
        "tensorrt_rtx_bindings",
        reason="needs TensorRT-RTX: pip install 'edgekd[tensorrt-rtx]'",
        exc_type=ImportError,
    )


@pytest.fixture(name="trt", params=["rtx", "standin"])
def either(request):
    """The real module, and the stand-in of TensorRT 10.3."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def standin(monkeypatch):
    monkeypatch.setenv("STANDIN_TENSORRT", "10.3.0")
    monkeypatch.delenv("STANDIN_FAILS", raising=False)
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    module = importlib.import_module("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    return module


@pytest.fixture
def build(tmp_path):
    """Build a model by the agent's code."""

    def run(trt, model, *, progress=lambda *_: None, **changes):
        path = tmp_path / "model.onnx"
        path.write_bytes(model)
        plain = Wish(
            model=str(path),
            precision="fp32",
            typing="strong",
            workspace_bytes=1 << 28,
            open_inputs=[],
            dla=None,
            pinned=[],
            timing_cache=None,
            # Without a GPU there is none to take it from
            compute_capabilities=["8.6"] if hasattr(trt, "ComputeCapability") else [],
        )
        tool = trt_python.tool_of(trt, Cuda(Cudart()), progress)
        return tool.build(plain._replace(**changes))

    return run


def network(*, batch: int | str = 1, dtype=np.float32, zero=None, operator=None):
    """Four values to three, as bytes; with pairs where there is a zero point, and with an operator before the product."""
    values = [numpy_helper.from_array(np.ones((4, 3), dtype), "w")]
    nodes = []
    name = "images"
    if zero is not None:
        values += [numpy_helper.from_array(np.array(0.05, np.float32), "scale")]
        values += [numpy_helper.from_array(zero, "zero")]
        nodes += [
            helper.make_node("QuantizeLinear", [name, "scale", "zero"], ["q"], name="quantise"),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="back"),
        ]
        name = "x"
    if operator is not None:
        nodes.append(helper.make_node(operator, [name], ["y"], name="culprit"))
        name = "y"
    nodes.append(helper.make_node("MatMul", [name, "w"], ["logits"], name="product"))
    return model_of(nodes, (batch, 4), (batch, 3), values, TYPES[dtype])


def model_of(nodes, given, found, values, kind=TensorProto.FLOAT):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", kind, given)],
        [helper.make_tensor_value_info("logits", kind, found)],
        values,
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


# --- what is built -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "model"),
    [
        ("fp32", network()),
        ("fp16", network(dtype=np.float16)),
        ("int8", network(zero=np.array(0, np.int8))),
    ],
    ids=["fp32", "fp16", "int8"],
)
def test_a_typed_graph_is_built(trt, build, precision, model):
    try:
        built = build(trt, model, precision=precision)
    except RefusedError as refused:
        if precision == "int8" and "generateForCurrent" in str(refused):
            pytest.skip("this TensorRT-RTX asks the GPU when it builds INT8, as 1.4 does")
        raise
    assert len(built.plan) > 100
    assert built.warnings == []
    assert built.unpinned == []


def test_tensorrt_rtx_keeps_no_timing_cache(rtx, build):
    assert build(rtx, network()).timing_cache is None
    # Nor is one read: it would be warned of as deprecated.
    assert build(rtx, network(), timing_cache=b"of another").warnings == []


def test_a_warning_is_kept_once_however_often_it_is_said(trt, build):
    try:
        built = build(trt, network(zero=np.array(0, np.uint8)), precision="int8")
    except RefusedError as refused:
        if "generateForCurrent" in str(refused):
            pytest.skip("this TensorRT-RTX asks the GPU when it builds INT8, as 1.4 does")
        raise
    (warning,) = built.warnings
    assert "UINT8 zero_point" in warning
    assert "Defaulting to INT8" in warning


def test_an_open_batch_needs_a_size(trt, build):
    model = network(batch="N")
    with pytest.raises(RefusedError, match="no optimization profile has been defined"):
        build(trt, model)
    assert build(trt, model, open_inputs=[("images", [1, 4])]).plan


def test_a_size_that_the_input_has_not_is_refused(rtx, build):
    with pytest.raises(RefusedError, match="profile has min=7, opt=7, max=7 but tensor has 4"):
        build(rtx, network(batch="N"), open_inputs=[("images", [1, 7])])


def test_an_engine_is_for_the_gpus_that_are_named(rtx, build):
    assert build(rtx, network(), compute_capabilities=["8.6", "8.9"]).plan
    with pytest.raises(
        RefusedError, match=r"rtx-.* no engine for compute capability 5\.3"
    ) as refused:
        build(rtx, network(), compute_capabilities=["5.3"])
    assert refused.value.kind == "other-version"


def test_tensorrt_builds_for_no_gpu_that_is_named(standin, build):
    with pytest.raises(RefusedError, match="for the GPU that is here alone"):
        build(standin, network(), compute_capabilities=["8.6"])


def test_tensorrt_rtx_chooses_no_types(rtx, build):
    assert build(rtx, network(), typing="weak").plan
    with pytest.raises(RefusedError, match="types from the graph alone") as refused:
        build(rtx, network(), typing="weak", precision="fp16")
    assert refused.value.kind == "other-version"


# --- what is refused -----------------------------------------------------------------------------


def test_what_the_parser_refuses_is_said_with_its_node_and_operator(trt, build):
    with pytest.raises(RefusedError, match=r"node 'culprit' \(Frobnicate\): .{10}") as refused:
        build(trt, network(operator="Frobnicate"))
    assert refused.value.kind == "not-buildable"
    assert "ModelImporter" not in str(refused.value)


def test_what_is_no_model_is_of_no_node(trt, build):
    with pytest.raises(
        RefusedError, match=r"cannot read the model: node -1: .*Failed to parse the ONNX"
    ):
        build(trt, b"not a model")


def test_an_empty_model_is_read_and_cannot_be_built(trt, build):
    with pytest.raises(RefusedError, match=r"cannot build the engine.*at least one output"):
        build(trt, b"")


def test_too_small_a_workspace_is_named_as_such(rtx, build):
    values = [numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w")]
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["logits"], pads=[1, 1, 1, 1]),
    ]
    model = model_of(nodes, (1, 3, 32, 32), (1, 3, 32, 32), values)
    with pytest.raises(RefusedError, match="Set --workspace-mb higher") as refused:
        build(rtx, model, workspace_bytes=1)
    assert refused.value.kind == "out-of-memory"


def test_bytes_that_are_no_engine_are_refused_in_words(trt):
    tool = trt_python.tool_of(trt, Cuda(Cudart()), lambda *_: None)
    with pytest.raises(RefusedError, match=r"cannot load the engine: .*Serialization") as refused:
        tool.answers(b"not an engine " * 100, Vectors(0, [], [], None, 0.0))
    assert refused.value.kind == "other-version"


def test_a_second_refusal_in_a_process_has_its_own_words(trt, build):
    first = trt_python.Words([], [])
    # What lives of another build: the next one's logger would not be registered
    alive = trt.Builder(trt_python._logger(trt, first))
    with pytest.raises(RefusedError, match="Frobnicate") as one:
        build(trt, network(operator="Frobnicate"))
    with pytest.raises(RefusedError, match="no optimization profile") as other:
        build(trt, network(batch="N"))
    assert "Frobnicate" not in str(other.value)
    assert "no optimization profile" not in str(one.value)
    assert build(trt, network()).warnings == []
    assert alive is not None
    assert first == ([], [])


def test_another_logger_is_warned_of_while_the_first_is_used(trt: Any):
    """Why there is one for a process."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, msg):
            if severity.name == "WARNING":
                self.lines.append(msg)

    one, other = Logger(), Logger()
    builders = [trt.Builder(one), trt.Builder(other)]
    assert len(builders) == 2
    assert "differs from one already registered" in other.lines[0]


# --- progress ------------------------------------------------------------------------------------


def test_progress_is_of_the_outermost_phase_and_ends_with_it(trt, build):
    told = []
    build(trt, network(), progress=lambda *each: told.append(each))
    assert len({(phase, of) for phase, _, of in told}) == 1
    steps = [step for _, step, _ in told]
    assert steps == sorted(steps)
    phase, last, of = told[-1]
    assert (phase, last) == ("Building engine", of)
    assert len(told) > 2


@pytest.mark.parametrize("failure", [OSError, KeyboardInterrupt])
def test_a_build_ends_with_what_its_progress_raises(trt, build, capfd, failure):
    told = []

    def progress(*each):
        told.append(each)
        raise failure("the reader is gone")

    with pytest.raises(failure, match="the reader is gone"):
        build(trt, network(), progress=progress)
    assert len(told) == 1
    assert capfd.readouterr().err == ""
    assert build(trt, network()).plan


def test_a_step_that_says_no_cancels_the_build(trt: Any):
    heard: list[tuple[object, ...]] = []

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self):
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name, parent_phase, _num_steps):
            heard.append(("start", phase_name, parent_phase))

        def step_complete(self, phase_name, step):
            heard.append(("step", phase_name, step))
            return False

        def phase_finish(self, phase_name):
            heard.append(("finish", phase_name))

    words = trt_python.Words([], [])
    builder = trt.Builder(trt_python._logger(trt, words))
    built = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(built, trt_python._logger(trt, words))
    assert parser.parse(network())
    config = builder.create_builder_config()
    config.progress_monitor = Monitor()
    assert builder.build_serialized_network(built, config) is None
    assert heard == [
        ("start", "Building engine", None),
        ("start", "Cloning network graph", "Building engine"),
        ("step", "Cloning network graph", 0),
        ("finish", "Cloning network graph"),
        ("finish", "Building engine"),
    ]
    assert "BuildCanceled (Build canceled by user" in words.errors[0]


def test_the_model_of_these_tests_is_one():
    onnx.checker.check_model(onnx.load_from_string(network(zero=np.array(0, np.int8))))


def test_the_board_and_the_host_mark_its_versions_alike():
    # The agent imports nothing of the host.
    assert trt_python.RTX == records.RTX
    assert trt_python.MODULES[1:] == nvidia_parser.MODULES
