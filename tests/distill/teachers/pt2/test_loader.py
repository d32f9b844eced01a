import contextlib
import io
import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from edgekd.distill.models.batch_norm import batch_norms, watch_batch_norm
from edgekd.distill.teachers.pt2.loader import load_program, read_program, state_of
from edgekd.errors import InputFileError

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
            part.weight.data.copy_(torch.rand(len(part.weight), generator=generator) + 0.5)
            part.bias.data.copy_(torch.randn(len(part.bias), generator=generator) * 0.1)
    return module.eval().requires_grad_(False)


def export(module, path, size=(3, 32, 32), *, batch=2, shapes=OPEN, decompose=False):
    program = torch.export.export(module, (torch.rand(batch, *size),), dynamic_shapes=shapes)
    torch.export.save(program.run_decompositions() if decompose else program, path)
    return path


class Small(nn.Module):
    def __init__(self, end=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True))
        self.fc = nn.Linear(8, 5)
        self.end = end

    def forward(self, x):
        x = self.fc(self.stem(x).mean((2, 3)))
        return x if self.end is None else self.end(x)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    module = trained(Small())
    return module, export(module, tmp_path_factory.mktemp("small") / "small.pt2")


def vision_transformer():
    module = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(module.heads.head.weight)
    return module


NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=10),
    "vit": vision_transformer,
    "timm:convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=10),
    "timm:resnet18": lambda: timm.create_model("resnet18", num_classes=10),
}


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_answers_and_differentiates_as_the_network(tmp_path, name, decompose):
    network = trained(NETWORKS[name]())
    path = export(network, tmp_path / "t.pt2", decompose=decompose)
    program = load_program(path)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    given_, wanted = images.clone().requires_grad_(), images.clone().requires_grad_()
    answer, expected = program(given_), network(wanted)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)
    answer.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(given_.grad, wanted.grad, rtol=1e-3, atol=1e-5)
    assert {k: v.shape for k, v in program.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    assert not any(parameter.requires_grad for parameter in program.parameters())


def test_batch_norm_layers_are_found_under_their_names_and_seen(tmp_path):
    network = trained(torchvision.models.resnet18(num_classes=10))
    program = load_program(export(network, tmp_path / "t.pt2"))
    assert list(batch_norms(program)) == list(batch_norms(network))
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    distances = []
    for module in (network, program):
        with watch_batch_norm(module) as watched:
            module(images)
        distances.append(watched.distance())
    torch.testing.assert_close(*distances)


def test_what_a_file_says_is_what_the_network_is(small):
    module, path = small
    said = read_program(path)
    assert said.input == (3, 32, 32)
    assert said.batch is None
    assert said.classes == 5
    assert said.batch_norm_layers == 1
    assert said.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert said.shapes == {name: tuple(t.shape) for name, t in module.state_dict().items()}
    assert "aten.conv2d.default" in said.operators
    state = state_of(path)
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_reading_brings_in_no_torch(small):
    code = (
        "import sys, pathlib; from edgekd.distill.teachers.pt2.loader import read_program; "
        f"read_program(pathlib.Path({str(small[1])!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
@pytest.mark.parametrize("decompose", [False, True])
def test_a_last_softmax_is_taken_off(tmp_path, end, decompose):
    module = trained(Small(end))
    path = export(module, tmp_path / "t.pt2", decompose=decompose)
    assert "taken off" in " ".join(read_program(path).notes)
    images = torch.rand(3, 3, 32, 32)
    module.end = None
    torch.testing.assert_close(load_program(path)(images), module(images))


def test_half_precision_programs_run_in_single(tmp_path):
    module = trained(Small()).half()
    program = torch.export.export(module, (torch.rand(2, 3, 32, 32).half(),), dynamic_shapes=OPEN)
    torch.export.save(program, tmp_path / "t.pt2")
    images = torch.rand(3, 3, 32, 32)
    answer = load_program(tmp_path / "t.pt2")(images)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, module.float()(images))


def test_a_program_in_training_mode_runs_as_in_evaluation(tmp_path):
    module = trained(Small())
    expected = module(images := torch.rand(3, 3, 32, 32))
    path = export(module.train(), tmp_path / "t.pt2")
    assert "training mode" in " ".join(read_program(path).notes)
    program = load_program(path)
    before = {name: tensor.clone() for name, tensor in program.state_dict().items()}
    torch.testing.assert_close(program(images), expected)
    assert all(torch.equal(before[name], t) for name, t in program.state_dict().items())


def test_a_fixed_batch_is_taken_where_nothing_depends_on_it(tmp_path):
    module = trained(Small())
    path = export(module, tmp_path / "t.pt2", batch=1, shapes=None)
    assert read_program(path).batch == 1
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(load_program(path)(images), module(images))


def test_a_fixed_batch_is_refused_with_advice_where_something_does(tmp_path):
    path = export(trained(vision_transformer()), tmp_path / "t.pt2", batch=1, shapes=None)
    with pytest.raises(InputFileError, match="dynamic_shapes"):
        load_program(path)


def test_a_copy_of_the_module_stands_alone(small):
    import copy

    program = load_program(small[1])
    images = torch.rand(2, 3, 32, 32)
    expected, twin = program(images), copy.deepcopy(program)
    for tensor in program.state_dict().values():
        tensor.zero_()
    assert torch.equal(twin(images), expected)


class Overwriting(Small):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


def test_images_that_a_program_overwrites_stay_as_they_were(tmp_path):
    module = trained(Overwriting())
    program = load_program(export(module, tmp_path / "t.pt2"))
    images = torch.rand(3, 3, 32, 32)
    before = images.clone().requires_grad_()
    answer = program(before)
    answer.sum().backward()
    assert torch.equal(before, images)
    torch.testing.assert_close(answer, module(images))


class TwoAnswers(Small):
    def forward(self, x):
        return super().forward(x), x.mean()


class Detached(Small):
    def forward(self, x):
        return super().forward(x.detach())


class Maps(Small):
    def forward(self, x):
        return self.stem(x)


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (Small(nn.Sigmoid()), "multi-label"),
        (TwoAnswers(), "2 outputs"),
        (Detached(), "no gradient"),
        (Maps(), "one row of logits"),
    ],
)
def test_what_is_no_teacher_is_refused_by_its_name(tmp_path, module, word):
    with pytest.raises(InputFileError, match=word):
        load_program(export(trained(module), tmp_path / "t.pt2"))


# --- hostile and damaged files -------------------------------------------------------------------


class Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, content, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def content(small):
    return members_of(small[1])


def edited(content, ending, change):
    name = next(name for name in content if name.endswith(ending))
    value = json.loads(content[name])
    change(value)
    return {**content, name: json.dumps(value).encode()}


WEIGHTS = "data/weights/model_weights_config.json"
MODEL = "models/model.json"


def refused(tmp_path, content, word):
    path = write(tmp_path / "bad.pt2", content)
    with pytest.raises(InputFileError, match=word):
        load_program(path)


def test_the_untouched_members_still_load(tmp_path, content):
    load_program(write(tmp_path / "t.pt2", content))


def test_sample_inputs_that_run_code_do_not(tmp_path, content):
    created = tmp_path / "created"
    name = next(name for name in content if "sample_inputs" in name)
    buffer = io.BytesIO()
    torch.save(Call(created), buffer)
    for payload in (pickle.dumps(Call(created)), buffer.getvalue()):
        path = write(tmp_path / "t.pt2", {**content, name: payload})
        read_program(path)
        load_program(path)
        state_of(path)
        assert not created.exists()


def test_pickled_weights_are_refused_and_do_not_run(tmp_path, content):
    created = tmp_path / "created"

    def pickled(config):
        config["config"]["fc.weight"]["use_pickle"] = True

    config = edited(content, WEIGHTS, pickled)
    member = json.loads(config[next(n for n in config if n.endswith(WEIGHTS))])
    place = member["config"]["fc.weight"]["path_name"]
    name = next(n for n in config if n.endswith(f"data/weights/{place}"))
    refused(tmp_path, {**config, name: pickle.dumps(Call(created))}, "--trust-pickle")
    assert not created.exists()


def test_weights_of_the_old_format_are_refused_and_do_not_run(tmp_path, content):
    created = tmp_path / "created"
    root = next(iter(content)).partition("/")[0]
    legacy = {**content, f"{root}/data/weights/model.pt": pickle.dumps(Call(created))}
    refused(tmp_path, legacy, "--trust-pickle")
    assert not created.exists()


def test_pickled_constants_are_refused_and_do_not_run(tmp_path, content):
    created = tmp_path / "created"
    root = next(iter(content)).partition("/")[0]

    def pickled(config):
        config["config"]["thing"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    hostile = edited(content, "model_constants_config.json", pickled)
    hostile[f"{root}/data/constants/opaque_obj_0"] = pickle.dumps(Call(created))
    refused(tmp_path, hostile, "pickle")
    assert not created.exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_archives_are_input_errors(tmp_path, small, share):
    data = small[1].read_bytes()
    (tmp_path / "t.pt2").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputFileError, match="cut short"):
        load_program(tmp_path / "t.pt2")


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "t.pt2"
    path.write_bytes(data)
    with pytest.raises(InputFileError):
        read_program(path)


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path, small, content):
    data = bytearray(small[1].read_bytes())
    weight = next(value for name, value in content.items() if name.endswith("weights/weight_0"))
    data[data.index(weight) + 5] ^= 1
    (tmp_path / "t.pt2").write_bytes(data)
    with pytest.raises(InputFileError, match="CRC"):
        load_program(tmp_path / "t.pt2")


def test_compressed_members_are_refused_unread(tmp_path, content):
    packed = {**content, next(iter(content)): bytes(1 << 12)}
    path = write(tmp_path / "t.pt2", packed, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputFileError, match="compressed"):
        read_program(path)


def test_a_member_that_claims_more_than_the_file_is_refused(tmp_path, content):
    path = write(tmp_path / "t.pt2", content)
    data = bytearray(path.read_bytes())
    end = data.rindex(
        b"PK\x05\x06"
    )  # the archive holds another one: its first entry is not found by its mark
    at = int.from_bytes(data[end + 16 : end + 20], "little")
    data[at + 20 : at + 28] = (0x7FFFFFFF).to_bytes(4, "little") * 2  # both sizes
    path.write_bytes(data)
    with pytest.raises(InputFileError, match="claim"):
        read_program(path)


def test_a_table_of_contents_that_claims_millions_is_refused(tmp_path, content):
    path = write(tmp_path / "t.pt2", content)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x05\x06")
    data[at + 12 : at + 16] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputFileError, match="table of contents"):
        read_program(path)


def test_the_same_member_twice_is_refused(tmp_path, content):
    path = write(tmp_path / "t.pt2", content)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(next(iter(content)), b"other")
    with pytest.raises(InputFileError, match="twice"):
        read_program(path)


@pytest.mark.parametrize("name", ["../out", "/out", "a\\..\\out", "t/../../out", "C:/out"])
def test_member_names_that_lead_outside_are_refused(tmp_path, content, name):
    refused(tmp_path, {**content, name: b"x"}, "refused, a member is called")


@pytest.mark.parametrize("module", ["a." * 2000 + "weight", "", "a..weight", "x" * 5000])
def test_tensor_names_that_no_module_has_are_refused(tmp_path, content, module):
    def rename(config):
        config["config"][module] = config["config"]["fc.weight"]

    refused(tmp_path, edited(content, WEIGHTS, rename), "a tensor is called")


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("sizes", [{"as_int": 1 << 40}, {"as_int": 8}], "claims"),
        ("sizes", [{"as_int": -5}, {"as_int": 8}], "no fixed shape"),
        ("sizes", [{"as_int": 0}, {"as_int": 8}], "empty"),
        ("sizes", [{"as_int": 5}], "strides"),
        ("strides", [{"as_int": 1 << 40}, {"as_int": 1}], "claims"),
        ("strides", [{"as_int": -8}, {"as_int": 1}], "no fixed shape"),
        ("storage_offset", {"as_int": 1}, "claims"),
        ("dtype", 9, "plain dense tensor"),
        ("dtype", 8, "claims"),
        ("layout", 1, "plain dense tensor"),
    ],
)
def test_tensors_that_claim_what_is_not_there_are_refused(tmp_path, content, field, value, word):
    def lie(config):
        config["config"]["fc.weight"]["tensor_meta"][field] = value

    refused(tmp_path, edited(content, WEIGHTS, lie), word)


def test_one_value_repeated_to_terabytes_is_refused(tmp_path, content):
    def lie(config):
        meta = config["config"]["fc.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 1 << 40}], [{"as_int": 0}]

    refused(tmp_path, edited(content, WEIGHTS, lie), "claims")


def test_many_names_for_the_same_bytes_are_refused(tmp_path, content):
    def lie(config):
        for number in range(40):
            copied = json.loads(json.dumps(config["config"]["fc.weight"]))
            copied["tensor_meta"]["sizes"][0]["as_int"] -= number % 5
            copied["tensor_meta"]["storage_offset"]["as_int"] = number % 8
            copied["path_name"] = "big"
            config["config"][f"again{number}"] = copied

    hostile = edited(content, WEIGHTS, lie)
    root = next(iter(content)).partition("/")[0]
    hostile[f"{root}/data/weights/big"] = bytes(1 << 20)

    def larger(config):
        for name, payload in config["config"].items():
            if name.startswith("again"):
                payload["tensor_meta"]["sizes"] = [{"as_int": 200_000 - int(name[5:])}]
                payload["tensor_meta"]["strides"] = [{"as_int": 1}]

    refused(tmp_path, edited(hostile, WEIGHTS, larger), "its tensors claim")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    module = trained(Small())
    module.fc.weight[1, 1] = value
    path = export(module, tmp_path / "t.pt2")
    with pytest.raises(InputFileError, match=r"fc\.weight has 1 values"):
        load_program(path)
    with pytest.raises(InputFileError, match=r"fc\.weight has 1 values"):
        state_of(path)


def retarget(target):
    def change(model):
        node = model["graph_module"]["graph"]["nodes"][2]
        node["target"] = target

    return change


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.nonzero.default",
        "torch.ops.mylib.thing.default",
        "torch.ops.higher_order.cond",
        "torch.load",
        "builtins.eval",
        "os.system",
        "_operator.pow",
        "torch.ops.aten.__class__.default",
    ],
)
def test_operators_that_are_not_listed_are_named(tmp_path, content, target):
    word = target.removeprefix("torch.ops.").replace(".", r"\.")
    refused(tmp_path, edited(content, MODEL, retarget(target)), word)


@pytest.mark.parametrize("overload", ["nonsense", "__init__", "default.__call__"])
def test_overloads_that_do_not_exist_are_refused(tmp_path, content, overload):
    change = retarget(f"torch.ops.aten.relu.{overload}")
    refused(tmp_path, edited(content, MODEL, change), "no operator")


def test_a_graph_that_would_fill_the_memory_is_refused(tmp_path, content):
    def change(model):
        graph = model["graph_module"]["graph"]
        output = graph["nodes"][2]["outputs"]
        graph["nodes"][2] = {
            "target": "torch.ops.aten.zeros.default",
            "inputs": [{"name": "size", "arg": {"as_ints": [1 << 30, 64]}, "kind": 1}],
            "outputs": output,
            "metadata": {},
        }

    refused(tmp_path, edited(content, MODEL, change), "makes a tensor of 68,719,476,736 values")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_nested_too_deep_is_an_input_error(tmp_path, content, opening):
    for ending in (MODEL, WEIGHTS):
        name = next(name for name in content if name.endswith(ending))
        refused(tmp_path, {**content, name: opening * 200_000}, "cannot be read")


def test_json_of_millions_of_values_is_refused_unparsed(tmp_path, content):
    name = next(name for name in content if name.endswith(MODEL))
    refused(tmp_path, {**content, name: b'{"x": [' + b"[]," * (1 << 21) + b"[]]}"}, "values")


def test_json_that_is_too_large_is_refused_unread(tmp_path, content):
    name = next(name for name in content if name.endswith(MODEL))
    refused(tmp_path, {**content, name: bytes(33 << 20)}, r"34,603,008 bytes")


def test_json_of_the_wrong_shape_is_an_input_error(tmp_path, content):
    name = next(name for name in content if name.endswith(MODEL))
    for text in (b"[]", b"{}", b"null", b"\xff\xfe", b'{"graph_module": 3}', b"9" * 10_000):
        refused(tmp_path, {**content, name: text}, "cannot be read")


@hypothesis_settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_graph_with_anything_changed_never_fails_otherwise(tmp_path_factory, small, data):
    content = members_of(small[1])
    name = next(name for name in content if name.endswith(MODEL))
    model = json.loads(content[name])
    place, key = model, "graph_module"
    for _ in range(data.draw(st.integers(1, 9))):
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
        place, key = inner, data.draw(st.sampled_from(keys))
    place[key] = data.draw(
        st.sampled_from([None, 0, -1, 1 << 62, 1.5, "x", [], {}, {"as_int": 3}, ["fc"], True])
    )
    path = tmp_path_factory.mktemp("changed") / "t.pt2"
    write(path, {**content, name: json.dumps(model).encode()})
    with contextlib.suppress(InputFileError):
        load_program(path)(torch.rand(2, 3, 32, 32))


def test_a_state_dict_with_this_ending_is_called_what_it_is(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "t.pt2")
    with pytest.raises(InputFileError, match=r"call it \.pt"):
        read_program(tmp_path / "t.pt2")
