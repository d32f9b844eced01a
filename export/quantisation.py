"""A float graph to INT8: ranges, layers that stay in floating point, corrected weights, tuning; each kept where it helps.

N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import onnx
from torch import nn

from edgekd.export import equalisation, parity, qdq, qdq_cpu, reconstruction, sensitivity
from edgekd.export.calibration import LEVELS
from edgekd.export.fake_quant import FakeQuantised, FinetunedValues, with_constants
from edgekd.export.parity import Array
from edgekd.export.weightless_graph import has_subgraphs
from edgekd.records import Calibration, LayerSensitivity

TUNED: Final = "tuned"
EQUALISED: Final = "equalised"
KEPT: Final = "kept"
CORRECTED: Final = "corrected"
# Nats by which INT8 may differ from FP32 before anything is done about it: below, decisions agree but for ties
LITTLE: Final = 0.001
# And before layers stay in floating point, which costs the board changes of type
KEPT_ABOVE: Final = 0.002
# What another graph must leave of what is lost, to be taken
_WORTH: Final = 0.9
# Of the multiply-accumulates, that may stay in floating point where nobody says otherwise
AUTO_SHARE: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class FloatShare:
    """How much of a network may stay in floating point, where that helps most."""

    share: float
    by: sensitivity.By
    # All of the share is used; otherwise only what layers that lose much need
    asked: bool = True


# Where nobody says how much
AUTO: Final = FloatShare(share=AUTO_SHARE, by="macs", asked=False)


@dataclass(frozen=True, kw_only=True)
class FinetuneSource:
    """What an INT8 file is tuned from, and by whom: the loop is the caller's."""

    # That the FP32 file was made of
    module: nn.Module
    tune: Callable[[FakeQuantised], None]
    steps: int


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A graph with pairs, and how it came to be."""

    model: onnx.ModelProto
    record: Calibration


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Normalised images, and what those that choose should be decided as."""

    model: onnx.ModelProto  # float
    calibration: Array  # (N, C, H, W)
    seen: Array  # (M, C, H, W)
    teacher: Array | None  # (M, K), logits

    @cached_property
    def exact(self) -> Array:
        """Logits (M, K) of the float graph."""
        return parity.logits_of(self.model.SerializeToString(), self.seen)

    @property
    def reference(self) -> Array:
        """Logits (M, K) of the teacher; without one those of the float graph."""
        return self.exact if self.teacher is None else self.teacher

    def judge(self, model: onnx.ModelProto) -> tuple[float, float]:
        """Agreement with the reference, and divergence from the float graph, nats."""
        answers = parity.logits_of(model.SerializeToString(), self.seen)
        return (
            parity.agreement(answers, self.reference),
            sensitivity.divergence(self.exact, answers),
        )

    def add(
        self, record: Calibration, name: str, model: onnx.ModelProto
    ) -> tuple[Calibration, float]:
        """The record with what a graph reaches, and its divergence, nats."""
        agreed, lost = self.judge(model)
        return replace(
            record,
            agreement=record.agreement | {name: agreed},
            divergence=record.divergence | {name: lost},
        ), lost

    def record(self, method: str, agreement: Mapping[str, float]) -> Calibration:
        """Of a graph by one of the methods that were tried."""
        return Calibration(
            method=method,
            images=len(self.calibration),
            held_out_images=len(self.seen),
            agreement=dict(agreement),
        )


def for_tensorrt(
    shown: CalibrationImages, *, keeping: FloatShare | None, tuning: FinetuneSource | None
) -> Quantised:
    """By the pairs that TensorRT takes.

    Args:
        shown: the float graph, and images.
        keeping: layers may stay in floating point; None: none does.
        tuning: weights and scales are learned, and taken where they decide more like the reference, or alike and are no
            further from FP32.
    """
    model, calibration = shown.model, shown.calibration
    chosen = qdq.choose(
        model, calibration=calibration, held_out=shown.seen, reference=shown.teacher
    )
    limits = chosen.limits
    plain = qdq.with_pairs(model, limits)
    _, lost = shown.judge(plain)
    record = replace(
        shown.record(chosen.method, chosen.agreement),
        saturated=chosen.saturated_shares(),
        divergence={chosen.method: lost},
    )
    # What branches take is not among a node's inputs, by which channels and layers are followed
    correctable = not has_subgraphs(model)
    if lost > LITTLE and correctable:
        other = equalisation.equalise(model, calibration)
        ranges = qdq.observe(other, qdq.activations(other), calibration)
        found = qdq.limits_of(other, ranges, chosen.method)
        even = qdq.with_pairs(other, found)
        record, left = shown.add(record, EQUALISED, even)
        if left < _WORTH * lost:
            model, limits, plain, lost = other, found, even, left
            record = replace(
                record,
                equalised=True,
                saturated={name: each.clipped_share(found[name]) for name, each in ranges.items()},
            )
    ranked, kept = select_kept(replace(shown, model=model), limits, keeping, lost=lost)
    best = Quantised(model=plain, record=replace(record, sensitivity=ranked))
    if kept:
        best, lost = _with_kept(
            shown, best, qdq.with_pairs(model, limits, keep=kept), kept, keeping, lost=lost
        )
        kept = best.record.kept
    if lost > LITTLE and correctable:
        fitted = reconstruction.reconstruct(model, limits, calibration, keep=kept)
        corrected = qdq.with_pairs(
            with_constants(model, fitted.constants),
            limits,
            keep=kept,
            weight_scales=fitted.weight_scales,
        )
        best = _nearer(shown, best, corrected, lost=lost)
    if tuning is None:
        return best

    def written(found: FinetunedValues) -> onnx.ModelProto:
        return qdq.with_pairs(
            with_constants(shown.model, found.constants),
            found.limits,
            keep=kept,
            weight_scales=found.weight_scales,
        )

    # Of the graph as it was exported, which is what the module computes
    wrapped = FakeQuantised(
        tuning.module, shown.model, chosen.limits, shape=shown.seen.shape[1:], keep=kept
    )
    return _tuned(shown, best, tuning, wrapped, written)


def for_cpu(
    shown: CalibrationImages,
    *,
    arm: bool,
    vnni: bool,
    keeping: FloatShare | None,
    tuning: FinetuneSource | None,
) -> Quantised:
    """By the pairs that ONNX Runtime's kernels take.

    Args:
        shown: the float graph, and images.
        arm: what the board's processor is.
        vnni: whether it is an x86 processor with VNNI.
        keeping: see `for_tensorrt`.
        tuning: likewise; weights are learned on the grid that ONNX Runtime gives them, activations by TensorRT's pairs.
    """
    model = shown.model
    levels = LEVELS if arm or vnni else qdq_cpu.LEVELS_7

    def written(changed: onnx.ModelProto, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
        return qdq_cpu.with_cpu_pairs(
            changed,
            shown.calibration,
            arm=arm,
            vnni=vnni,
            keep=keep,
            layers_alone=method == qdq_cpu.LAYERS,
        )

    method = qdq_cpu.METHOD
    plain = written(model)
    agreed, lost = shown.judge(plain)
    agreement, divergence = {method: agreed}, {method: lost}
    if lost > LITTLE:
        method = qdq_cpu.LAYERS
        other = written(model)
        agreement[method], divergence[method] = shown.judge(other)
        # Integers between layers are what makes this form fast: they go where that is worth it
        if divergence[method] < lost / 2:
            plain, lost = other, divergence[method]
        else:
            method = qdq_cpu.METHOD
    record = replace(shown.record(method, agreement), divergence=divergence)
    # What branches take is not among a node's inputs, by which channels and layers are followed
    correctable = not has_subgraphs(model)
    if lost > LITTLE and correctable:
        other = equalisation.equalise(model, shown.calibration)
        even = written(other)
        record, left = shown.add(record, EQUALISED, even)
        if left < _WORTH * lost:
            model, plain, lost = other, even, left
            record = replace(record, equalised=True)
    limits: Mapping[str, float] = {}
    if keeping is not None and (keeping.asked or lost > KEPT_ABOVE):
        # By TensorRT's pairs: which layer INT8 hurts is a matter of its values, not of the form.
        ranges = qdq.observe(model, qdq.activations(model), shown.calibration)
        limits = qdq.limits_of(model, ranges, "max")
    ranked, kept = select_kept(replace(shown, model=model), limits, keeping, lost=lost)
    best = Quantised(model=plain, record=replace(record, sensitivity=ranked))
    if kept:
        best, lost = _with_kept(shown, best, written(model, kept), kept, keeping, lost=lost)
        kept = best.record.kept
    if lost > LITTLE and correctable:
        # Activations have other ranges in this form, so that weights alone are rounded here
        fitted = reconstruction.reconstruct(
            model, {}, shown.calibration, keep=kept, levels=levels, pinned=True
        )
        corrected = written(with_constants(model, fitted.constants), kept)
        best = _nearer(shown, best, corrected, lost=lost)
    if tuning is None:
        return best
    # Of the graph as it was exported, which is what the module computes
    ranges = qdq.observe(shown.model, qdq.activations(shown.model), shown.calibration)
    wrapped = FakeQuantised(
        tuning.module,
        shown.model,
        qdq.limits_of(shown.model, ranges, "max"),
        shape=shown.seen.shape[1:],
        keep=kept,
        weight_levels=levels,
        weight_scales_learned=False,
    )
    return _tuned(
        shown,
        best,
        tuning,
        wrapped,
        lambda found: written(with_constants(shown.model, found.constants), kept),
    )


def _with_kept(
    shown: CalibrationImages,
    best: Quantised,
    other: onnx.ModelProto,
    kept: tuple[str, ...],
    keeping: FloatShare | None,
    *,
    lost: float,
) -> tuple[Quantised, float]:
    """The graph with layers in floating point, where it was asked for or helps, and what it loses, nats."""
    record, left = shown.add(best.record, KEPT, other)
    asked = keeping is not None and keeping.asked
    if not asked and left >= _WORTH * lost:
        return Quantised(model=best.model, record=record), lost
    return Quantised(model=other, record=replace(record, kept=kept)), left


def _nearer(
    shown: CalibrationImages, best: Quantised, corrected: onnx.ModelProto, *, lost: float
) -> Quantised:
    """The corrected graph, where it answers more like the float one."""
    record, left = shown.add(best.record, CORRECTED, corrected)
    if left >= lost:
        return Quantised(model=best.model, record=record)
    return Quantised(model=corrected, record=replace(record, corrected=True))


def select_kept(
    shown: CalibrationImages,
    limits: Mapping[str, float],
    keeping: FloatShare | None,
    *,
    lost: float,
) -> tuple[tuple[LayerSensitivity, ...], tuple[str, ...]]:
    """What each layer costs, and which stay in floating point.

    Args:
        shown: the float graph, and images.
        limits: of its activations.
        keeping: how much may stay.
        lost: divergence with all layers in INT8, nats.
    """
    if keeping is None or not (keeping.asked or lost > KEPT_ABOVE):
        return (), ()
    ranked = sensitivity.sensitivities(shown.model, limits, shown.seen)
    if keeping.asked:
        return ranked, sensitivity.worst(ranked, share=keeping.share, by=keeping.by)
    return ranked, sensitivity.needed(ranked, share=keeping.share, little=KEPT_ABOVE)


def _tuned(
    shown: CalibrationImages,
    best: Quantised,
    tuning: FinetuneSource,
    wrapped: FakeQuantised,
    written: Callable[[FinetunedValues], onnx.ModelProto],
) -> Quantised:
    """The graph with what was learned, where it decides more like the reference, or alike and is no further from FP32."""
    tuning.tune(wrapped)
    tuned = written(wrapped.collect_tuned())
    record, _ = shown.add(best.record, TUNED, tuned)
    last = last_step(best.record)
    if (record.agreement[TUNED], -record.divergence[TUNED]) < (
        record.agreement[last],
        -record.divergence[last],
    ):
        return Quantised(model=best.model, record=record)
    # What its learned ranges cut off was not counted.
    return Quantised(
        model=tuned,
        record=replace(
            record,
            method=TUNED,
            tuned_steps=tuning.steps,
            saturated={},
            corrected=False,
            equalised=False,
        ),
    )


def last_step(record: Calibration) -> str:
    """Of what was done to a graph, the last: the name of its agreement and divergence."""
    if record.corrected:
        return CORRECTED
    if record.kept:
        return KEPT
    return EQUALISED if record.equalised else record.method
