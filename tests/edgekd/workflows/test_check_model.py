"""`edgekd export check`: a verdict for each TensorRT, and an exit code for one board."""

import json
import os

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.export import nvidia_parser
from edgekd.export.nvidia_parser import INSTALL, find_module
from edgekd.schemas import schema_text
from edgekd.workflows import check_model
from tests.conftest import REPOSITORY

SHAPE = (1, 3, 8, 8)


def saved(path, kinds, *, opset):
    """A chain of operators of one input."""
    names = ["images", *(f"t{place}" for place in range(1, len(kinds))), "logits"]
    nodes = [
        helper.make_node(kind, [names[place]], [names[place + 1]], name=f"n{place}")
        for place, kind in enumerate(kinds)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
        for name in ("images", "logits")
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_every_tensorrt_gets_a_verdict_and_each_reason_stands_once(edgekd, tmp_path):
    path = saved(tmp_path / "m.onnx", ["Relu", "HardSwish"], opset=14)
    code, out, _ = edgekd("export", "check", path)
    assert code == 0
    lines = out.splitlines()
    verdicts = {line.split()[2]: line.split(maxsplit=3)[3] for line in lines if line[:2] == "jp"}
    assert verdicts["8.2.1"].startswith("refused")
    assert verdicts["8.5.2"] == verdicts["10.3.0"] == "legal"
    assert sum("HardSwish needs TensorRT 8.5" in line for line in lines) == 1


def test_what_is_alike_is_said_once_with_its_places():
    reasons = [
        check_model.Reason(rule="zero point", where=where, message=message, advice="again")
        for where, message in (("a", "not 0"), ("b", "not 0"), ("b", "left out"))
    ]
    verdicts = [
        check_model.Verdict(software=name, tensorrt="8.5.2", legal=False, reasons=tuple(found))
        for name, found in (("jp5.1", reasons[:2]), ("jp5.2", reasons))
    ]
    check = check_model.GraphCheck(
        model="m", digest="0" * 64, target=None, verdicts=tuple(verdicts)
    )
    lines = check_model.format_graph_check(check).splitlines()
    assert [line.partition("refused: ")[2] for line in lines[:2]] == ["1", "1, 2"]
    assert lines[2].strip() == "1. zero point (a and 1 more): not 0; again"
    assert lines[3].strip() == "2. zero point (b): left out; again"


def convolution(path, *, then="Relu", quantised=False):
    """One convolution, whose input went through a Q/DQ pair if so."""
    constants = [numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")]
    nodes, given = [], "images"
    if quantised:
        constants += [
            numpy_helper.from_array(np.asarray(0.1, np.float32), "s"),
            numpy_helper.from_array(np.asarray(0, np.int8), "z"),
        ]
        for kind, before, after in (
            ("QuantizeLinear", "images", "q"),
            ("DequantizeLinear", "q", "d"),
        ):
            nodes.append(helper.make_node(kind, [before, "s", "z"], [after], name=after))
        given = "d"
    nodes += [
        helper.make_node("Conv", [given, "w"], ["c"], name="conv"),
        helper.make_node(then, ["c"], ["logits"], name="then"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
        for name in ("images", "logits")
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("target", "share", "words"),
    [
        ("jetson-agx-orin-64gb@jp6.2", 1.0, None),
        ("jetson-xavier-nx@jp5.1", 1.0, None),
        ("jetson-agx-orin-64gb@jp7.2", None, "TensorRT 10.16.2 has no DLA: 10.7 was the last"),
        ("jetson-orin-nano-8gb", None, "has no DLA"),
        ("jetson-thor-t5000", None, "has no DLA"),
        ("raspberry-pi-5", None, "without TensorRT"),
    ],
)
def test_what_share_a_dla_could_run_is_said_where_there_is_one(
    edgekd, tmp_path, target, share, words
):
    path = convolution(tmp_path / "m.onnx", then="HardSwish")
    found = json.loads(edgekd("export", "check", path, "-t", target, "--json")[1])
    assert found["dla"]["dla_share"] == share
    if share is None:
        assert words in found["dla"]["reason"]
        assert found["dla"]["cannot"] == []
    else:
        assert found["dla"]["reason"] is None
        assert found["dla"]["cannot"] == ["HardSwish (no DLA layer)"]
    said = edgekd("export", "check", path, "-t", target)[1]
    expected = words or "DLA: 100.0% of the multiply-accumulates in FP16; on the GPU: HardSwish"
    assert expected in said


def test_a_board_with_a_later_tensorrt_has_its_dla_again(edgekd, tmp_path):
    board = (REPOSITORY / "targets" / "boards" / "jetson-agx-orin-64gb.toml").read_text()
    board = board.replace('"jetson-agx-orin-64gb"', '"my-orin"').replace('"jp6.2"', '"jp8"', 1)
    lines = [line for line in board.splitlines() if not line.startswith(("runs", "default"))]
    own = """
[software.jp8]
runtime = "tensorrt"
tensorrt = "{version}"
exporter = "dynamo"
opset = 20
typing = "strong"
int8 = true
source = "a test"
"""
    path = convolution(tmp_path / "m.onnx")
    shares = {}
    for version in ("11.4.0", "11.4.1"):
        head = ['default_software = "jp8"', *(line for line in lines if "aliases" not in line)]
        (tmp_path / "b.toml").write_text("\n".join(head) + own.format(version=version))
        code, out, err = edgekd("export", "check", path, "-t", tmp_path / "b.toml", "--json")
        assert code == 0, err
        shares[version] = json.loads(out)["dla"]["dla_share"]
    assert shares == {"11.4.0": None, "11.4.1": 1.0}


def test_of_a_quantised_file_no_share_is_claimed(edgekd, tmp_path):
    path = convolution(tmp_path / "m.onnx", quantised=True)
    found = json.loads(edgekd("export", "check", path, "-t", "jetson-xavier-nx", "--json")[1])
    assert found["dla"]["dla_share"] is None
    assert "Q/DQ pairs" in found["dla"]["reason"]


def test_without_a_target_there_is_no_board_to_have_a_dla(edgekd, tmp_path):
    path = convolution(tmp_path / "m.onnx")
    assert json.loads(edgekd("export", "check", path, "--json")[1])["dla"] is None


def test_what_does_harm_refuses_nothing():
    harm = check_model.Reason(
        rule="weights per tensor", where="a", message="one scale", advice="more", refuses=False
    )
    verdict = check_model.Verdict(software="jp5.1", tensorrt="8.5.2", legal=True, reasons=(harm,))
    check = check_model.GraphCheck(model="m", digest="0" * 64, target="t", verdicts=(verdict,))
    check_model.require_compatible(check)
    first, second = check_model.format_graph_check(check).splitlines()
    assert first.endswith("legal, but 1")
    assert second.strip() == "1. weights per tensor (a): one scale; more"


def test_a_target_decides_the_exit_code(edgekd, tmp_path):
    path = saved(tmp_path / "m.onnx", ["Gelu"], opset=20)
    code, out, err = edgekd("export", "check", path, "--target", "jetson@jp6.0")
    assert code == 8
    assert "Gelu needs TensorRT 10.0" in out
    assert "not legal for" in err
    assert edgekd("export", "check", path, "--target", "jetson@jp6.2")[0] == 0


def test_the_record_fits_its_schema(edgekd, tmp_path):
    path = saved(tmp_path / "m.onnx", ["Gelu"], opset=20)
    found = json.loads(edgekd("export", "check", path, "-t", "raspberry-pi-5", "--json")[1])
    jsonschema.validate(found, json.loads(schema_text("graph-check")))
    assert found["verdicts"][0]["tensorrt"] is None
    assert [each["tensorrt"] for each in found["verdicts"][1:]] == [
        "8.2.1", "8.5.2", "8.6.2", "10.3.0", "10.13.3", "10.16.2", "11.4.1",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [("missing.onnx",), ("m.onnx", "-t", "no-such-board")])
def test_bad_use_is_explained(edgekd, tmp_path, words):
    saved(tmp_path / "m.onnx", ["Relu"], opset=17)
    code, out, err = edgekd("export", "check", tmp_path / words[0], *words[1:])
    assert code == 2
    assert err
    assert not out


def test_a_folder_of_that_name_can_still_be_exported(edgekd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = edgekd("export", "./check", "--target", "jetson")
    assert code == 2
    assert "check/student.json" in err


def test_the_published_schema_is_the_records():
    published = REPOSITORY / "docs" / "schema" / "graph-check-2.schema.json"
    assert published.read_text(encoding="utf-8") == schema_text("graph-check")


def asked(edgekd, *words):
    """What `export check --parser` prints, as text and as a record."""
    if find_module() is None:
        pytest.skip(f"TensorRT-RTX is not installed: {INSTALL}")
    code, text, err = edgekd("export", "check", *words, "--parser")
    found = json.loads(edgekd("export", "check", *words, "--parser", "--json")[1])
    jsonschema.validate(found, json.loads(schema_text("graph-check")))
    return code, text, err, found["parser"]


def test_nvidias_parser_stands_beside_the_verdicts(edgekd, tmp_path):
    code, text, _, found = asked(edgekd, convolution(tmp_path / "m.onnx"))
    assert code == 0
    assert found["answer"]["built"] is True
    assert found["compute_capabilities"] == ["8.6"]
    assert f"NVIDIA's parser (TensorRT-RTX {found['version']}): read, built for SM 8.6 in" in text
    assert "the same as edgekd's verdict for TensorRT 11.4.1" in text


@pytest.mark.parametrize(
    ("target", "sm"),
    [("jetson-orin-nano-8gb", "8.6"), ("jetson-thor-t5000", "8.9"), ("jetson-xavier-nx", "8.0")],
)
def test_it_builds_for_the_nearest_gpu_that_it_knows(edgekd, tmp_path, target, sm):
    *_, found = asked(edgekd, convolution(tmp_path / "m.onnx"), "-t", target)
    assert found["compute_capabilities"] == [sm]


def edited(path, edit):
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)
    return path


def zero_of(kind, value):
    def edit(model):
        for tensor in model.graph.initializer:
            if tensor.name == "z":
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, kind), "z"))

    return edit


def test_what_both_refuse_is_said_with_the_node(edgekd, tmp_path):
    path = edited(convolution(tmp_path / "m.onnx", quantised=True), zero_of(np.int8, 3))
    code, text, _, found = asked(edgekd, path)
    # Without a target nothing is asked of the file.
    assert code == 0
    assert found["answer"]["read"] is False
    assert found["answer"]["reasons"][0]["operator"] == "QuantizeLinear"
    assert "refused as by edgekd for TensorRT 11.4.1, for the same node q" in text


def test_what_only_edgekd_refuses_is_said_with_why_they_may_differ(edgekd, tmp_path):
    path = edited(convolution(tmp_path / "m.onnx", quantised=True), zero_of(np.uint8, 0))
    code, text, _, found = asked(edgekd, path, "-t", "jetson@jp7.2")
    # Its verdict is never mixed with edgekd's.
    assert code == 8
    assert found["answer"]["built"] is True
    assert "UINT8" in found["answer"]["warnings"][0]
    assert "quantised type: it reads UINT8 as INT8, and what is above 127 is lost" in text


def test_files_that_it_is_not_asked_about_say_why(edgekd, tmp_path):
    path = convolution(tmp_path / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="w.bin")
    _, text, _, found = asked(edgekd, path)
    assert found["answer"] is None
    assert "no answer: the weights are in another file" in text


def test_it_is_left_out_on_request_and_missed_by_name(edgekd, tmp_path, monkeypatch):
    path = convolution(tmp_path / "m.onnx")
    found = json.loads(edgekd("export", "check", path, "--no-parser", "--json")[1])
    assert found["parser"] is None
    monkeypatch.setattr(nvidia_parser, "MODULES", ("a_module_that_is_not_there",))
    assert edgekd("export", "check", path)[0] == 0
    code, out, err = edgekd("export", "check", path, "--parser")
    assert code == 3
    assert not out
    assert INSTALL in err


def test_8_bit_floats_are_refused_for_gpus_that_have_none(edgekd, tmp_path):
    narrow = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0])

    def edit(model):
        kept = [tensor for tensor in model.graph.initializer if tensor.name != "z"]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, narrow])
        model.opset_import[0].version = 19

    path = edited(convolution(tmp_path / "m.onnx", quantised=True), edit)
    orin = edgekd("export", "check", path, "-t", "jetson-orin-nano-8gb@jp7.2", "--json")
    thor = edgekd("export", "check", path, "-t", "jetson-thor-t5000@jp7.2", "--json")
    refusals = [
        {each["rule"] for each in json.loads(out)["verdicts"][0]["reasons"] if each["refuses"]}
        for _, out, _ in (orin, thor)
    ]
    # Data alone are quantised, which types in the graph alone allow from 11.0 on.
    assert refusals == [{"GPU", "half quantised"}, {"half quantised"}]


def test_weights_in_another_file_are_seen_inside_of_branches(edgekd, tmp_path):
    far = numpy_helper.from_array(np.ones(SHAPE, np.float32), "far")
    far.ClearField("raw_data")
    far.data_location = TensorProto.EXTERNAL
    far.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(np.ones(SHAPE, np.float32).tobytes())
    out = [helper.make_tensor_value_info("b", TensorProto.FLOAT, SHAPE)]
    add = helper.make_node("Add", ["images", "far"], ["b"], name="add")
    branch = helper.make_graph([add], "branch", [], out, [far])
    node = helper.make_node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
        for name in ("images", "logits")
    ]
    yes = numpy_helper.from_array(np.asarray(True), "yes")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [yes])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx"
    )
    found = json.loads(edgekd("export", "check", tmp_path / "m.onnx", "--json")[1])
    assert {each["rule"] for each in found["verdicts"][-1]["reasons"]} == {"external data"}
    assert found["parser"] is None or found["parser"]["answer"] is None


def test_what_is_no_plain_file_is_refused_and_not_waited_for(edgekd, tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    code, out, err = edgekd("export", "check", tmp_path / "m.onnx")
    assert code == 2
    assert not out
    assert "not a plain file" in err


def test_names_of_a_file_do_not_steer_the_terminal(edgekd, tmp_path):
    def edit(model):
        model.graph.node[0].op_type = "Undreamt"
        model.graph.node[0].name = "a\x1b]0;title\x07\nb"

    path = edited(saved(tmp_path / "m.onnx", ["Relu", "Relu"], opset=17), edit)
    _, out, _ = edgekd("export", "check", path)
    assert "\x1b" not in out
    assert "(a ]0;title b)" in out


@pytest.mark.parametrize(("words", "expected"), [((), 0), (("--parser",), 3)])
def test_a_module_that_does_not_load_changes_no_verdict_unless_it_is_insisted_on(
    edgekd, tmp_path, monkeypatch, words, expected
):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / f"{nvidia_parser.MODULES[0]}.py").write_text("raise ImportError('libx.so')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    code, out, err = edgekd("export", "check", convolution(tmp_path / "m.onnx"), *words)
    assert code == expected
    assert "does not load: ImportError: libx.so" in (out if expected == 0 else err)


def test_one_kind_of_gpu_does_not_hide_what_the_others_say(edgekd, tmp_path):
    def edit(model):
        model.graph.node[-1].CopyFrom(helper.make_node("MatMul", ["c", "c"], ["logits"], name="mm"))

    path = edited(convolution(tmp_path / "m.onnx"), edit)
    code, text, _, found = asked(edgekd, path, "-t", "x86-rtx")
    assert code == 0
    assert found["compute_capabilities"] == ["8.6", "8.9", "12.0"]
    assert found["answer"]["built"] is True
    assert "read, built for SM 8.6, 8.9, 12.0" in text
    assert "warning: not built for SM 7.5:" in text


def test_a_file_whose_input_holds_sizes_is_read_and_not_built(edgekd, tmp_path):
    ends = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, SHAPE),
        helper.make_tensor_value_info("sizes", TensorProto.INT64, (2,)),
    ]
    node = helper.make_node("Reshape", ["images", "sizes"], ["logits"], name="reshape")
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, (None, None))
    graph = helper.make_graph([node], "g", ends, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    _, text, _, found = asked(edgekd, tmp_path / "m.onnx", "-t", "x86-rtx")
    assert found["answer"]["read"] is True
    assert found["answer"]["built"] is None
    assert "read; not built, because an input holds sizes of tensors" in text
