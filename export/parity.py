"""A model against what it was made from, on the same images.

N images, C channels, H x W pixels, K classes.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgekd.errors import (
    IncompatibleError,
    InputFileError,
    QualityError,
    UsageError,
)
from edgekd.records import Parity, Precision

Array = npt.NDArray[np.float32]
# Images at a time where the file leaves it open
DYNAMIC_BATCH: Final = 32
# Images for which a session is not worth its last optimisations
FEW: Final = 4
# Of a protobuf message, which an ONNX file is
MOST_BYTES: Final = 2**31 - 1
# Of the bound that an agreement is judged by, one-sided
CONFIDENCE: Final = 0.95
# Fewer decisions tell nothing of a limit of 90 % by themselves: half of two would pass
LEAST_IMAGES: Final = 10


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of one precision."""

    # Largest error of a logit, as a share of the largest logit
    relative: float | None
    # Share of images with the same decision
    agreement: float


TOLERANCES: Final[dict[Precision, Tolerance]] = {
    # The same arithmetic in another order: float32 has 24 bits, and a few dozen layers lose some.
    # Two logits closer than the error may change places, hence not 1.
    "fp32": Tolerance(relative=1e-4, agreement=0.999),
    # 11 bits of mantissa.
    "fp16": Tolerance(relative=2e-2, agreement=0.99),
    # 8 bits: logits move, decisions should not. Held-out synthetic images lie closer to the
    # student's decision boundaries than real ones do: 94.1 % there was 97.7 % on the CIFAR-10 test
    # images (docs/log.md). Below this the ranges are wrong.
    "int8": Tolerance(relative=None, agreement=0.90),
}


def session(model: Path | bytes, *, few: bool = False) -> Any:  # noqa: ANN401
    """A quiet ONNX Runtime session on one thread, so that sums have one order.

    Args:
        model: the file, or a model in memory.
        few: leave weights in the order that the file has; to lay them out for the processor takes what
            several images gain by it (a ResNet-50: 0.2 s for 0.02 s an image), and a second copy of them.

    Raises:
        InputFileError: the file is no model, or lacks its weights.
        IncompatibleError: ONNX Runtime does not take it.
    """
    import onnxruntime

    if isinstance(model, Path):
        require_size(model)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # What is asked is what the file says, not what this processor makes of it: without VNNI, products of bytes are
    # summed in 16 bits and saturate, as on no board (ONNX Runtime 1.31.1: EfficientNet-Lite0 in TensorRT's form
    # decides as FP32 on 9 of 100 images, and on 61 so). session.x64quantprecision would do for most files; with it
    # some do not start.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if few:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    # Nothing but the end of the process: errors are raised
    options.log_severity_level = 4
    with _explain_errors(model):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def name_of(model: Path | bytes) -> str:
    """What messages call a model."""
    return model.name if isinstance(model, Path) else "the model"


def require_plain(path: Path) -> None:
    """Refuse what can be read once only, or without end.

    Raises:
        InputFileError: it is there, and no plain file.
    """
    if path.exists() and not path.is_file():
        raise InputFileError(f"{path}: not a plain file. Write the model to one.")


def require_size(path: Path) -> None:
    """Refuse a file that is too large to be a model, before it is read into memory.

    Raises:
        InputFileError: it is.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size > MOST_BYTES:
        raise InputFileError(
            f"{path}: {size / 2**30:.1f} GiB; an ONNX file holds at most 2 GiB, so this is none that can be read. "
            "Take a smaller network."
        )


@contextlib.contextmanager
def _explain_errors(model: Path | bytes) -> Iterator[None]:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    name = name_of(model)
    try:
        yield
    except (errors.InvalidProtobuf, errors.NoSuchFile, errors.NoModel) as error:
        raise InputFileError(f"{name}: not an ONNX model, or cut short.") from error
    except (
        errors.Fail,
        errors.InvalidGraph,
        errors.InvalidArgument,
        errors.NotImplemented,
        errors.RuntimeException,
    ) as error:
        if isinstance(model, Path):
            from edgekd.export import external_data

            external_data.require_data(model)
        raise IncompatibleError(f"{name}: ONNX Runtime refuses it: {error}") from error


def batches(images: Array, batch: int | str | None, *, name: str) -> Iterator[Array]:
    """Images (N, C, H, W) in parts of the size that a model's input has; `batch` is its first axis.

    Raises:
        UsageError: there are none.
        InputFileError: the fixed batch does not divide N.
    """
    if not len(images):
        raise UsageError(f"{name}: not a single image to run. Give at least one.")
    size = batch if isinstance(batch, int) else DYNAMIC_BATCH
    if isinstance(batch, int) and len(images) % size:
        raise InputFileError(f"{name}: fixed batch {batch} does not divide {len(images)} images.")
    for start in range(0, len(images), size):
        part = np.ascontiguousarray(images[start : start + size])
        yield part.astype(np.float32, copy=False) if part.dtype.kind == "f" else part


def outputs_of(
    model: Path | bytes, images: Array, names: Sequence[str] = ()
) -> Iterator[tuple[Array, list[Array]]]:
    """Images as they go in, with what comes out: the outputs `names`, or all of them.

    Raises:
        InputFileError: no model; it takes several inputs, or images of another shape.
        IncompatibleError: ONNX Runtime refuses or fails to run it.
        UsageError: there are no images.
    """
    running, name = session(model, few=len(images) <= FEW), name_of(model)
    takes = running.get_inputs()
    shape = takes[0].shape if len(takes) == 1 else []
    if len(shape) != images.ndim or any(
        isinstance(asked, int) and asked != there
        for asked, there in zip(shape[1:], images.shape[1:], strict=True)
    ):
        raise InputFileError(
            f"{name} takes {[entry.shape for entry in takes]}; the images are {images.shape}."
        )
    for part in batches(images, shape[0], name=name):
        with _explain_errors(model):
            yield part, running.run(list(names) or None, {takes[0].name: part})


def logits_of(model: Path | bytes, images: Array) -> Array:  # (N, C, H, W) normalised -> (N, K)
    """Outputs of a model with one input and one output, at the batch that the file has.

    Raises:
        InputFileError: no such model, or images of another shape.
        IncompatibleError: ONNX Runtime refuses or fails to run it.
        UsageError: there are no images.
    """
    name = name_of(model)
    return np.concatenate([one_answer(found, name=name) for _, found in outputs_of(model, images)])


def one_answer(found: Sequence[Array], *, name: str) -> Array:  # (N, K)
    """The one output of a classifier.

    Raises:
        InputFileError: there are others, or it has another shape.
    """
    if len(found) != 1 or found[0].ndim != 2:
        shapes = [np.shape(each) for each in found]
        raise InputFileError(f"{name} gives {shapes}; expected one (N, K).")
    return found[0]


def agreement(first: Array, second: Array) -> float:  # (N, K), (N, K) -> 0..1
    """Share of rows with the same largest value."""
    return float(np.mean(first.argmax(1) == second.argmax(1)))


def highest_share(same: int, images: int) -> float:  # -> 0..1
    """The largest share that so many of so many images leave possible: Clopper and Pearson's bound (1934), one-sided, 95 %.

    Args:
        same: images with the same decision.
        images: all of them, at least one.
    """
    if same >= images:
        return 1.0
    low, high = same / images, 1.0
    # Half of it each time: more than float64 can tell apart
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(same, images, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _at_most(most: int, images: int, share: float) -> float:
    """Probability of at most so many successes in `images` draws, each with probability `share` (0..1)."""
    if share >= 1.0:
        return 0.0
    total = math.lgamma(images + 1)
    return math.fsum(
        math.exp(
            total
            - math.lgamma(count + 1)
            - math.lgamma(images - count + 1)
            + (count * math.log(share) if count else 0.0)
            + (images - count) * math.log1p(-share)
        )
        for count in range(most + 1)
    )


def compare(candidate: Array, reference: Array, *, against: str, precision: Precision) -> Parity:
    """Logits (N, K) of a model against those of what it was made from.

    The agreement fails where it lies below its limit beyond what N images can tell: the largest share that they leave
    possible is below it, too. Where there is no limit on the logits themselves, and fewer than `LEAST_IMAGES`
    images, the agreement itself must reach the limit.

    Raises:
        QualityError: the two have other shapes: other classes, or other images.
        UsageError: there are no images.
    """
    if candidate.shape != reference.shape:
        raise QualityError(f"logits {candidate.shape}, but {reference.shape} of {against}.")
    if not candidate.size:
        raise UsageError(f"nothing to compare with {against}: not a single image.")
    limits = TOLERANCES[precision]
    finite = bool(np.isfinite(candidate).all() and np.isfinite(reference).all())
    error = float(np.abs(candidate - reference).max()) if finite else float("inf")
    scale = float(np.abs(reference).max()) if finite else 0.0
    absolute = None if limits.relative is None else limits.relative * scale
    same = agreement(candidate, reference)
    highest = highest_share(round(same * len(reference)), len(reference))
    tells = absolute is not None or len(reference) >= LEAST_IMAGES
    agrees = (highest if tells else same) >= limits.agreement
    return Parity(
        against=against,
        images=len(reference),
        max_abs_error=error,
        max_abs_tolerance=absolute,
        top1_agreement=same,
        top1_tolerance=limits.agreement,
        top1_highest=highest,
        passed=finite and agrees and (absolute is None or error <= absolute),
    )


def require_parity(parity: Parity, *, what: str) -> None:
    """Raise when a comparison failed.

    Raises:
        QualityError: with the figures and their limits.
    """
    if parity.passed:
        return
    limit = "" if parity.max_abs_tolerance is None else f" (at most {parity.max_abs_tolerance:.3g})"
    raise QualityError(
        f"{what} does not answer as {parity.against}: the same decision on {parity.top1_agreement:.2%} of "
        f"{parity.images} images{format_highest(parity)} (at least {parity.top1_tolerance:.2%}), largest error of a logit "
        f"{parity.max_abs_error:.3g}{limit}."
    )


def format_highest(parity: Parity) -> str:
    """What an agreement below its limit may be on more images, for people; empty where it reaches the limit."""
    highest = parity.top1_highest
    if highest is None or parity.top1_agreement >= parity.top1_tolerance:
        return ""
    if parity.max_abs_tolerance is None and parity.images < LEAST_IMAGES:
        return f", which are too few to tell; bring at least {LEAST_IMAGES}"
    return f", so at most {highest:.2%} at 95 % confidence"
