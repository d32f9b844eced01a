"""A firmware build takes a bundle in: its header, its CMake package, and the example that runs it."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from edgekd.bench.transport.agent_zipapp import agent_archive
from edgekd.bundle import firmware_files, layout
from tests.edgekd.conftest import REPOSITORY, TEACHER

EXAMPLE = REPOSITORY / "examples" / "cmake"
# Newer ones crash under the qemu 7.2 that Debian 12 has.
AARCH64_WHEEL = "onnxruntime>=1.20,<1.24"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
NASTY = (
    "plain",
    'a "quote"',
    "back\\slash",
    "trigraph ??/",
    "Größe 7",
    "%s\n",
    "雪",
    "a*/b",
    "//",
    "",
)


def need(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def manifest(made):
    return layout.read_manifest(made[0])


# --- what is in the bundle ------------------------------------------------------------------------


def test_the_agent_is_in_the_bundle_and_under_its_digest(made, manifest):
    assert (made[0] / firmware_files.AGENT).read_bytes() == agent_archive()
    listed = {each.path: each.role for each in manifest.files}
    assert listed[firmware_files.AGENT] == listed[firmware_files.UNIT] == "integration"


def test_the_agent_of_the_bundle_makes_its_model_ready(made, tmp_path):
    command = [sys.executable, str(made[0] / firmware_files.AGENT), "firstboot", "--runtime"]
    command += ["onnxruntime", "--bundle", str(made[0]), "--state", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "state" / "current" / "record.json").read_text())
    assert record["bundle"] == layout.read_manifest(made[0]).content_digest
    assert record["precision"] == "int8"


def test_the_unit_is_one_that_systemd_takes(made):
    need("systemd-analyze")
    unit = made[0] / firmware_files.UNIT
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "edgekd-firstboot" not in done.stderr


# --- the header -----------------------------------------------------------------------------------

PRINTING = r"""
#include <edgekd/model.h>
#include <stdio.h>
int main(void) {
    printf("%s\n%d %d %d\n", EDGEKD_MODEL_DIGEST, EDGEKD_MODEL_INPUT_TYPE, EDGEKD_MODEL_INPUT_BYTES, EDGEKD_MODEL_OUTPUT_BYTES);
    for (size_t at = 0; at < EDGEKD_MODEL_INPUT_RANK; at++)
        printf("%d ", (int)edgekd_model_input_shape[at]);
    printf("\n%.9g %.9g\n", (double)edgekd_model_mean[0], (double)edgekd_model_std[0]);
    for (size_t at = 0; at < EDGEKD_MODEL_COUNT; at++)
        printf("%s %s %zu %.9g\n", edgekd_models[at].precision, edgekd_models[at].sha256, edgekd_models[at].bytes,
               (double)edgekd_models[at].input_scale);
    for (size_t at = 0; at < EDGEKD_MODEL_CLASSES; at++)
        fwrite(edgekd_model_class_names[at], 1, strlen(edgekd_model_class_names[at]) + 1, stdout);
    return 0;
}
"""


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("g++", "c++11")])
def test_the_header_says_what_the_manifest_says(made, manifest, tmp_path, compiler, standard):
    need(compiler)
    named = replace(manifest, class_names=NASTY)
    (tmp_path / "edgekd").mkdir()
    (tmp_path / "edgekd" / "model.h").write_text(firmware_files.header(named, made[0]))
    source = tmp_path / ("main.c" if compiler == "gcc" else "main.cpp")
    source.write_text("#include <string.h>\n" + PRINTING)
    command = [compiler, f"-std={standard}", *STRICT, f"-I{tmp_path}", str(source), "-o"]
    subprocess.run([*command, str(tmp_path / "main")], check=True)
    out = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    lines = out.split(b"\n", 6)
    assert lines[0].decode() == manifest.content_digest
    assert lines[1].decode() == f"1 {28 * 28 * 4} {10 * 4}"
    assert lines[2].split() == [b"1", b"1", b"28", b"28"]
    mean, std = map(float, lines[3].split())
    assert (mean, std) == (rounded(manifest.input.mean[0]), rounded(manifest.input.std[0]))
    for line, model in zip(lines[4:6], manifest.models, strict=True):
        precision, digest, size, scale = line.decode().split()
        assert (precision, digest, int(size)) == (model.precision, model.digest, model.size_bytes)
        assert (float(scale) > 0) == (precision == "int8")
    assert lines[6].decode().split("\0")[:-1] == list(NASTY)


def test_the_header_gives_the_sizes_of_one_image_where_the_batch_is_open(made, manifest):
    first = manifest.models[0]
    spec = replace(first.inputs[0], shape=("N", *first.inputs[0].shape[1:]))
    opened = replace(manifest, models=(replace(first, inputs=(spec,)), *manifest.models[1:]))
    said, was = (firmware_files.header(each, made[0]) for each in (opened, manifest))
    flag = "#define EDGEKD_MODEL_INPUT_BATCH_IS_OPEN "
    assert said == was.replace(f"{flag}0", f"{flag}1")
    assert said != was


def rounded(value):
    """As float32 keeps it, printed with nine digits."""
    return float(f"{struct.unpack('f', struct.pack('f', value))[0]:.9g}")


def test_the_scale_of_the_header_is_that_of_the_graph(made):
    """ONNX Runtime rounds an input to steps of this size: half a step makes no difference, a step does."""
    import numpy as np

    scale, zero = firmware_files.input_scale(made[0] / "model-int8.onnx")
    assert zero == 0
    session = onnxruntime.InferenceSession(made[0] / "model-int8.onnx")

    def logits(value):
        return session.run(None, {"images": np.full((1, 1, 28, 28), value, np.float32)})[0]

    assert np.array_equal(logits(10 * scale), logits(10.4 * scale))
    assert not np.array_equal(logits(10 * scale), logits(11 * scale))


# --- CMake ----------------------------------------------------------------------------------------


def runtime_prefix(folder, library):
    """Links with the names that a release of ONNX Runtime has; a wheel has the library alone."""
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "libonnxruntime.so.1").symlink_to(library)
    (folder / "lib" / "libonnxruntime.so").symlink_to("libonnxruntime.so.1")
    return folder


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    need("cmake", "cc")
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("this wheel of onnxruntime has no libonnxruntime.so")
    return runtime_prefix(tmp_path_factory.mktemp("native") / "ort", found[-1])


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory):
    need("cmake", "aarch64-linux-gnu-gcc", "qemu-aarch64-static")
    cache = Path(os.environ.get("EDGEKD_CACHE") or Path.home() / ".cache" / "edgekd")
    folder = cache / "onnxruntime-aarch64"
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "-d", str(folder)]
        for name in ("2_28", "2_27"):
            command += ["--platform", f"manylinux_{name}_aarch64"]
        done = subprocess.run(
            [*command, AARCH64_WHEEL], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"the aarch64 wheel of onnxruntime cannot be had: {done.stderr[-200:]}")
    place = tmp_path_factory.mktemp("aarch64")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if "/libonnxruntime.so." in each)
        archive.extract(name, place)
    return runtime_prefix(place / "ort", place / name)


def cmake(*words, folder, prefixes=()):
    environment = {**os.environ, "CMAKE_PREFIX_PATH": ":".join(map(str, prefixes))}
    return subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def built(folder, *prefixes, options=()):
    """What the tests of the example said, by the three commands of its README."""
    strict = f"-DCMAKE_C_FLAGS={' '.join(STRICT)}"
    said = ""
    for words in (
        ("cmake", "-S", EXAMPLE, "-B", "build", strict, *options),
        ("cmake", "--build", "build"),
        ("ctest", "--test-dir", "build", "--output-on-failure", "--verbose"),
    ):
        done = cmake(*words, folder=folder, prefixes=prefixes)
        said = done.stdout
        assert done.returncode == 0, said + done.stderr
    return said


def test_the_example_builds_and_reproduces_the_golden_vectors(made, native, tmp_path):
    said = built(tmp_path, made[0], native)
    assert said.count("passed: model-fp32.onnx") == 1
    assert said.count("passed: model-int8.onnx") == 2  # read, and embedded
    assert f"on ONNX Runtime {onnxruntime.__version__}" in said
    assert "0 tests failed out of 3" in said
    embedded = (tmp_path / "build" / "selftest-embedded").read_bytes()
    assert (made[0] / "model-int8.onnx").read_bytes() in embedded
    installed = cmake(
        *("cmake", "--install", "build", "--prefix", tmp_path / "image"), folder=tmp_path
    )
    assert installed.returncode == 0, installed.stderr
    on_device = tmp_path / "image" / "share" / "edgekd" / "model"
    command = [tmp_path / "build" / "selftest", on_device, "int8"]
    assert subprocess.run(command, check=False).returncode == 0
    tried_on_others(tmp_path, made[0])


def tried_on_others(folder, whole):
    """The built program tells answers that are off, files that are cut, and models that are not there."""
    program = folder / "build" / "selftest"
    for name, change, code, said in (
        ("golden-fp32.bin", lambda data: data[40:] + data[:40], 1, "FAILED"),
        ("golden-fp32.bin", lambda data: struct.pack("<f", float("nan")) + data[4:], 1, "FAILED"),
        ("golden-inputs.bin", lambda data: data[:-1], 2, "not as long"),
        ("model-fp32.onnx", lambda data: data[:100], 2, "model-fp32.onnx"),
    ):
        copy = shutil.copytree(whole, folder / "other", dirs_exist_ok=True)
        (copy / name).write_bytes(change((copy / name).read_bytes()))
        done = subprocess.run([program, copy, "fp32"], capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), name
        shutil.rmtree(copy)
    done = subprocess.run([program, whole, "fp8"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such model" in done.stderr


@pytest.mark.slow
def test_the_example_takes_raw_pixels_and_decisions(native, tmp_path, edgekd):
    """A graph with preprocessing and argmax inside: bytes in, integers out."""
    code, _, err = edgekd(
        "compress", TEACHER, "-t", "jetson", "--steps", "5", "--batch", "64", "--min-agreement", "0",
        "--no-bench", "--embed", "preprocessing", "--embed", "top1", "--out", tmp_path / "b",
    )  # fmt: skip
    assert code in {0, 4}, err
    said = built(tmp_path, tmp_path / "b", native)
    assert said.count("passed: model-") == 3
    text = (tmp_path / "b" / firmware_files.HEADER).read_text()
    assert "#define EDGEKD_MODEL_INPUT_TYPE 2 " in text
    assert "#define EDGEKD_MODEL_PREPROCESSING_IN_GRAPH 1" in text


def test_the_example_runs_on_aarch64(made, aarch64, tmp_path):
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'aarch64-linux-gnu.cmake'}"
    said = built(tmp_path, made[0], aarch64, options=[toolchain])
    assert said.count("passed: model-") == 3
    header = (tmp_path / "build" / "selftest").read_bytes()[:20]
    assert struct.unpack("<H", header[18:20]) == (183,)  # EM_AARCH64


def test_a_changed_bundle_is_not_configured(made, native, tmp_path):
    copy = shutil.copytree(made[0], tmp_path / "b")
    data = bytearray((copy / "model-int8.onnx").read_bytes())
    data[1000] ^= 1
    (copy / "model-int8.onnx").write_bytes(data)
    words = ("cmake", "-S", EXAMPLE, "-B", "build")
    done = cmake(*words, folder=tmp_path, prefixes=(copy, native))
    assert done.returncode != 0
    assert "is not the file that the manifest names" in " ".join(done.stderr.split())
    (copy / "model-int8.onnx").unlink()
    done = cmake(*words, folder=tmp_path, prefixes=(copy, native))
    assert "is missing" in " ".join(done.stderr.split())


def test_embedding_says_what_it_needs(made, tmp_path):
    need("cmake", "cc")
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    head = "cmake_minimum_required(VERSION 3.16)\nproject(p LANGUAGES {})\nfind_package(edgekd-model REQUIRED)\n"
    for languages, words, why in (
        ("C", "", "LANGUAGES C ASM"),
        ("C ASM", "PRECISION fp16", "no fp16 model in the bundle, but fp32;int8"),
    ):
        text = f"{head.format(languages)}add_executable(a main.c)\nedgekd_embed_model(a {words})\n"
        (tmp_path / "CMakeLists.txt").write_text(text)
        shutil.rmtree(tmp_path / "build", ignore_errors=True)
        done = cmake("cmake", "-B", "build", folder=tmp_path, prefixes=(made[0],))
        assert done.returncode != 0
        assert why in " ".join(done.stderr.split())
