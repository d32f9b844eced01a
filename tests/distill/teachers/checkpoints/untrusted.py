"""Files that nobody vouches for, one function per kind: `KINDS`.

Each is small and harmless to whatever else reads it: the limits that it passes are made small by the test
(`LIMITS`), and a call that a file asks for would create an empty file, `created`, beside it.
"""

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {}

STATE = {"conv1.weight": torch.arange(54.0).reshape(2, 3, 3, 3), "fc.weight": torch.ones(4, 2)}
STORAGE = b"\x00" * 64


def kind(message):
    """Register a kind with what the refusal must say."""

    def registered(make):
        KINDS[make.__name__] = (make, message)
        return make

    return registered


class Call:
    """Unpickled by the standard library it creates an empty file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


# By module and name: what a test sets small, so that a file of a few kilobytes is beyond it.
LIMITS = {"OPCODES": 1000, "MEMBERS": 50, "_DEEP": 4}


def marker(folder):
    return folder / "created"


def written(folder, content, name="t.pt"):
    path = folder / name
    path.write_bytes(content)
    return path


def zipped(folder, members, name="t.pt", **options):
    """A zip as torch writes it: stored members below one folder."""
    path = folder / name
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def checkpoint(folder, data, storages=(("0", STORAGE),), name="t.pt"):
    """A torch archive with this pickle and these storages."""
    members = [
        ("archive/data.pkl", data),
        ("archive/byteorder", b"little"),
        ("archive/version", b"3\n"),
    ]
    members += [(f"archive/data/{key}", content) for key, content in storages]
    return zipped(folder, members, name)


def tensor(shape, stride, *, offset=0, key="0", numel=16):
    """The opcodes of {"a.weight": tensor} over a storage, as torch writes them but for the numbers."""

    def number(value):
        return b"L" + str(value).encode() + b"L\n"

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(V" + b"storage\nctorch\nFloatStorage\nV" + key.encode() + b"\nVcpu\n"
    storage += number(numel) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    call += numbers(shape) + numbers(stride) + b"I00\nccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}Va.weight\n" + call + b"s."


# --- pickles that ask for a call --------------------------------------------------------------------


@kind("bare pickle|asks for")
def a_bare_pickle_of_protocol_0(folder):
    return written(folder, pickle.dumps(Call(marker(folder)), protocol=0))


@kind("bare pickle|asks for")
def a_bare_pickle_of_protocol_4(folder):
    return written(folder, pickle.dumps(Call(marker(folder)), protocol=4), "t.th")


@kind("asks for 'io.open'|asks for '_io.open'")
def a_file_of_torch_with_a_call_beside_its_weights(folder):
    torch.save({"state_dict": STATE, "extra": Call(marker(folder))}, folder / "t.pt")
    return folder / "t.pt"


@kind("asks for 'io.open'|asks for '_io.open'")
def a_flat_file_of_torch_with_a_call(folder):
    content = {"state_dict": STATE, "extra": Call(marker(folder))}
    torch.save(content, folder / "t.th", _use_new_zipfile_serialization=False)
    return folder / "t.th"


@kind("asks for 'os.getcwd'")
def an_instance_opcode(folder):
    return checkpoint(folder, b"(ios\ngetcwd\n.")


@kind("asks for 'os.getcwd'")
def an_object_opcode(folder):
    return checkpoint(folder, b"\x80\x02(cos\ngetcwd\no.")


@kind("asks for 'subprocess.list2cmdline'")
def a_function_of_a_module_that_starts_processes(folder):
    return checkpoint(folder, b"csubprocess\nlist2cmdline\n(]tR.")


@kind("asks for 'builtins.callable'")
def a_builtin_that_is_no_type(folder):
    return checkpoint(folder, b"cbuiltins\ncallable\n(NtR.")


@kind(r"asks for 'torch\.hub\.get_dir'")
def a_function_of_torch_that_is_no_tensor(folder):
    return checkpoint(folder, b"ctorch.hub\nget_dir\n)R.")


@kind(r"asks for 'importlib\.invalidate_caches'")
def a_function_that_imports(folder):
    return checkpoint(folder, b"cimportlib\ninvalidate_caches\n)R.")


@kind("module saved whole|--trust-pickle")
def a_module_saved_whole(folder):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
    torch.save(module, folder / "t.pt")
    return folder / "t.pt"


@kind("which torch never writes")
def an_extension_code(folder):
    return checkpoint(folder, b"\x80\x02\x82\x01.")


@kind("which torch never writes")
def a_buffer_out_of_band(folder):
    return checkpoint(folder, b"\x80\x05\x97.")


@kind("no storage of torch")
def a_reference_to_something_else(folder):
    return checkpoint(folder, b"\x80\x02(Vfile\nVnotes.txt\ntQ.")


@kind("name is not text")
def a_global_whose_name_is_a_number(folder):
    return checkpoint(folder, b"\x80\x04K\x01K\x02\x93.")


# --- pickles beyond a limit -------------------------------------------------------------------------


@kind("no tensors by name|state dict")
def lists_in_lists(folder):
    return checkpoint(folder, b"\x80\x02" + b"]" * 30 + b"a" * 29 + b".")


@kind("instructions")
def more_instructions_than_are_read(folder):
    return checkpoint(folder, b"\x80\x04" + b"N0" * 600 + b"N.")


@kind("copied again and again")
def one_list_made_into_many_tables(folder):
    pairs = b"](" + b"K\x01K\x02\x86" * 100 + b"eq\x00"
    table = b"ccollections\nOrderedDict\nh\x00\x85R0"
    return checkpoint(folder, b"\x80\x02" + pairs + table * 30 + b"N.")


@kind("modules in modules without end")
def modules_deeper_than_any(folder):
    data = b"\x80\x02"
    head, tail = b"cmine\nNet\n)\x81}(V_parameters\n}V_buffers\n}V_modules\n}Va\n", b"sub"
    return checkpoint(folder, data + head * 6 + b"N" + tail * 6 + b".")


# --- tensors that claim what is not there ---------------------------------------------------------


@kind("claims more than")
def a_tensor_of_terabytes_over_sixty_bytes(folder):
    return checkpoint(folder, tensor((1 << 20, 1 << 20), (0, 0)))


@kind("claims more than")
def a_tensor_that_starts_behind_its_storage(folder):
    return checkpoint(folder, tensor((2, 2), (2, 1), offset=1 << 40))


@kind("no sizes")
def a_tensor_of_a_negative_size(folder):
    return checkpoint(folder, tensor((-1, 2), (2, 1)))


@kind("no sizes")
def a_tensor_of_a_size_beyond_all_numbers(folder):
    return checkpoint(folder, tensor((1 << 200, 2), (2, 1)))


@kind("no values in the file")
def a_tensor_whose_storage_is_missing(folder):
    return checkpoint(folder, tensor((2, 2), (2, 1), key="7"))


@kind("values that are NaN or infinite")
def a_tensor_of_nothing_but_nan(folder):
    return checkpoint(folder, tensor((2, 2), (2, 1)), [("0", b"\xff" * 64)])


# --- archives ---------------------------------------------------------------------------------------


@kind("unpack it first")
def an_archive_in_an_archive(folder):
    inner = folder / "inner.pt"
    torch.save(STATE, inner)
    return zipped(folder, [("a/inner.pt", inner.read_bytes())])


@kind("is compressed")
def a_compressed_member(folder):
    return zipped(
        folder, [("archive/data.pkl", b"N" * 5000 + b".")], compression=zipfile.ZIP_DEFLATED
    )


@kind("points out of the archive")
def a_member_above_the_folder(folder):
    return zipped(folder, [("archive/data.pkl", b"N."), ("archive/../beside", b"x")])


@kind("points out of the archive")
def a_member_at_the_root(folder):
    return zipped(folder, [("/beside", b"x"), ("archive/data.pkl", b"N.")])


@kind("is a link")
def a_member_that_is_a_link(folder):
    link = zipfile.ZipInfo("archive/data/0")
    link.external_attr = 0o120777 << 16
    return zipped(folder, [(link, b"notes.txt"), ("archive/data.pkl", b"N.")])


@kind("Two of its members")
def two_members_of_one_name(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zipped(folder, [("archive/data.pkl", b"N."), ("archive/data.pkl", b"N.")])


@kind("encrypted")
def a_member_that_is_encrypted(folder):
    path = checkpoint(folder, b"N.")
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 8] |= 1
    return written(folder, bytes(content))


@kind("members claim")
def members_that_lie_on_one_another(folder):
    path = checkpoint(folder, b"N.", [("0", b"\x00" * 4096)])
    content = path.read_bytes()
    at = content.find(b"PK\x01\x02")
    end = content.find(b"PK\x05\x06")
    entries = content[at:end]
    last = entries[entries.rfind(b"PK\x01\x02") :]
    more = b"".join(last.replace(b"data/0", f"data/{n:x}".encode()) for n in range(1, 10))
    directory = entries + more
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 13, 13, len(directory), at, 0)
    return written(folder, content[:at] + directory + tail)


@kind("members")
def more_members_than_are_listed(folder):
    return zipped(folder, [(f"a/{number}", b"") for number in range(LIMITS["MEMBERS"] + 1)])


@kind("cannot be read|claim")
def an_archive_that_was_cut(folder):
    torch.save(STATE, folder / "t.pt")
    content = (folder / "t.pt").read_bytes()
    return written(folder, content[: len(content) // 2])


@kind("big-endian")
def an_archive_of_a_big_endian_machine(folder):
    members = [("archive/data.pkl", b"N."), ("archive/byteorder", b"big")]
    return zipped(folder, members)


@kind("asks for")
def a_scripted_module_with_a_call_in_its_constants(folder):
    call = pickle.dumps(Call(marker(folder)), protocol=2)
    return zipped(folder, [("archive/data.pkl", b"N."), ("archive/constants.pkl", call)])


@kind("--trust-pickle")
def a_scripted_module(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Conv2d(3, 4, 3)).save(folder / "t.pt")
    return folder / "t.pt"


# --- safetensors --------------------------------------------------------------------------------


def safetensors(folder, header, data=b"\x00" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return written(folder, struct.pack("<Q", len(text)) + text + data, "t.safetensors")


def entry(start=0, end=64, shape=(4, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@kind("its header claims")
def a_header_longer_than_the_file(folder):
    return written(folder, struct.pack("<Q", 1 << 12) + b"{}", "t.safetensors")


@kind("not JSON")
def a_header_that_is_not_closed(folder):
    return safetensors(folder, b'{"a":' + b"[" * 40)


@kind("claims")
def a_shape_that_its_bytes_do_not_have(folder):
    return safetensors(folder, {"a": entry(shape=(1 << 30, 1 << 30))})


@kind("claims")
def bytes_behind_the_end(folder):
    return safetensors(folder, {"a": entry(end=1 << 40, shape=(1 << 38,))})


@kind("overlap")
def tensors_on_one_another(folder):
    return safetensors(folder, {"a": entry(), "b": entry()})


@kind("belong to no tensor")
def bytes_that_nobody_names(folder):
    return safetensors(folder, {"a": entry()}, b"\x00" * 128)


@kind("a name twice")
def a_name_twice(folder):
    one = json.dumps(entry())
    return safetensors(folder, f'{{"a": {one}, "a": {one}}}'.encode())


@kind("no shape or no place")
def sizes_that_are_no_numbers(folder):
    return safetensors(
        folder, {"a": {"dtype": "F32", "shape": ["4", True], "data_offsets": [0, 64]}}
    )


@kind("does not read")
def a_type_that_nobody_knows(folder):
    return safetensors(folder, {"a": entry(dtype="F4096")})


# --- what lies beside -----------------------------------------------------------------------------


@kind("leads out of the folder")
def a_toml_that_names_a_file_elsewhere(folder):
    torch.save(STATE, folder / "t.pt")
    elsewhere = folder.parent / "elsewhere.py"
    elsewhere.write_text(f"open({str(marker(folder))!r}, 'w')\n")
    (folder / "t.toml").write_text('arch = "../elsewhere.py:make"\n')
    return folder / "t.pt"


@kind("asks to run")
def a_file_that_names_its_own_code(folder):
    (folder / "own.py").write_text(f"open({str(marker(folder))!r}, 'w')\n")
    torch.save({"state_dict": STATE, "edgekd": {"arch": "own.py:make"}}, folder / "t.pt")
    return folder / "t.pt"


@kind("command line alone")
def a_file_that_asks_to_be_trusted(folder):
    torch.save({"state_dict": STATE, "edgekd": {"trust_pickle": True}}, folder / "t.pt")
    return folder / "t.pt"


@kind("no such file")
def a_link_to_itself(folder):
    (folder / "t.pt").symlink_to(folder / "t.pt")
    return folder / "t.pt"


@kind("no such file")
def a_pipe(folder):
    os.mkfifo(folder / "t.pt")
    return folder / "t.pt"


# --- programs ---------------------------------------------------------------------------------------


def exported(folder):
    """The members of a `.pt2` that torch wrote, by name."""
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3)),
        (torch.zeros(2, 3, 8, 8),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.export.save(program, folder / "whole.pt2")
    with zipfile.ZipFile(folder / "whole.pt2") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@kind("classes  3")
def a_program_whose_sample_inputs_ask_for_a_call(folder):
    members = exported(folder)
    call = pickle.dumps(Call(marker(folder)), protocol=2)
    name = next(name for name in members if "sample_inputs" in name)
    return zipped(folder, [*({**members, name: call}).items()], "t.pt2")


@kind("--trust-pickle|pickle")
def a_program_whose_weights_are_a_pickle(folder):
    members = exported(folder)
    name = next(name for name in members if name.endswith("weights_config.json"))
    config = json.loads(members[name])
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    path = next(member for member in members if member.endswith(first["path_name"]))
    call = pickle.dumps(Call(marker(folder)), protocol=2)
    changed = {**members, name: json.dumps(config).encode(), path: call}
    return zipped(folder, [*changed.items()], "t.pt2")


@kind("compressed")
def a_program_with_a_compressed_graph(folder):
    members = exported(folder)
    return zipped(folder, [*members.items()], "t.pt2", compression=zipfile.ZIP_DEFLATED)


@kind("outside|beside|plain file")
def an_onnx_file_whose_weights_are_outside_its_folder(folder):
    import onnx
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], bytes(432), raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../weights.bin"), ("offset", "0"), ("length", "432")):
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "t.onnx")
    return folder / "t.onnx"
