import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekd.distill.models.batch_norm import batch_norms, watch_batch_norm
from edgekd.distill.teachers.onnx import checks
from edgekd.distill.teachers.onnx.loader import load_onnx, read_onnx
from edgekd.errors import InputFileError, MissingToolError

OPEN = ({0: torch.export.Dim("batch")},)


def trained(module):
    """With statistics and scales that a mistake would not leave alone."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.copy_(torch.randn(len(part.running_mean), generator=generator) * 0.1)
            part.running_var.copy_(torch.rand(len(part.running_var), generator=generator) + 0.5)
            # Different in each layer: the exporter keeps equal tensors once.
            part.weight.data.copy_(torch.rand(len(part.weight), generator=generator) + 0.5)
            part.bias.data.copy_(torch.randn(len(part.bias), generator=generator) * 0.1)
    return module.eval().requires_grad_(False)


def export(module, path, *, dynamo, batch=2, fixed=False, **options):
    if dynamo:
        options = {"external_data": False, "verbose": False, "opset_version": 18, **options}
        options |= {} if fixed else {"dynamic_shapes": OPEN}
    else:
        options = {"opset_version": 17, **options}
        options |= {} if fixed else {"dynamic_axes": {"images": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.rand(batch, 3, 32, 32),),
            path,
            dynamo=dynamo,
            input_names=["images"],
            output_names=["logits"],
            **options,
        )
    return path


def unfolded(module, path):
    """As exporters that leave batch-norm alone write it."""
    keep = torch.onnx.TrainingMode.PRESERVE
    return export(module, path, dynamo=False, training=keep, do_constant_folding=False)


class Small(nn.Module):
    def __init__(self, end=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU())
        self.fc = nn.Linear(8, 5)
        self.end = end

    def forward(self, x):
        x = self.fc(self.stem(x).mean((2, 3)))
        return x if self.end is None else self.end(x)


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=10),
    "timm:convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=10),
}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_answers_as_onnxruntime_and_differentiates_as_the_network(tmp_path, name, dynamo):
    network = trained(NETWORKS[name]())
    path = export(network, tmp_path / "t.onnx", dynamo=dynamo)
    module = load_onnx(path)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    given_, wanted = images.clone().requires_grad_(), images.clone().requires_grad_()
    answer = module(given_)
    np.testing.assert_allclose(answer.detach(), expected, rtol=1e-3, atol=1e-5)
    answer.sum().backward()
    network(wanted).sum().backward()
    assert given_.grad is not None
    assert wanted.grad is not None
    # Folding batch-norm rounds, and a value beside the kink of a ReLU falls on its other side: some
    # elements of the gradient differ, the whole hardly does.
    assert (given_.grad - wanted.grad).norm() < 0.02 * wanted.grad.norm()
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_batch_norm_that_is_not_folded_is_found_and_seen(tmp_path):
    network = trained(torchvision.models.resnet18(num_classes=10))
    path = unfolded(network, tmp_path / "t.onnx")
    said, module = read_onnx(path), load_onnx(path)
    assert said.batch_norm_layers == len(batch_norms(module)) == 20
    assert said.notes == ()
    assert said.parameters == sum(parameter.numel() for parameter in network.parameters())
    images = torch.rand(4, 3, 32, 32)
    distances = []
    for each in (network, module):
        with watch_batch_norm(each) as watched:
            each(images)
        distances.append(watched.distance())
    torch.testing.assert_close(*distances, rtol=1e-4, atol=1e-4)


def test_what_a_file_says(tmp_path):
    said = read_onnx(export(trained(Small()), tmp_path / "t.onnx", dynamo=True))
    assert (said.input, said.batch, said.classes) == ((3, 32, 32), None, 5)
    assert said.producer.startswith("pytorch")
    assert said.opset == 18
    assert "Conv" in said.operators
    assert "folded" in said.notes[0]


@pytest.mark.parametrize("opset", [18, 20, 21, 23])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_opsets_that_the_converter_does_not_know_are_lowered(tmp_path, opset, approximate):
    module = trained(Small())
    module.stem[2] = nn.GELU(approximate)
    path = export(module, tmp_path / "t.onnx", dynamo=True, opset_version=opset)
    assert read_onnx(path).opset == opset
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(load_onnx(path)(images), module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_batch_of_one_is_opened(tmp_path, dynamo):
    module = trained(torchvision.models.resnet18(num_classes=10))
    path = export(module, tmp_path / "t.onnx", dynamo=dynamo, batch=1, fixed=True)
    assert read_onnx(path).batch == 1
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(load_onnx(path)(images), module(images), rtol=1e-3, atol=1e-4)


def test_a_batch_that_cannot_be_opened_is_refused_with_advice(tmp_path):
    module = trained(torchvision.models.VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=10))
    path = export(module, tmp_path / "t.onnx", dynamo=True, batch=1, fixed=True)
    with pytest.raises(InputFileError, match="dynamic_shapes"):
        load_onnx(path)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_last_softmax_is_taken_off(tmp_path, end):
    module = trained(Small(end))
    path = export(module, tmp_path / "t.onnx", dynamo=True)
    assert "taken off" in read_onnx(path).notes[0]
    images = torch.rand(3, 3, 32, 32)
    module.end = None
    torch.testing.assert_close(load_onnx(path)(images), module(images), rtol=1e-4, atol=1e-5)


def test_weights_beside_the_model_are_read(tmp_path):
    module = trained(Small())
    path = export(module, tmp_path / "t.onnx", dynamo=True, external_data=True)
    assert (tmp_path / "t.onnx.data").is_file()
    images = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(load_onnx(path)(images), module(images), rtol=1e-4, atol=1e-5)


def test_without_onnx2torch_the_line_to_install_it_is_given(tmp_path, monkeypatch):
    path = export(trained(Small()), tmp_path / "t.onnx", dynamo=True)
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    read_onnx(path)
    with pytest.raises(MissingToolError, match=r"pip install 'edgekd\[onnx-teachers\]'"):
        load_onnx(path)


# --- hostile, damaged, and of another kind -------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = export(trained(Small()), tmp_path_factory.mktemp("small") / "t.onnx", dynamo=True)
    return path.read_bytes()


@pytest.fixture
def model(exported):
    return onnx.load_from_string(exported)


def refused(tmp_path, model, word):
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputFileError, match=word):
        load_onnx(path)


def weight(model):
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))


@pytest.mark.parametrize("location", ["../secret", "/outside", "sub/secret", "link", "", "."])
def test_weights_outside_the_folder_are_not_read(tmp_path, model, location):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret", folder / "sub" / "secret"):
        place.write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = weight(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    refused(folder, model, "not a plain file beside")


@pytest.mark.parametrize(("offset", "length"), [("0", "4"), ("1000000", "864"), ("-1", "864")])
def test_external_tensors_that_claim_what_is_not_there_are_refused(tmp_path, model, offset, length):
    (tmp_path / "data").write_bytes(bytes(2000))
    tensor = weight(model)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    refused(tmp_path, model, "claims|no place")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_models_are_input_errors(tmp_path, exported, share):
    (tmp_path / "t.onnx").write_bytes(exported[: int(share * len(exported))])
    with pytest.raises(InputFileError):
        load_onnx(tmp_path / "t.onnx")


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "t.onnx"
    path.write_bytes(data)
    with pytest.raises(InputFileError):
        read_onnx(path)


def test_names_with_quotes_are_only_names(tmp_path, model):
    # torch.fx writes the names of layers into the program that it makes.
    for node, name in zip(model.graph.node, ("a", 'the "first"', "the 'second'"), strict=False):
        node.name = name
    path = tmp_path / "t.onnx"
    path.write_bytes(model.SerializeToString())
    assert load_onnx(path)(torch.rand(2, 3, 32, 32)).shape[0] == 2


@pytest.mark.parametrize("sizes", [[1 << 40, 3, 3, 3], [1 << 62, 1 << 62], [-1, 3], [1] * 40])
def test_tensors_that_claim_what_is_not_there_are_refused(tmp_path, model, sizes):
    del weight(model).dims[:]
    weight(model).dims.extend(sizes)
    refused(tmp_path, model, "claims|of shape")


def test_an_input_of_impossible_size_is_refused(tmp_path, model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40
    refused(tmp_path, model, "refused|cannot be read")


def test_a_constant_larger_than_the_limit_is_refused(tmp_path, model, monkeypatch):
    monkeypatch.setattr(checks, "MAX_ELEMENTS", 1 << 16)
    size = numpy_helper.from_array(np.array([1 << 9, 1 << 9], np.int64), "size")
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["filled"]))
    refused(tmp_path, model, r"262,144 values")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, model, value):
    values = numpy_helper.to_array(weight(model)).copy()
    values.flat[3] = value
    name = weight(model).name
    weight(model).CopyFrom(numpy_helper.from_array(values, name))
    refused(tmp_path, model, f"{name} has 1 values")


def test_custom_domains_are_named(tmp_path, model):
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    refused(tmp_path, model, r"com\.example")


@pytest.mark.parametrize(
    ("operator", "word"),
    [
        ("QuantizeLinear", "quantised .*QuantizeLinear"),
        ("QLinearConv", "quantised .*QLinearConv"),
        ("NonMaxSuppression", "detectors .*NonMaxSuppression"),
        ("Loop", "control flow .*Loop"),
        ("DFT", "DFT|cannot be read"),
    ],
)
def test_operators_that_are_no_classifiers_are_named(tmp_path, model, operator, word):
    model.graph.node[1].op_type = operator
    refused(tmp_path, model, word)


def test_graphs_inside_operators_are_refused(tmp_path, model):
    graph = helper.make_graph([], "inner", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute("body", graph))
    refused(tmp_path, model, "graphs of their own")


def test_several_outputs_are_refused(tmp_path, model):
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = model.graph.node[0].output[0]
    refused(tmp_path, model, "2 outputs|cannot be read")


def test_multi_label_networks_are_refused(tmp_path):
    path = export(trained(Small(nn.Sigmoid())), tmp_path / "t.onnx", dynamo=True)
    with pytest.raises(InputFileError, match="multi-label"):
        read_onnx(path)
