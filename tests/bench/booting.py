"""The least that `firstboot` takes for a bundle, and a start of it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.bench.agent import __main__, firstboot


def save_bundle(
    folder: Path,
    *,
    seed: int,
    runtime="onnxruntime",
    changed=False,
    wide=4,
    batch: int | str = 1,
) -> Path:
    """A bundle of one FP32 model, drawn by the seed; `changed` golden vectors are those of another model."""
    import onnxruntime

    folder.mkdir()
    weight = np.random.default_rng(seed).standard_normal((wide, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["images", "w"], ["logits"], name="product")],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, wide])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model-fp32.onnx")
    session = onnxruntime.InferenceSession(
        folder / "model-fp32.onnx", providers=["CPUExecutionProvider"]
    )
    images = np.random.default_rng(1).standard_normal((4, 1, wide)).astype(np.float32)
    logits = np.stack([session.run(None, {"images": each})[0] for each in images])
    said: dict[str, Any] = {"schema": "vectors", "schema_version": 1, "count": len(images)}
    said |= {"relative": 1e-3, "agreement": 0.9, "precision": "fp32"}
    for kind, name, values in (
        ("inputs", "images", images),
        ("outputs", "logits", logits[::-1] if changed else logits),
    ):
        data = values.tobytes()
        (folder / f"{name}.bin").write_bytes(data)
        described = {"name": name, "dtype": "float32", "shape": list(values.shape[1:])}
        described |= {"file": f"{name}.bin", "sha256": hashlib.sha256(data).hexdigest()}
        said[kind] = [described]
    (folder / "golden-fp32.json").write_text(json.dumps(said))
    files = [
        {"path": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}
        for name in ("model-fp32.onnx", "golden-fp32.json")
    ]
    manifest = {
        "schema": "manifest",
        "schema_version": 2,
        "content_digest": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "target": {"software": {"runtime": runtime, "typing": "weak"}},
        "models": [
            {
                "path": "model-fp32.onnx",
                "precision": "fp32",
                "digest": files[0]["sha256"],
                "fp32_nodes": [],
                "inputs": [{"name": "images", "shape": [batch, wide]}],
            }
        ],
        "golden": {"vectors": {"fp32": "golden-fp32.json", "fp16": "golden-fp32.json"}},
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def start(bundle: Path, state: Path, *words: object, library: Any = None) -> dict[str, Any]:
    """What a start in this process said, by event."""
    said: list[dict[str, Any]] = []
    given = ["firstboot", "--bundle", bundle, "--state", state, *words]
    options = __main__._parser().parse_args([str(word) for word in given])
    firstboot.firstboot(
        options, lambda event, **fields: said.append({"event": event, **fields}), library
    )
    return {each["event"]: each for each in said}


def current_is_whole(state: Path) -> str | None:
    """The bundle whose model is current, every byte of it as recorded; None where nothing is current yet.

    Written against the documented layout, not with the code that makes it.
    """
    link = state / "current"
    if not link.is_symlink():
        return None
    record = json.loads((link / "record.json").read_text())
    data = (link / record["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == record["digest"], "current is damaged"
    return str(record["bundle"])


def digest(bundle: Path) -> str:
    found = json.loads((bundle / "manifest.json").read_text())["content_digest"]
    assert isinstance(found, str)
    return found
