"""Where an INT8 graph loses precision: each quantised tensor against the same one in FP32.

N images, C channels, H x W pixels.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx

from edgekd.export.compatibility import read_graph
from edgekd.export.parity import Array, outputs_of
from edgekd.export.qdq import activations, exposing
from edgekd.records import LayerPrecision

# Beyond this float32 cannot tell two tensors apart: it stands for "equal" and, negative, for
# "nothing in common", so that the figure is always finite.
MOST_DB: Final = 120.0


def layer_precision(
    fp32: Path, int8: Path, *, images: Array, equalised: bool = False
) -> tuple[LayerPrecision, ...]:
    """The ratio of signal to quantisation noise of every tensor that went through a pair.

    A tensor is taken after its pair, so its noise is its own rounding and what the layers before
    it handed on; the outputs, which have no pair, come last.

    Args:
        fp32: the float graph.
        int8: what was made of it, in either form, with what is not INT8 in FP32 or FP16.
        images: normalised (N, C, H, W), none that the ranges were taken from.
        equalised: channels of inner tensors were scaled in the INT8 graph (`equalisation`): each is compared after the
            factor that brings it nearest is taken out.

    Raises:
        IncompatibleError: ONNX Runtime refuses one of them.
        InputFileError: not an ONNX model, or images of another shape.
        UsageError: there are no images.
    """
    plain, quantised = read_graph(fp32), read_graph(int8)
    given = _pairs(quantised)
    outputs = [entry.name for entry in plain.graph.output]
    inner = [name for name in activations(plain) if name in given and name not in outputs]
    pairs = {name: given[name] for name in inner} | {name: name for name in outputs}
    inputs = {entry.name for entry in plain.graph.input}
    wanted = [name for name in pairs if name not in inputs]
    exact = outputs_of(
        exposing(plain, [name for name in wanted if name not in outputs]), images, wanted
    )
    rounded = outputs_of(
        exposing(quantised, [pairs[name] for name in inner]), images, list(pairs.values())
    )
    products: dict[str, npt.NDArray[np.float64]] = {}
    for (part, signals), (_, answers) in zip(exact, rounded, strict=True):
        known = dict(zip(wanted, signals, strict=True)) | dict.fromkeys(inputs, part)
        for name, answer in zip(pairs, answers, strict=True):
            scaled = equalised and name not in outputs
            found = _products(known[name], answer, by_channel=scaled)
            products[name] = products.get(name, 0.0) + found
    makers = _makers(plain)
    return tuple(
        LayerPrecision(
            tensor=name, made_by=makers.get(name, "input"), sqnr_db=_decibels(*_powers(found))
        )
        for name, found in products.items()
    )


def _products(
    signal: Array, answer: Array, *, by_channel: bool
) -> npt.NDArray[np.float64]:  # (4, C) or (4, 1)
    """Sums over images and places: squares of the signal, of the answer, of the difference, and signal times answer."""
    first, second = signal.astype(np.float64), answer.astype(np.float64)
    axis = None
    if by_channel:
        # As in `channels`: the second axis, and the last of three
        channel = 2 if signal.ndim == 3 else 1
        axis = tuple(place for place in range(signal.ndim) if place != channel)
    sums = (first**2, second**2, (first - second) ** 2, first * second)
    return np.stack([np.atleast_1d(each.sum(axis=axis)) for each in sums])


def _powers(products: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of signal and noise, each channel divided by its factor by least squares where there are several."""
    signal, answer, apart, both = products
    if len(signal) == 1:
        return float(signal[0]), float(apart[0])
    able = (both > 0) & (signal > 0)
    factor = np.where(able, both / np.where(able, signal, 1.0), 1.0)
    scaled = answer / factor**2 - 2 * both / factor + signal
    return float(signal.sum()), float(np.where(able, np.maximum(scaled, 0.0), apart).sum())


def _pairs(model: onnx.ModelProto) -> dict[str, str]:
    """Of each tensor that goes through a pair, the name of what it gives."""
    # In a typed graph an FP32 tensor is cast before its pair.
    cast = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast"}
    rounded = {
        cast.get(n.input[0], n.input[0]): n.output[0]
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    }
    back = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return {name: back[level] for name, level in rounded.items() if level in back}


def _makers(model: onnx.ModelProto) -> dict[str, str]:
    return {
        name: f"{node.op_type} {node.name}".strip()
        for node in model.graph.node
        for name in node.output
    }


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return MOST_DB
    if signal == 0 or not np.isfinite([signal, noise]).all():
        return -MOST_DB
    return round(float(np.clip(10 * np.log10(signal / noise), -MOST_DB, MOST_DB)), 2)
