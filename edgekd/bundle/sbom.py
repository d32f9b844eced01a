"""What a bundle is made of, as a CycloneDX ML-BOM, and with which licences.

Written by hand and validated against the schema in the tests: the library that could write it has no model cards in
releases that are widespread. No date and no random serial number: the same bundle has the same bill.
"""

import importlib.metadata
import json
import uuid
from typing import Any, Final

from edgekd import __version__
from edgekd.bench.analysis import statistics
from edgekd.records import Measurements, OnnxModel, Samples
from edgekd.records.manifest import Manifest, Report

SPEC_VERSION: Final = "1.6"
# What had a hand in the files of a bundle.
TOOLS: Final = (
    *("torch", "torchvision", "timm", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript"),
    *("safetensors", "accelerate", "torch-pruning"),
)
# Licences of the code that builds a network, by where its architecture is from; weights are another matter.
ARCHITECTURE_LICENCES: Final = {
    "edgekd": "Apache-2.0",
    "timm": "Apache-2.0",
    "torchvision": "BSD-3-Clause",
}
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:edgekd:bundle")


def versions() -> dict[str, str]:
    """Of the tools that are installed here."""
    found = {"edgekd": __version__}
    for name in TOOLS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def bill(manifest: Manifest, report: Report, tools: dict[str, str]) -> str:
    """The bill of a bundle as JSON text.

    Args:
        manifest: with its content digest.
        report: its evaluation and measurements become metrics.
        tools: versions by name, see `versions`.
    """
    made: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, manifest.content_digest)}",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {"type": "library", "name": name, "version": version}
                    for name, version in sorted(tools.items())
                ]
            },
            "component": {
                "bom-ref": "bundle",
                "type": "machine-learning-model",
                "name": manifest.student.architecture.name,
                "version": manifest.content_digest[:12],
                "description": f"for {manifest.target.id}",
                "properties": _properties(
                    {
                        "edgekd:content_digest": manifest.content_digest,
                        "edgekd:target": manifest.target.id,
                        "edgekd:quality": manifest.quality,
                        "edgekd:data_used": manifest.data_used.statement,
                    }
                ),
            },
        },
        "components": [
            _teacher(manifest),
            _student(manifest),
            *(_model(model, manifest, report) for model in manifest.models),
            *_data(manifest),
        ],
        "dependencies": _dependencies(manifest),
    }
    return json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def tools_in(text: bytes) -> dict[str, str]:
    """The versions that a bill names; nothing where it is none of ours."""
    try:
        components = json.loads(text)["metadata"]["tools"]["components"]
        return {str(each["name"]): str(each["version"]) for each in components}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _teacher(manifest: Manifest) -> dict[str, Any]:
    teacher = manifest.teacher
    return {
        "bom-ref": "teacher",
        "type": "machine-learning-model",
        "name": teacher.file,
        "description": "the teacher; it is not in the bundle",
        "scope": "excluded",
        "hashes": _hashes(teacher.file_digest),
        "modelCard": _card(manifest, str(teacher.architecture), [], limits=()),
        "properties": _properties(
            {
                "edgekd:state_digest": teacher.state_digest,
                "edgekd:parameters": str(teacher.parameters),
                "edgekd:licence": "not known to edgekd",
            }
        ),
    }


def _student(manifest: Manifest) -> dict[str, Any]:
    student = manifest.student
    return {
        "bom-ref": "student",
        "type": "machine-learning-model",
        "name": student.checkpoint,
        "hashes": _hashes(student.digest),
        "pedigree": {
            "notes": f"distilled by recipe {student.recipe} in {student.steps} steps with seed {student.seed}"
        },
        "modelCard": _card(
            manifest,
            str(student.architecture),
            [_metric("agreement with the teacher on synthetic images", student.agreement)],
            limits=manifest.warnings,
        ),
        "properties": _properties(
            {
                "edgekd:parameters": str(student.parameters),
                "edgekd:initial_weights": student.initial_weights,
            }
        ),
    }


def _model(model: OnnxModel, manifest: Manifest, report: Report) -> dict[str, Any]:
    metrics = []
    if report.evaluation is not None:
        metrics += [
            _metric(f"accuracy on {report.evaluation.data}", found.accuracy)
            for found in report.evaluation.results
            if found.model == model.precision
        ]
    metrics += [
        _metric(f"median latency on {found.taken_on}, seconds", latency)
        for found in report.measurements
        if found.subject_digest == model.digest
        for latency in _median(found)
    ]
    return {
        "bom-ref": model.path,
        "type": "machine-learning-model",
        "name": model.path,
        "hashes": _hashes(model.digest),
        "modelCard": _card(
            manifest, str(manifest.student.architecture), metrics, limits=manifest.warnings
        ),
        "properties": _properties(
            {
                "edgekd:precision": model.precision,
                "edgekd:opset": str(model.opset),
                "edgekd:made_from": model.made_from,
            }
        ),
    }


def _data(manifest: Manifest) -> list[dict[str, Any]]:
    found = []
    if manifest.calibration is not None:
        images = manifest.calibration
        found.append(
            {
                "bom-ref": images.file,
                "type": "data",
                "name": images.file,
                "description": f"{images.count} images inverted out of the teacher, by which INT8 was calibrated",
                "hashes": _hashes(images.digest),
                "data": [{"type": "dataset", "name": images.file}],
            }
        )
    found += [
        {
            "bom-ref": f"data-{number}",
            "type": "data",
            "name": name,
            "description": "supplied by the bundle's author; not in it",
            "scope": "excluded",
            "hashes": _hashes(digest),
        }
        for number, (name, digest) in enumerate(sorted(manifest.data_used.digests.items()))
    ]
    return found


def _dependencies(manifest: Manifest) -> list[dict[str, Any]]:
    """Who was made from whom."""
    by_digest = {manifest.student.digest: "student"}
    by_digest |= {model.digest: model.path for model in manifest.models}
    images = [] if manifest.calibration is None else [manifest.calibration.file]
    brought = [f"data-{number}" for number in range(len(manifest.data_used.digests))]
    found: list[tuple[str, list[str]]] = [
        ("bundle", [model.path for model in manifest.models]),
        ("student", ["teacher", *brought]),
        *((file, ["teacher"]) for file in images),
    ]
    for model in manifest.models:
        origin = by_digest.get(model.made_from)
        calibrated = images if model.calibration is not None else []
        made_from = [origin] if origin not in {None, model.path} else []
        found.append((model.path, [*made_from, *calibrated]))
    return [{"ref": name, "dependsOn": sorted(of)} for name, of in found]


def _card(
    manifest: Manifest,
    architecture: str,
    metrics: list[dict[str, Any]],
    *,
    limits: tuple[str, ...],
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "modelParameters": {
            "task": "image classification",
            "modelArchitecture": architecture,
            "inputs": [{"format": "x".join(map(str, (1, *manifest.input.shape)))}],
            "outputs": [{"format": f"{manifest.classes} classes"}],
        }
    }
    if metrics:
        made["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    if limits:
        made["considerations"] = {"technicalLimitations": list(limits)}
    return made


def _metric(kind: str, value: float) -> dict[str, str]:
    return {"type": kind, "value": f"{value:.6g}"}


def _median(found: Measurements) -> list[float]:
    return [statistics.median(found.latency)] if isinstance(found.latency, Samples) else []


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]
