"""What is asked of exported files beyond what the target decides, and whether the target has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgekd.bench.engine_builder import EngineOptions
from edgekd.errors import IncompatibleError, UsageError
from edgekd.export.convert import FloatShare
from edgekd.export.pre_post_processing import Part, parse_parts
from edgekd.export.sensitivity import BY
from edgekd.records import Target

FP32_FILE: Final = "model-fp32.onnx"
FP16_FILE: Final = "model-fp16.onnx"
INT8_FILE: Final = "model-int8.onnx"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is asked of the files beyond what the target decides."""

    embed: tuple[Part, ...] = ()
    keeping: FloatShare | None = None  # layers of an INT8 network may stay in floating point
    tune: int = 0  # steps
    engine: EngineOptions | None = None  # build engines on this machine
    dynamic_batch: bool = False  # N stays open


PLAIN: Final = ExportOptions()  # the files that the target decides, and nothing else


def parse_export_options(
    embed: Sequence[str], *, keep: float, keep_by: str, tune: int = 0
) -> ExportOptions:
    """From what was typed.

    Raises:
        UsageError: an unknown part or kind, or no share.
    """
    if keep_by not in BY:
        raise UsageError(f"--keep-by {keep_by}: choose from {', '.join(BY)}.")
    if not 0 <= keep <= 1:
        raise UsageError(f"--keep-fp16 {keep:g}: a share is between 0 and 1.")
    if tune and keep:
        raise UsageError("--tune learns all layers in INT8: leave out --keep-fp16.")
    keeping = FloatShare(share=keep, by=keep_by) if keep else None
    return ExportOptions(embed=parse_parts(tuple(embed)), keeping=keeping, tune=tune)


def require_possible(options: ExportOptions, target: Target) -> None:
    """Refuse what is asked of an INT8 file that this target does not get, before hours are spent.

    Raises:
        IncompatibleError: it says what there is instead.
    """
    asked = "--tune" if options.tune else "--keep-fp16" if options.keeping is not None else None
    if asked is not None and not target.software.int8:
        raise IncompatibleError(
            f"{without_int8(target)}, so {asked} has nothing to work on: leave it out. {fp16_of(target)}"
        )
    if options.tune and target.software.runtime == "onnxruntime":
        raise IncompatibleError(
            f"--tune learns INT8 as TensorRT computes it, and {target.id} runs ONNX Runtime. Leave it out."
        )


def without_int8(target: Target) -> str:
    return f"{target.board.title} runs no INT8 under {target.software.name}"


def fp16_of(target: Target) -> str:
    """How a target that runs no INT8 gets to half the size all the same."""
    if target.software.runtime == "onnxruntime":
        return f"There is {FP32_FILE}."
    if target.software.typing == "strong":
        return f"FP16 is in {FP16_FILE}."
    return f"FP16 is there: trtexec --onnx={FP32_FILE} --fp16."
