import argparse
import contextlib
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file
from torch import nn

from edgekd.distill.teachers.state_dict import read_weights, state_digest
from edgekd.errors import InputFileError

STATE = {"conv1.weight": torch.arange(54.0).reshape(2, 3, 3, 3), "fc.weight": torch.ones(4, 2)}


class Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("nested", [False, True])
def test_raw_pickles_that_run_code_do_not(tmp_path, protocol, nested):
    created = tmp_path / "created"
    planted = {"state_dict": {"a": Call(created)}} if nested else Call(created)
    (tmp_path / "t.pt").write_bytes(pickle.dumps(planted, protocol=protocol))
    with pytest.raises(InputFileError):
        read_weights(tmp_path / "t.pt")
    assert not created.exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_torch_files_that_run_code_do_not(tmp_path, zipped):
    created = tmp_path / "created"
    content = {"state_dict": STATE, "extra": Call(created)}
    torch.save(content, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputFileError, match="refused"):
        read_weights(tmp_path / "t.pt")
    assert not created.exists()


def test_whole_modules_are_refused_with_what_to_do(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "t.pt")
    with pytest.raises(InputFileError, match=r"state_dict\(\)"):
        read_weights(tmp_path / "t.pt")


def test_torchscript_is_called_by_its_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "t.pt")
    with pytest.raises(InputFileError, match="TorchScript"):
        read_weights(tmp_path / "t.pt")


@hypothesis_settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 0.999), zipped=st.booleans())
def test_truncated_files_are_never_anything_but_an_input_error(tmp_path_factory, cut, zipped):
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE}, buffer, _use_new_zipfile_serialization=zipped)
    data = buffer.getvalue()
    path = tmp_path_factory.mktemp("cut") / "t.pth"
    path.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(InputFileError):
        read_weights(path)


@hypothesis_settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".pt", ".th", ".safetensors"]))
def test_any_bytes_are_an_input_error(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("bytes") / f"t{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputFileError):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".safetensors"])
def test_every_format_gives_the_same_tensors(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    if suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path)
    found = read_weights(path)
    assert found.key == ""
    assert state_digest(found.state) == state_digest(STATE)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model.state_dict"])
def test_wrappers_are_opened_and_named(tmp_path, key):
    content: dict[str, object] = dict(STATE)
    for part in reversed(key.split(".")):
        content = {part: content, "epoch": 3}
    torch.save(content, tmp_path / "t.pt")
    found = read_weights(tmp_path / "t.pt")
    assert found.key == key
    assert set(found.state) == set(STATE)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model.", "module.module."])
def test_prefixes_are_taken_off(tmp_path, prefix):
    torch.save({prefix + name: tensor for name, tensor in STATE.items()}, tmp_path / "t.pt")
    assert set(read_weights(tmp_path / "t.pt").state) == set(STATE)


def test_a_name_that_only_some_share_is_not_a_prefix(tmp_path):
    mixed = {"model.a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}
    torch.save(mixed, tmp_path / "t.pt")
    assert set(read_weights(tmp_path / "t.pt").state) == set(mixed)


def test_harmless_things_beside_the_weights_are_fine(tmp_path):
    beside = {"best": np.float64(91.7), "args": argparse.Namespace(lr=0.1), "epoch": 200}
    torch.save({"state_dict": STATE, **beside}, tmp_path / "t.pt")
    assert read_weights(tmp_path / "t.pt").key == "state_dict"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, value):
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    state["fc.weight"][1, 1] = value
    torch.save(state, tmp_path / "t.pt")
    with pytest.raises(InputFileError, match=r"fc\.weight has 1 values"):
        read_weights(tmp_path / "t.pt")


@pytest.mark.parametrize(
    ("name", "word"), [("t.txt", "ending in"), ("absent.pt", "no such file"), ("d.pt", "a folder")]
)
def test_paths_that_are_no_weight_files_are_explained(tmp_path, name, word):
    (tmp_path / "t.txt").write_bytes(b"x")
    (tmp_path / "d.pt").mkdir()
    with pytest.raises(InputFileError, match=word):
        read_weights(tmp_path / name)


def test_the_digest_changes_with_value_name_and_type_but_not_with_order():
    digest = state_digest(STATE)
    changed = {**STATE, "fc.weight": STATE["fc.weight"] + 1e-7}
    assert state_digest(dict(reversed(STATE.items()))) == digest
    assert state_digest(changed) != digest
    assert state_digest({**STATE, "fc.weight": STATE["fc.weight"].double()}) != digest
    assert state_digest({"conv1.weight": STATE["conv1.weight"], "fc": STATE["fc.weight"]}) != digest


def whole_files():
    """Files of every format, by their endings."""
    for zipped in (True, False):
        buffer = io.BytesIO()
        content = {"state_dict": STATE, "ema": STATE, "epoch": 3}
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        yield ".pt", buffer.getvalue()
    buffer = io.BytesIO()
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), buffer)
    yield ".pt", buffer.getvalue()
    yield ".safetensors", safetensors_bytes(STATE)


WHOLE = list(whole_files())


@hypothesis_settings(max_examples=400, deadline=None)
@given(
    file=st.sampled_from(WHOLE),
    changes=st.lists(
        st.tuples(st.floats(0, 0.999), st.binary(max_size=8), st.integers(0, 16)), min_size=1
    ),
)
def test_a_file_with_anything_changed_is_read_or_an_input_error(tmp_path_factory, file, changes):
    suffix, content = file
    changed = bytearray(content)
    for place, put_in, taken_out in changes:
        at = int(place * len(changed))
        changed[at : at + taken_out] = put_in
    path = tmp_path_factory.mktemp("changed") / f"t{suffix}"
    path.write_bytes(bytes(changed))
    with contextlib.suppress(InputFileError):
        read_weights(path)


def test_a_member_without_a_name_is_an_input_error(tmp_path):
    path = tmp_path / "t.pt"
    torch.save(STATE, path)
    content = path.read_bytes()
    at = content.rfind(b"PK\x01\x02")
    changed = bytearray(content)
    changed[at + 46] = 0  # names end at a zero
    path.write_bytes(bytes(changed))
    with pytest.raises(InputFileError):
        read_weights(path)
