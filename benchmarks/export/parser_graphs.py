"""Small graphs that others wrote: onnx's own tests of single nodes, and what threads are about."""

import warnings
from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from benchmarks.export.parser_files import Group, given, group_models
from edgekd.export.tensorrt_rules import opset_of


def nodes() -> Iterator[Group]:
    """The onnx package's tests of nodes; a file for each."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        # It computes the expected answers too, some of which overflow on purpose.
        warnings.simplefilter("ignore")
        cases = loader.load_model_tests(kind="node")
    models = [(case.name, case.model) for case in cases if case.model is not None]
    yield from group_models(
        [
            (name.removeprefix("test_"), f"opset {opset_of(model)}", given(model))
            for name, model in models
        ]
    )


def threads() -> Iterator[Group]:
    """The graphs of the tests, whatever TensorRT the thread was about."""
    from tests.export.test_threads import THREADS

    found = []
    for number, (thread, version, graph, rule) in enumerate(THREADS):
        made = helper.make_graph(
            graph.nodes,
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, graph.shape)],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, graph.shape)],
            graph.constants,
        )
        opset = helper.make_opsetid("", graph.opset)
        model = helper.make_model(made, opset_imports=[opset], ir_version=10)
        name = "/".join(thread.removeprefix("https://github.com/").split("/")[1::2])
        variant = f"{number}: {rule or 'built'} with {version}"
        found.append((name, variant, given(model)))
    yield from group_models(found)


def operators_of(model: onnx.ModelProto) -> list[str]:
    """Names of all operators, those of other domains with theirs."""
    plain = {"", "ai.onnx"}
    return sorted(
        {
            node.op_type if node.domain in plain else f"{node.domain}::{node.op_type}"
            for node in model.graph.node
        }
    )
