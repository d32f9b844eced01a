"""What a firmware build takes a bundle in with: a CMake package, a C header, and what makes the engine on the board.

Agent and unit are files of the bundle, for they run on the board; header and package follow from the manifest.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from edgekd.bench.transport.agent_zipapp import agent_archive
from edgekd.records import OnnxModel, TensorSpec
from edgekd.records.manifest import Manifest

AGENT: Final = "firstboot/agent.pyz"
UNIT: Final = "firstboot/edgekd-firstboot.service"
CONFIG: Final = "cmake/edgekd-modelConfig.cmake"
HEADER: Final = "include/edgekd/model.h"
# numpy's names of types, ONNX's numbers for them (onnx.TensorProto.DataType), and bytes of a value.
_TYPES: Final = {
    "float32": (1, 4),
    "uint8": (2, 1),
    "int8": (3, 1),
    "int32": (6, 4),
    "int64": (7, 8),
    "float16": (10, 2),
}
_TEMPLATES: Final = Path(__file__).parents[1] / "templates"


def write_firmware_files(folder: Path) -> None:
    """Put what runs on the board into a bundle that is being filled, and make room for the pages."""
    for name in (AGENT, UNIT, CONFIG, HEADER):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / AGENT).write_bytes(agent_archive())
    (folder / UNIT).write_bytes((_TEMPLATES / "edgekd-firstboot.service").read_bytes())


def pages(folder: Path) -> dict[str, Callable[[Manifest], str]]:
    """By name, what makes a text of the manifest; the folder has the models and their vectors."""
    return {CONFIG: config, HEADER: lambda manifest: header(manifest, folder)}


# --- CMake ----------------------------------------------------------------------------------------


def config(manifest: Manifest) -> str:
    """The package that `find_package(edgekd-model)` finds in a bundle."""
    known = {listed.path: listed.sha256 for listed in manifest.files}
    lines = [
        f'set(edgekd-model_DIGEST "{manifest.content_digest}")',
        f"set(edgekd-model_PRECISIONS {' '.join(model.precision for model in manifest.models)})",
        f"set(edgekd-model_PRECISION {manifest.models[-1].precision})",
    ]
    for number, model in enumerate(manifest.models):
        lines += [
            f'set(edgekd-model_FILE_{model.precision} "${{edgekd-model_FOLDER}}/{model.path}")',
            f"set(edgekd-model_INDEX_{model.precision} {number})",
        ]
    golden = manifest.golden
    needed = {golden.inputs, *golden.outputs.values(), *golden.vectors.values()}
    needed |= {model.path for model in manifest.models}
    lines += [f'_edgekd_model_file("{name}" {known[name]})' for name in sorted(needed)]
    template = (_TEMPLATES / "edgekd-modelConfig.cmake").read_text(encoding="utf-8")
    return template.replace("@made_with@", manifest.made_with).replace("@facts@", "\n".join(lines))


# --- the header -----------------------------------------------------------------------------------


def header(manifest: Manifest, folder: Path) -> str:
    """What a bundle holds, for C and C++.

    Args:
        manifest: sealed.
        folder: with the models, whose scales are read, and the golden vectors, whose tolerances are.
    """
    template = (_TEMPLATES / "model.h").read_text(encoding="utf-8")
    facts = "\n".join(_facts(manifest))
    models = "\n".join(_model(manifest, model, folder) for model in manifest.models)
    return (
        template.replace("@made_with@", manifest.made_with)
        .replace("@facts@", facts)
        .replace("@models@", models)
    )


def _facts(manifest: Manifest) -> Iterator[str]:
    spec, first = manifest.input, manifest.models[0]
    yield _define("DIGEST", _string(manifest.content_digest), "of the bundle's content")
    yield _define("TARGET", _string(manifest.target.id))
    yield _define("QUALITY_PASSED", int(manifest.quality == "passed"))
    yield ""
    yield from _tensor("INPUT", first.inputs[0])
    yield from _tensor("OUTPUT", first.outputs[0])
    yield ""
    yield "/* Preprocessing: (pixel / 255 - mean) / std, by channel. */"
    yield _define("CHANNELS", spec.channels)
    yield _define("HEIGHT", spec.height)
    yield _define("WIDTH", spec.width)
    yield _define("COLOURS", _string(spec.colour_order))
    inside = "preprocessing" in first.embedded
    yield _define("PREPROCESSING_IN_GRAPH", int(inside), "1: the input is raw pixels")
    yield _array("float", "mean", "CHANNELS", map(_float, spec.mean))
    yield _array("float", "std", "CHANNELS", map(_float, spec.std))
    yield ""
    yield _define("CLASSES", manifest.classes)
    yield _define("HAS_CLASS_NAMES", int(manifest.class_names is not None))
    if manifest.class_names is not None:
        yield _array("char *const", "class_names", "CLASSES", map(_string, manifest.class_names))
    yield ""
    yield _define("GOLDEN_COUNT", manifest.golden.count)
    yield _define("GOLDEN_INPUTS", _string(manifest.golden.inputs))
    yield ""
    yield _define("COUNT", len(manifest.models))
    yield _define("DEFAULT", len(manifest.models) - 1, "the one to deploy")


def _tensor(what: str, spec: TensorSpec) -> Iterator[str]:
    number, size = _TYPES[spec.dtype]
    is_open = not isinstance(spec.shape[0], int)
    sizes = [length if isinstance(length, int) else 1 for length in spec.shape]
    yield _define(f"{what}_NAME", _string(spec.name))
    yield _define(f"{what}_TYPE", number, f"{spec.dtype}; numbered as in ONNX")
    yield _define(f"{what}_BATCH_IS_OPEN", int(is_open), "1: the sizes below are of one image")
    yield _define(f"{what}_RANK", len(sizes))
    yield _define(f"{what}_VALUES", math.prod(sizes))
    yield _define(f"{what}_BYTES", math.prod(sizes) * size)
    yield _array("int64_t", f"{what.lower()}_shape", f"{what}_RANK", map(str, sizes))


def _model(manifest: Manifest, model: OnnxModel, folder: Path) -> str:
    name = manifest.golden.vectors[model.precision]
    vectors: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    relative = vectors["relative"]
    scale, zero = input_scale(folder / model.path)
    values = [
        _string(model.precision),
        _string(model.path),
        _string(model.digest),
        str(model.size_bytes),
        _string(manifest.golden.outputs[model.precision]),
        "-1" if relative is None else repr(float(relative)),
        repr(float(vectors["agreement"])),
        _float(scale),
        str(zero),
    ]
    return f"    {{{', '.join(values)}}},"


def input_scale(path: Path) -> tuple[float, int]:
    """The scale and zero point that a model's input is rounded with; scale 0 where it is not.

    Args:
        path: of an ONNX file.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    values = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] != graph.input[0].name:
            continue
        constants = [numpy_helper.to_array(values[name]) for name in node.input[1:]]
        return float(constants[0]), int(constants[1]) if len(constants) > 1 else 0
    return 0.0, 0


def _define(name: str, value: object, comment: str = "") -> str:
    text = f"#define EDGEKD_MODEL_{name} {value}"
    return f"{text} /* {comment} */" if comment else text


def _array(kind: str, name: str, size: str, values: Iterator[str]) -> str:
    listed = ", ".join(values)
    return f"static const {kind} edgekd_model_{name}[EDGEKD_MODEL_{size}] = {{{listed}}};"


def _float(value: float) -> str:
    return f"{float(value)!r}f"


def _string(text: str) -> str:
    """A literal of C in ASCII: three octal digits for all that could mean something else there."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'
