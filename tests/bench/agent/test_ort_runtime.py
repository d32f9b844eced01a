import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekd.bench.agent import ort_runtime
from edgekd.bench.agent.errors import RefusedError


def opened(model, inputs=None):
    session = ort_runtime.open_session(ort_runtime.import_runtime(), str(model), 1)
    return session, ort_runtime.make_inputs(session, inputs, 0, 2)


def named(session):
    """What a call uses of the runtime."""
    return session._sess.run_with_iobinding, session.io_binding()._iobinding


def save_identity(path, dtype, shape):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["given"], ["same"])],
        "identity",
        [helper.make_tensor_value_info("given", element, shape)],
        [helper.make_tensor_value_info("same", element, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


class Watched:
    """A session whose bindings are kept, so that a test sees what a call wrote."""

    def __init__(self, session):
        self.bindings = []
        self._inner = session

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def io_binding(self):
        self.bindings.append(self._inner.io_binding())
        return self.bindings[-1]


@pytest.mark.parametrize("dtype", ort_runtime.DTYPES.values())
def test_a_call_computes_what_run_does(tmp_path, dtype):
    session, feed = opened(save_identity(tmp_path / "model.onnx", dtype, ["N", 3]))
    watched = Watched(session)
    call = ort_runtime.call_of(watched, feed)
    for _ in range(2):
        call()
    (found,) = watched.bindings[0].copy_outputs_to_cpu()
    assert np.array_equal(found, session.run(None, feed)[0])


def test_a_call_holds_its_inputs(model):
    session, feed = opened(model)
    expected = session.run(None, feed)[0]
    watched = Watched(session)
    call = ort_runtime.call_of(watched, feed)
    feed.clear()
    call()
    (found,) = watched.bindings[0].copy_outputs_to_cpu()
    assert np.array_equal(found, expected)


def test_a_sequence_can_come_out(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["both"])],
        "sequence",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, None)],
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    call = ort_runtime.call_of(*opened(path))
    for _ in range(3):
        call()


def test_this_runtime_has_the_names_that_a_call_takes_0_4_us_less_by(model):
    run, held = named(opened(model)[0])
    assert callable(run)
    assert held is not None


def test_a_runtime_without_these_names_is_called_by_its_public_method(model):
    session, feed = opened(model)
    calls: list[object] = []

    class Renamed:
        _sess = None
        io_binding = staticmethod(session.io_binding)
        get_outputs = staticmethod(session.get_outputs)
        run_with_iobinding = staticmethod(calls.append)

    ort_runtime.call_of(Renamed(), feed)()
    assert len(calls) == 1
    assert isinstance(calls[0], onnxruntime.IOBinding)


def test_inputs_that_the_runtime_does_not_take_are_refused(model):
    session, _ = opened(model)
    with pytest.raises(RefusedError, match=r"RuntimeError|Fail") as caught:
        ort_runtime.try_once(ort_runtime.call_of(session, {"nobody": np.zeros(3, np.float32)}))
    assert caught.value.kind == "not-runnable"
