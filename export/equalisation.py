"""Channels of like ranges, so that one scale for a whole activation wastes few of its levels.

Weights have a scale for each output channel, activations one for all: what INT8 loses on depthwise networks
it loses on the activations, whose channels differ by orders of magnitude. A channel is scaled up by a power of
how far it stays below the largest of its tensor (as SmoothQuant scales by alpha, Xiao et al., ICML 2023,
equation 4, there between activations and weights). The power is chosen for each stream of channels by what
rounding is expected to add to the layers that read it.

N images, C channels, H x W pixels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgekd.export.calibration import LEVELS
from edgekd.export.channels import Channels, Scaled, follow, rescale, spread
from edgekd.export.parity import Array
from edgekd.export.qdq import activations, values_of

Moments = npt.NDArray[np.float64]

POWERS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
# A channel that is nearly never used is not blown up without end
_MOST: Final = 32.0


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """Of one activation, over images and places, a value for each channel."""

    largest: Moments  # (C,), absolute
    mean_square: Moments  # (C,)


def equalise(model: onnx.ModelProto, images: Array) -> onnx.ModelProto:
    """A copy whose quantised activations have channels of like ranges; it computes the same.

    Args:
        model: float graph.
        images: normalised (N, C, H, W), over which ranges are taken.
    """
    statistics = _statistics(model, images)
    channels = follow(model)
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    known = {name: each for name, each in statistics.items() if name in channels.of}
    factors = np.ones(len(channels.fixed))
    for stream in _streams(channels, known):
        factors[stream] = _of_stream(stream, channels, known, constants)[stream]
    return rescale(model, channels, factors)


def _statistics(model: onnx.ModelProto, images: Array) -> dict[str, ChannelStatistics]:
    """Of the activations that are quantised."""
    largest: dict[str, Moments] = {}
    squares: dict[str, Moments] = {}
    for name, values in values_of(model, activations(model), images):
        # As in `channels`: the second axis, and the last of three
        others = (0, 1) if values.ndim == 3 else (0, *range(2, values.ndim))
        reached = np.abs(values).max(axis=others).astype(np.float64)
        mean = np.square(values, dtype=np.float64).mean(axis=others) * len(values)
        largest[name] = np.maximum(largest.get(name, reached), reached)
        squares[name] = squares.get(name, 0.0) + mean
    return {
        name: ChannelStatistics(largest=largest[name], mean_square=squares[name] / len(images))
        for name in largest
    }


def _streams(
    channels: Channels, known: Mapping[str, ChannelStatistics]
) -> Iterable[npt.NDArray[np.int64]]:
    """Classes that are chosen together, since they meet in a quantised activation."""
    label = np.arange(len(channels.fixed))
    changing = True
    while changing:
        before = label.copy()
        for name in known:
            ids = channels.of[name]
            label[ids] = label[ids].min()
        changing = bool((label != before).any())
    quantised = np.unique(
        np.concatenate([channels.of[name] for name in known] or [np.empty(0, int)])
    )
    for each in np.unique(label[quantised]):
        members = np.flatnonzero(label == each)
        if not channels.fixed[members].all():
            yield members


def _of_stream(
    stream: npt.NDArray[np.int64],
    channels: Channels,
    known: Mapping[str, ChannelStatistics],
    constants: Mapping[str, npt.NDArray[np.float32]],
) -> Moments:
    """Factors of all classes, 1 outside of the stream: those of the power that is expected to add least."""
    inside = np.zeros(len(channels.fixed), bool)
    inside[stream] = True
    reached = np.zeros(len(channels.fixed))
    for name, each in known.items():
        ids = channels.of[name]
        if inside[ids].any():
            np.maximum.at(reached, ids, each.largest / max(float(each.largest.max()), 1e-12))
    readers = [
        (known[name], each)
        for name in known
        if inside[channels.of[name]].any()
        for each in channels.scaled
        if each.divided and np.array_equal(each.classes, channels.of[name])
    ]
    best, least = np.ones(len(reached)), np.inf
    for power in POWERS:
        factors = np.ones(len(reached))
        wanted = np.minimum(np.maximum(reached, 1e-9) ** -power, _MOST)
        able = inside & ~channels.fixed & (reached > 0)
        factors[able] = wanted[able]
        added = sum(
            _expected(seen, each, factors, constants[each.constant]) for seen, each in readers
        )
        if added < least:
            best, least = factors, added
    return best


def _expected(
    seen: ChannelStatistics, reader: Scaled, factors: Moments, weight: npt.NDArray[np.float32]
) -> float:
    """Noise that rounding the activation and the weights is expected to add to a layer, over its signal.

    Rounding to steps of d adds d^2 / 12 to each value, independent of the others (the usual model of it).
    """
    own = factors[reader.classes]
    largest, power = seen.largest * own, seen.mean_square * own**2
    scaled = weight * spread(reader, factors, weight.shape)
    if reader.groups > 1:
        taken = np.repeat(
            np.arange(len(own)).reshape(reader.groups, -1), weight.shape[0] // reader.groups, axis=0
        )
        rows = np.square(scaled).reshape(*weight.shape[:2], -1)
        per_row = np.abs(scaled).reshape(weight.shape[0], -1).max(1)
    else:
        rows = np.square(np.moveaxis(scaled, reader.axis, 1)).reshape(
            weight.shape[1 - reader.axis] if weight.ndim == 2 else weight.shape[0], len(own), -1
        )
        taken = np.broadcast_to(np.arange(len(own)), rows.shape[:2])
        per_row = np.abs(np.moveaxis(scaled, reader.axis, 1)).reshape(rows.shape[0], -1).max(1)
    step = float(largest.max()) / LEVELS
    of_activation = step**2 / 12 * float(rows.sum())
    of_weights = float(((per_row / LEVELS) ** 2 / 12 * power[taken].sum(1)).sum()) * rows.shape[2]
    signal = float((rows.sum(2) * power[taken]).sum())
    return float((of_activation + of_weights) / max(signal, 1e-30))
