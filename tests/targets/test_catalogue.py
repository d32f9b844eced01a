import re
import tomllib
from pathlib import Path

import pytest

from edgekd.bench.agent.sensor_ina import TOTALS
from edgekd.errors import InputFileError, UsageError
from edgekd.targets import catalogue
from edgekd.targets.board_schema import FACTS, BoardFile, SoftwareTable
from edgekd.targets.catalogue import (
    FOLDER,
    aliases,
    boards,
    load_target,
    target_names,
)

OWN = """
name = "my-board"
title = "My board"
family = "other"
runs = ["ort"]
default_software = "ort"

[facts]
memory_gb = { value = 2, source = "its data sheet" }
"""

OWN_SOFTWARE = """
[software.bsp-2]
runtime = "onnxruntime"
exporter = "dynamo"
opset = 19
typing = "none"
int8 = true
source = "its release notes"
"""


def own_board(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(text)
    return path


def files() -> list[Path]:
    return sorted(
        path for path in (FOLDER / "boards").glob("*.toml") if path.name != catalogue.SOFTWARE_FILE
    )


@pytest.mark.parametrize("name", target_names())
def test_every_board_loads_with_its_default_and_with_all_its_software(name):
    target = load_target(name)
    assert target.id == f"{name}@{target.board.default_software}"
    for software in target.board.software:
        assert load_target(f"{name}@{software}").software.name == software


def test_a_board_is_named_as_its_file():
    for path in files():
        assert tomllib.loads(path.read_text())["name"] == path.stem


def test_every_family_that_was_promised_is_there():
    modules = [
        "nano", "tx2", "xavier-nx", "agx-xavier", "orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb",
        "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb", "thor-t4000", "thor-t5000",
    ]  # fmt: skip
    promised = {f"jetson-{module}" for module in modules}
    assert promised | {"raspberry-pi-4", "raspberry-pi-5", "x86"} <= set(target_names())


# Compute capability to SoC, by NVIDIA's list of CUDA GPUs.
SOCS = {
    "5.3": "tegra210",
    "6.2": "tegra186",
    "7.2": "tegra194",
    "8.7": "tegra234",
    "11.0": "tegra264",
}


def test_the_power_rails_of_every_jetson_are_known():
    for board in boards():
        if board.family == "jetson":
            sm = board.facts["sm"].value
            assert sm in SOCS, (
                f"{board.name}: name the SoC of SM {sm} here, and its rails in sensor_ina.TOTALS"
            )
            assert any(SOCS[sm] in total.boards for total in TOTALS), board.name


def test_a_fact_that_has_no_key_yet_needs_no_code(tmp_path):
    own = OWN + '[other_facts]\nmemory_ecc = { value = true, source = "its data sheet" }\n'
    assert load_target(str(own_board(tmp_path, own))).board.facts["memory_ecc"].value is True
    known = OWN + '[other_facts]\nsm = { value = "8.7", source = "its data sheet" }\n'
    with pytest.raises(InputFileError, match=r"other_facts\.sm: edgekd knows this fact"):
        load_target(str(own_board(tmp_path, known)))


def test_every_software_is_run_by_some_board():
    stated = tomllib.loads((FOLDER / catalogue.SOFTWARE_FILE).read_text())
    assert set(stated) == {name for board in boards() for name in board.software}


def test_every_fact_and_every_software_has_a_source():
    for board in boards():
        assert all(fact.source for fact in board.facts.values())
        assert all(software.source for software in board.software.values())


def test_a_fact_nobody_looked_up_is_not_verified():
    facts = load_target("jetson-orin-nano-8gb").board.facts
    assert facts["memory_bandwidth_gb_s_super"].verified
    assert not facts["memory_bandwidth_gb_s"].verified


def test_opsets_stay_within_what_each_tensorrt_parser_takes():
    # onnx-tensorrt's operators.md: the highest opset by release.
    highest = {"8.2": 13, "8.5": 17, "8.6": 17, "10.3": 20, "10.13": 20, "10.16": 24}
    # NVIDIA's guide to opsets; of TensorRT-RTX what was tried.
    highest |= {"11.4": 25, "rtx-1.7": 25}
    for board in boards():
        for software in board.software.values():
            if software.tensorrt is None:
                continue
            release = ".".join(software.tensorrt.split(".")[:2])
            assert software.opset <= highest[release]


def test_the_dynamo_exporter_is_only_asked_for_opsets_that_it_honours():
    # torch 2.13 writes opset 18 when 17 or lower is asked of it.
    for board in boards():
        for software in board.software.values():
            assert software.opset >= 18 if software.exporter == "dynamo" else software.opset <= 17


def test_strongly_typed_fp16_graphs_can_hold_quantised_layers():
    # QuantizeLinear takes FP16 from opset 19 on.
    for board in boards():
        for software in board.software.values():
            assert software.typing != "strong" or software.opset >= 19


@pytest.mark.parametrize(
    ("name", "int8"), [("jetson-nano", False), ("jetson-tx2", False), ("jetson-xavier-nx", True)]
)
def test_int8_needs_hardware_and_software(name, int8):
    assert load_target(f"{name}@jp4.6").software.int8 is int8


def test_an_alias_is_resolved_and_what_was_asked_is_kept():
    target = load_target("jetson")
    assert target.asked == "jetson"
    assert target.id == "jetson-orin-nano-8gb@jp6.2"
    assert load_target("jetson@jp7.2").id == "jetson-orin-nano-8gb@jp7.2"


def test_no_alias_hides_a_board():
    assert not set(aliases()) & set(target_names())
    stated = [
        alias for path in files() for alias in tomllib.loads(path.read_text()).get("aliases", [])
    ]
    assert sorted(stated) == sorted(aliases())


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("jetson-orin-nano-8g", "jetson-orin-nano-8gb"),
        ("rasberry-pi-5", "raspberry-pi-5"),
        ("orin-nx-16gb", "jetson-orin-nx-16gb"),
        ("Jetson", "jetson"),
        ("jetson@jp6.3", "jp6.2"),
    ],
)
def test_a_misspelt_target_suggests_the_nearest(typed, near):
    with pytest.raises(
        UsageError, match=rf"Did you mean .*'{re.escape(near)}'.*edgekd targets list"
    ):
        load_target(typed)


@pytest.mark.parametrize(
    "spec", ["", "@", "@jp6.2", "jetson@", "jetson@jp6.2@", "jetson-nano@jp6.2", "x\ny", "../x86"]
)
def test_what_is_no_target_is_refused_with_where_to_look(spec):
    with pytest.raises(UsageError, match="edgekd targets list"):
        load_target(spec)


def test_a_board_of_ones_own_is_a_file(tmp_path):
    target = load_target(str(own_board(tmp_path, OWN)))
    assert target.id == "my-board@ort"
    assert target.software == load_target("x86").software
    assert target.board.facts["memory_gb"].value == 2


def test_a_board_of_ones_own_may_bring_its_software(tmp_path):
    (tmp_path / "at@home").mkdir()
    path = own_board(tmp_path / "at@home", OWN + OWN_SOFTWARE)
    assert load_target(f"{path}@bsp-2").software.opset == 19
    assert list(load_target(str(path)).board.software) == ["ort", "bsp-2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace("title", "titel"), r"titel: unknown key\. Did you mean 'title'"),
        (OWN.replace('title = "My board"', ""), "title: missing"),
        (OWN.replace('"My board"', "7"), "title: Input should be a valid string"),
        (OWN.replace('family = "other"', 'family = "jetsun"'), "family: Input should be 'jetson'"),
        (OWN.replace("memory_gb", "memory_gib"), r"facts\.memory_gib: unknown key.*'memory_gb'"),
        (OWN.replace("value = 2", 'value = "2"'), r"facts\.memory_gb\.value: should be a number"),
        (OWN.replace("value = 2", "value = true"), r"facts\.memory_gb\.value: should be a number"),
        (OWN.replace("value = 2", "value = []"), r"facts\.memory_gb\.value: should be a number"),
        (OWN.replace("value = 2", "value = inf"), "inf and nan"),
        (OWN.replace("value = 2", "value = 2026-11-01"), "dates"),
        (OWN.replace(', source = "its data sheet"', ""), r"facts\.memory_gb\.source: missing"),
        (OWN.replace('runs = ["ort"]', 'runs = ["jp6.0", "jp9.9"]'), "runs: unknown software 'jp9.9'"),
        (OWN.replace('default_software = "ort"', 'default_software = "jp6.0"'), "default_software: 'jp6.0' is neither"),
        (OWN.replace("my-board", "x86"), "name: 'x86' comes with edgekd"),
        (OWN.replace("my-board", "jetson"), "name: 'jetson' comes with edgekd"),
        (OWN.replace("my-board", "My Board"), "name: String should match"),
        (OWN + OWN_SOFTWARE.replace("19", '"19"'), r"software\.bsp-2\.opset: Input should be a valid integer"),
        (OWN + OWN_SOFTWARE.replace("19", "26"), r"software\.bsp-2\.opset"),
        (OWN + OWN_SOFTWARE.replace("bsp-2", '"jp6.2"'), r"software\.jp6\.2: comes with edgekd"),
        (OWN + OWN_SOFTWARE.replace("int8", "int4"), r"software\.bsp-2\.int"),
        ("name = ", "not TOML"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_file_and_key(tmp_path, text, said):
    path = own_board(tmp_path, text)
    with pytest.raises(InputFileError, match=said) as caught:
        load_target(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"my-board\.toml"):
        load_target(str(tmp_path / "my-board.toml"))
    (tmp_path / "my-board.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="not UTF-8"):
        load_target(str(tmp_path / "my-board.toml"))


def test_the_documents_name_every_key():
    text = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    keys = [
        *FACTS,
        *BoardFile.__annotations__,
        *SoftwareTable.__annotations__,
    ]
    assert [key for key in keys if f"`{key}`" not in text] == []
