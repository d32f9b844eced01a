"""Files that others write: torch's exporters as they are, ONNX Runtime's quantisers and its conversion to FP16.

NVIDIA's ModelOpt (nvidia-modelopt 0.47.0) and Qualcomm's AIMET (aimet-onnx 2.42.0) are asked where they are installed; they are
heavy and no dependency, so their rows are made with a PYTHONPATH that has them. onnxconverter-common's `float16` is asked through ONNX Runtime's copy of it (`onnxruntime.transformers`).
"""

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.export.parser_exports import SIDE, SUBJECTS
from benchmarks.export.parser_files import File, Group, newest
from edgekd.export.parity import Array

NAMES: Final = (
    "timm:resnet18",
    "timm:mobilenetv2_100",
    "timm:mobilenetv3_small_100",
    "timm:efficientnet_b0",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
)
EXPORTERS: Final[Mapping[str, tuple[int, ...]]] = {
    "torchscript": (13, 17),
    "dynamo": (18, 20, 21, 23),
}
# What ONNX Runtime's tools begin with
BASE: Final = "dynamo opset 18"
BASE_21: Final = "dynamo opset 21"
IMAGES: Final = 2
Tool = Callable[[Path, Path, Array], None]


def foreign() -> Iterator[Group]:
    """A group for each network."""
    for subject in SUBJECTS:
        if subject.name in NAMES:
            keys = tuple((subject.name, variant) for variant in (*_EXPORTS, *_TOOLS))
            yield Group(keys=keys, make=partial(_files, subject.name, subject.make))


def _files(name: str, build: Callable[[], nn.Module], folder: Path) -> Iterator[File]:
    module = build()
    images = np.random.default_rng(0).standard_normal((IMAGES, 3, SIDE, SIDE)).astype(np.float32)
    paths: dict[str, Path] = {}
    for number, variant in enumerate((*_EXPORTS, *_TOOLS)):
        path, failed = folder / f"{number}.onnx", ""
        try:
            with _quietly():
                if variant in _EXPORTS:
                    _export(module, *_EXPORTS[variant], path)
                else:
                    base, tool = _TOOLS[variant]
                    tool(paths[base], path, images)
            paths[variant] = path
        except Exception as error:  # a row of the table, not the end of it
            failed = " ".join(f"{type(error).__name__}: {error}".split())
        yield File(
            name=name,
            variant=variant,
            path=None if failed else path,
            softwares=(newest(),),
            # None of edgekd's doing
            refused=failed and f"not made: {failed}",
        )


def _export(module: nn.Module, exporter: str, opset: int, path: Path) -> None:
    dynamo = exporter == "dynamo"
    options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, SIDE, SIDE),),
        path,
        dynamo=dynamo,
        opset_version=opset,
        input_names=["images"],
        output_names=["logits"],
        **options,
    )


class _Reader:
    """Images, one after another, as ONNX Runtime's calibration asks for them."""

    def __init__(self, images: Array) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Array] | None:
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def _static(source: Path, out: Path, images: Array, **options: Any) -> None:  # noqa: ANN401
    from onnxruntime.quantization import QuantType, quantize_static

    kinds = {key: QuantType[options.pop(key)] for key in ("activation_type",) if key in options}
    quantize_static(source, out, _Reader(images), **kinds, **options)


def _dynamic(source: Path, out: Path, images: Array) -> None:  # noqa: ARG001
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, out)


def _half(source: Path, out: Path, images: Array, **options: Any) -> None:  # noqa: ANN401, ARG001
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), **options), out)


def _modelopt(source: Path, out: Path, images: Array) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(source),
        quantize_mode="int8",
        calibration_data={"images": images},
        calibration_eps=["cpu"],
        output_path=str(out),
    )


def _aimet(source: Path, out: Path, images: Array, **options: Any) -> None:  # noqa: ANN401
    from aimet_onnx.quantsim import QuantizationSimModel

    simulated = QuantizationSimModel(onnx.load(source), **options)
    simulated.compute_encodings([{"images": image[None]} for image in images])
    onnx.save(simulated.to_onnx_qdq(), out)


_SYMMETRIC: Final = {"ActivationSymmetric": True, "WeightSymmetric": True}
_EXPORTS: Final = {
    f"{exporter} opset {opset}": (exporter, opset)
    for exporter, opsets in EXPORTERS.items()
    for opset in opsets
}
_HEAVY: Final[tuple[tuple[str, str, Tool], ...]] = (
    ("modelopt", "ModelOpt INT8", _modelopt),
    ("aimet_onnx", "AIMET", _aimet),
)
_ALWAYS: Final[Mapping[str, tuple[str, Tool]]] = {
    "quantize_static": (BASE, _static),
    "quantize_static symmetric per channel": (
        BASE,
        partial(_static, per_channel=True, extra_options=_SYMMETRIC),
    ),
    "quantize_static symmetric per channel, float bias": (
        BASE,
        partial(_static, per_channel=True, extra_options=_SYMMETRIC | {"QuantizeBias": False}),
    ),
    "quantize_static opset 21": (BASE_21, _static),
    "quantize_static symmetric, float bias, opset 21": (
        BASE_21,
        partial(_static, per_channel=True, extra_options=_SYMMETRIC | {"QuantizeBias": False}),
    ),
    "quantize_static UINT8": (BASE, partial(_static, activation_type="QUInt8")),
    # It stumbles over the shapes that dynamo writes down.
    "quantize_dynamic": ("torchscript opset 17", _dynamic),
    "float16": (BASE, _half),
    "float16 keep_io_types": (BASE, partial(_half, keep_io_types=True)),
}
_TOOLS: Final[Mapping[str, tuple[str, Tool]]] = {
    **_ALWAYS,
    **{
        name: ("dynamo opset 20", tool)
        for module, name, tool in _HEAVY
        if importlib.util.find_spec(module) is not None
    },
}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """None of their many words; where tracing fails, torch writes the whole graph by C++."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    kept = {number: os.dup(number) for number in (1, 2)}
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("wb") as nothing:
            warnings.simplefilter("ignore")
            for number in kept:
                os.dup2(nothing.fileno(), number)
            yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        logging.disable(level)
