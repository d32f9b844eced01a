"""A model against what it was made from, on the same images.

N images, C channels, H x W pixels, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgekd.errors import IncompatibleError, InputFileError, QualityError
from edgekd.records import Parity, Precision

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of one precision."""

    relative: float | None  # largest error of a logit, as a share of the largest logit
    agreement: float  # share of images with the same decision


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


def session(path: Path | bytes) -> Any:  # noqa: ANN401
    """A quiet ONNX Runtime session on one thread, so that sums have one order.

    Args:
        path: of the file, or a model in memory.

    Raises:
        InputFileError: the file is no model.
        IncompatibleError: ONNX Runtime does not take it.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    name = path if isinstance(path, Path) else "the model"
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (errors.InvalidProtobuf, errors.NoSuchFile) as error:
        raise InputFileError(f"{name}: not an ONNX model, or cut short.") from error
    except (
        errors.Fail,
        errors.InvalidGraph,
        errors.NotImplemented,
        errors.InvalidArgument,
    ) as error:
        raise IncompatibleError(f"{name}: ONNX Runtime refuses it: {error}") from error


def logits_of(path: Path, images: Array) -> Array:  # (N, C, H, W) normalised -> (N, K)
    """Outputs of a model with one input and one output, at the batch that the file has."""
    running = session(path)
    (taken,) = running.get_inputs()
    (given,) = running.get_outputs()
    batch = taken.shape[0] if isinstance(taken.shape[0], int) else len(images)
    if len(images) % batch:
        raise InputFileError(f"{path}: fixed batch {batch} does not divide {len(images)} images.")
    parts = [
        running.run([given.name], {taken.name: part})[0]
        for part in np.split(np.ascontiguousarray(images, np.float32), len(images) // batch)
    ]
    return np.concatenate(parts)


def agreement(first: Array, second: Array) -> float:  # (N, K), (N, K) -> 0..1
    """Share of rows with the same largest value."""
    return float(np.mean(first.argmax(1) == second.argmax(1)))


def compare(candidate: Array, reference: Array, *, against: str, precision: Precision) -> Parity:
    """Logits (N, K) of a model against those of what it was made from."""
    limits = TOLERANCES[precision]
    scale = float(np.abs(reference).max())
    error = float(np.abs(candidate - reference).max())
    absolute = None if limits.relative is None else limits.relative * scale
    same = agreement(candidate, reference)
    finite = bool(np.isfinite(candidate).all())
    return Parity(
        against=against,
        images=len(reference),
        max_abs_error=error if finite else float("inf"),
        max_abs_tolerance=absolute,
        top1_agreement=same,
        top1_tolerance=limits.agreement,
        passed=finite and same >= limits.agreement and (absolute is None or error <= absolute),
    )


def require(parity: Parity, *, what: str) -> None:
    """Raise when a comparison failed.

    Raises:
        QualityError: with the figures and their limits.
    """
    if parity.passed:
        return
    limit = "" if parity.max_abs_tolerance is None else f" (at most {parity.max_abs_tolerance:.3g})"
    raise QualityError(
        f"{what} does not answer as {parity.against}: the same decision on {parity.top1_agreement:.2%} of "
        f"{parity.images} images (at least {parity.top1_tolerance:.2%}), largest error of a logit "
        f"{parity.max_abs_error:.3g}{limit}."
    )
