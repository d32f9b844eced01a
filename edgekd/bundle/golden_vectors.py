"""Golden vectors: inputs with what each model gives for them, for whoever runs a model elsewhere.

Raw little-endian bytes, and a JSON file for each precision that says what they are: readable from C, and by the
agent on a board without numpy. N images, C channels, H x W pixels, K classes.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgekd.bench.agent.ort_runtime import DTYPES
from edgekd.distill.data.labelled import normalise
from edgekd.errors import InputFileError
from edgekd.export.parity import TOLERANCES, outputs_of, session
from edgekd.export.pre_post_processing import Part, inputs_for
from edgekd.records import (
    InputSpec,
    OnnxModel,
    Precision,
    Software,
)
from edgekd.records.manifest import GoldenVectors

COUNT: Final = 16
NOISE_COUNT: Final = 4
# Of bench/agent/golden_vectors.py
FORMAT: Final = 1
INPUTS_FILE: Final = "golden-inputs.bin"


def outputs_file(precision: Precision) -> str:
    return f"golden-{precision}.bin"


def vectors_file(precision: Precision) -> str:
    return f"golden-{precision}.json"


def clearest(
    pixels: npt.NDArray[np.uint8], logits: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """The first `COUNT` images (N, H, W, C) among the half that the network decides most clearly by its logits (N, K).

    A device rounds otherwise, and may decide otherwise where two classes are near: that would be no failure.
    """
    ordered = np.sort(logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    wanted = min(COUNT, len(pixels))
    half = max(wanted, len(pixels) // 2)
    chosen = np.sort(np.argsort(-margin, kind="stable")[:half])[:wanted]
    return np.ascontiguousarray(pixels[chosen])


def noise(spec: InputSpec, *, seed: int) -> npt.NDArray[np.uint8]:
    """Images (N, H, W, C) that reveal nothing of the teacher."""
    shape = (COUNT, spec.height, spec.width, spec.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_golden(
    folder: Path,
    models: Sequence[OnnxModel],
    pixels: npt.NDArray[np.uint8],
    *,
    spec: InputSpec,
    software: Software,
    parts: tuple[Part, ...],
    made_of: Literal["synthetic images", "noise"],
) -> GoldenVectors:
    """Write inputs, outputs and their descriptions beside the models.

    Args:
        folder: of the models.
        models: FP32 first.
        pixels: (N, H, W, C).
        spec: of the plain network's input.
        software: of the target: where its builder chooses types, FP16 is made of the FP32 file.
        parts: that are embedded in the models.
        made_of: what the pixels are.
    """
    inputs = inputs_for(parts, pixels, normalise(pixels, spec))
    given = _write_array(folder / INPUTS_FILE, models[0].inputs[0].name, inputs)
    answers: dict[Precision, tuple[str, npt.NDArray[Any]]] = {}
    for model in models:
        found = np.concatenate([out[0] for _, out in outputs_of(folder / model.path, inputs)])
        answers[model.precision] = (outputs_file(model.precision), found)
    if software.runtime == "tensorrt" and software.typing == "weak":
        answers["fp16"] = answers["fp32"]
    exact = "top1" in parts
    for precision, (name, values) in answers.items():
        limits = TOLERANCES[precision]
        said = {
            "schema": "vectors",
            "schema_version": FORMAT,
            "precision": precision,
            "count": len(inputs),
            "inputs": [given],
            "outputs": [_write_array(folder / name, models[0].outputs[0].name, values)],
            "relative": None if exact else limits.relative,
            "agreement": limits.agreement,
        }
        text = json.dumps(said, indent=1, sort_keys=True) + "\n"
        (folder / vectors_file(precision)).write_text(text, encoding="ascii")
    largest = float(np.abs(answers["fp32"][1]).max())
    relative = TOLERANCES["fp32"].relative
    assert relative is not None
    return GoldenVectors(
        inputs=INPUTS_FILE,
        outputs={precision: name for precision, (name, _) in answers.items()},
        vectors={precision: vectors_file(precision) for precision in answers},
        count=len(inputs),
        made_of=made_of,
        tolerance=0.0 if exact else relative * largest,
    )


def write_of_noise(folder: Path, model: Path, precision: Precision) -> Path:
    """Golden vectors for a file that brings none: standard normal values, and what ONNX Runtime gives for them.

    Args:
        folder: where they go.
        model: the file; one input, one output.
        precision: of what is to be compared.

    Returns:
        The JSON file.

    Raises:
        InputFileError: it takes or gives something else.
        IncompatibleError: ONNX Runtime cannot run it.
    """
    running, name = session(model), model.name
    takes, gives = running.get_inputs(), running.get_outputs()
    if (
        len(takes) != 1
        or len(gives) != 1
        or not takes[0].shape
        or not all(isinstance(size, int) for size in takes[0].shape[1:])
    ):
        raise InputFileError(
            f"{name} takes {len(takes)} inputs and gives {len(gives)} outputs; an engine is tried on models of one "
            "input, open in nothing but its batch, and one answer. Measure it with --runtime onnxruntime."
        )
    batch = takes[0].shape[0] if isinstance(takes[0].shape[0], int) else 1
    shape = [batch, *takes[0].shape[1:]]
    dtype = np.dtype(DTYPES[takes[0].type])
    draw = np.random.default_rng(0)
    drawn = [
        draw.standard_normal(shape) if dtype.kind == "f" else draw.integers(0, 256, shape)
        for _ in range(NOISE_COUNT)
    ]
    images = [each.astype(dtype) for each in drawn]
    answers = [running.run(None, {takes[0].name: each})[0] for each in images]
    limits = TOLERANCES[precision]
    said = {
        "schema": "vectors",
        "schema_version": FORMAT,
        "precision": precision,
        "count": NOISE_COUNT,
        "inputs": [
            _write_array(folder / INPUTS_FILE, takes[0].name, np.concatenate(images), batch)
        ],
        "outputs": [
            _write_array(
                folder / outputs_file(precision), gives[0].name, np.concatenate(answers), batch
            )
        ],
        "relative": limits.relative,
        "agreement": 0.0,  # noise lies near no class: decisions on it say nothing
    }
    path = folder / vectors_file(precision)
    path.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="ascii")
    return path


def _write_array(path: Path, name: str, values: npt.NDArray[Any], batch: int = 1) -> dict[str, Any]:
    """Write an array (N * batch, ...) of N vectors and describe it."""
    data = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()
    path.write_bytes(data)
    return {
        "name": name,
        "dtype": values.dtype.name,
        "shape": [batch, *values.shape[1:]],
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
