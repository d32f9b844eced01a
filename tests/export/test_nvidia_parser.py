"""NVIDIA's parser in its child process: what it says, and what comes of a module or a file that fails it.

Where the real module is not installed, or must fail as one hopes that it never does, a module of its
name that only fails stands in.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.errors import MissingToolError
from edgekd.export import nvidia_parser
from edgekd.export.nvidia_parser import NvidiaParser, ParserDiedError, ParserRequest, find_module

WEIGHT = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
LOADS = """
__version__ = "1.7.1.0"
class ILogger:
    pass
"""


@pytest.fixture
def convolution(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4, 8, 8)) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [WEIGHT])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Put a module in the place of TensorRT-RTX's."""

    def write(text):
        folder = tmp_path / "modules"
        folder.mkdir()
        (folder / f"{nvidia_parser.MODULES[0]}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.syspath_prepend(folder)

    return write


def needs_module():
    if find_module() is None:
        pytest.skip(f"TensorRT-RTX is not installed: {nvidia_parser.INSTALL}")


def answers(*files, timeout_s=120.0, **how):
    with NvidiaParser(
        [ParserRequest(model=f, **how) for f in files], timeout_s=timeout_s
    ) as parser:
        return list(parser.answers())


def test_files_are_read_and_built_or_refused_each_in_its_own_words(convolution, tmp_path):
    needs_module()
    model = onnx.load(convolution)
    model.graph.node[0].op_type = "Undreamt"
    onnx.save(model, tmp_path / "unknown.onnx")
    (tmp_path / "cut.onnx").write_bytes(convolution.read_bytes()[:40])
    built, unknown, cut, again = answers(
        convolution, tmp_path / "unknown.onnx", tmp_path / "cut.onnx", convolution
    )
    assert built.taken
    assert built.built
    assert built.build_s > 0
    assert not unknown.taken
    assert unknown.reasons[0].operator == "Undreamt"
    assert not cut.taken
    assert cut.reasons
    # The words of one file are not those of the next.
    assert again.taken
    assert again.reasons == ()


def test_an_engine_is_for_the_gpus_that_are_named(convolution, tmp_path):
    needs_module()
    several, one = tmp_path / "several.engine", tmp_path / "one.engine"
    answers(convolution, sms=("7.5", "8.6", "12.0"), plan=several)
    answers(convolution, sms=("8.6",), plan=one)
    assert several.stat().st_size > one.stat().st_size > 0


def test_a_file_may_be_read_alone(convolution):
    needs_module()
    (found,) = answers(convolution, sms=())
    assert found.read
    assert found.built is None
    assert found.build_s is None


def test_an_open_batch_is_built_for_one_image(convolution):
    needs_module()
    model = onnx.load(convolution)
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, convolution)
    assert answers(convolution)[0].built


def test_what_takes_too_long_is_ended(convolution, module):
    module(
        LOADS + "import time\nclass Builder:\n    def __init__(self, _):\n        time.sleep(60)\n"
    )
    with pytest.raises(ParserDiedError, match="no answer within 1 s"):
        answers(convolution, timeout_s=1.0)


def test_a_process_that_dies_is_told_with_how_and_its_last_words(convolution, module):
    module(
        LOADS
        + "import os, sys\nclass Builder:\n    def __init__(self, _):\n"
        + "        print('the last\\x1b[31m words', file=sys.stderr, flush=True)\n        os.abort()\n"
    )
    with pytest.raises(ParserDiedError, match=r"by SIGABRT .*: the last \[31m words"):
        answers(convolution)


def test_a_module_that_does_not_load_is_code_3(convolution, module):
    module("raise ImportError('libcudart.so.13: cannot open shared object file')")
    with pytest.raises(MissingToolError, match="does not load: ImportError: libcudart"):
        answers(convolution)


def test_what_libraries_print_does_not_mix_with_the_answers(convolution, module):
    module(
        "import os\nos.write(1, b'{\"read\": true}\\n')\n"
        + LOADS
        + "def Builder(logger):\n    raise SystemExit(7)\n"
    )
    with pytest.raises(ParserDiedError, match="with exit code 7"):
        answers(convolution)


def test_without_the_module_the_message_says_how_to_install_it(convolution, monkeypatch):
    monkeypatch.setattr(nvidia_parser, "MODULES", ("a_module_that_is_not_there",))
    assert find_module() is None
    with pytest.raises(MissingToolError, match=r"pip install 'edgekd\[tensorrt-rtx\]'"):
        NvidiaParser([ParserRequest(model=convolution)])


def test_a_refusal_without_words_says_so(convolution, module):
    module(
        LOADS
        + "class Builder:\n    def __init__(self, _):\n        pass\n    def create_network(self, _):\n        pass\n"
        + "class NetworkDefinitionCreationFlag:\n    STRONGLY_TYPED = 0\n"
        + "class Error:\n    def node_name(self):\n        return ''\n    node_operator = desc = node_name\n"
        + "class OnnxParser:\n    num_errors = -1\n    def __init__(self, *_):\n        pass\n"
        + "    def parse(self, _):\n        print('on its own', flush=True)\n        return False\n"
    )
    (found,) = answers(convolution)
    assert [reason.message for reason in found.reasons] == ["it gave no reason"]


def test_the_child_needs_nothing_but_the_module():
    source = Path(nvidia_parser.__file__).with_name("parser_process.py").read_text()
    assert "edgekd." not in source.split('"""', 2)[2]
