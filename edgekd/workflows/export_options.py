"""What is asked of exported files beyond what the target decides, and whether the target has it."""

from dataclasses import dataclass
from typing import Final

from edgekd.bench.engine_builder import EngineOptions
from edgekd.errors import IncompatibleError, UsageError
from edgekd.export.pre_post_processing import Part, parse_parts
from edgekd.export.quantisation import AUTO, FloatShare
from edgekd.export.sensitivity import BY
from edgekd.options import ExportOptions
from edgekd.records import Target

FP32_FILE: Final = "model-fp32.onnx"
FP16_FILE: Final = "model-fp16.onnx"
INT8_FILE: Final = "model-int8.onnx"


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What is asked of the files beyond what the target decides, checked."""

    embed: tuple[Part, ...] = ()
    # Layers of an INT8 network may stay in floating point
    keeping: FloatShare | None = AUTO
    tune: int = ExportOptions.tune  # steps
    # Build engines on this machine
    engine: EngineOptions | None = None
    # N stays open
    dynamic_batch: bool = ExportOptions.dynamic_batch
    # Where the target runs it
    int8: bool = ExportOptions.int8

    def makes_int8(self, target: Target) -> bool:
        """Whether there will be an INT8 file."""
        return self.int8 and target.software.int8


# The files that the target decides, and nothing else
PLAIN: Final = ExportPlan()


def plan_export(options: ExportOptions, *, engine: EngineOptions | None = None) -> ExportPlan:
    """Check what was asked for.

    Args:
        options: as they were given.
        engine: how engines are built on this machine; None: none are.

    Raises:
        UsageError: an unknown part or kind, no fraction, or options that cannot be combined.
    """
    keep, by = options.keep_fp16, options.keep_by
    if by not in BY:
        raise UsageError(f"--keep-by {by}: choose from {', '.join(BY)}.")
    if keep is not None and not 0 <= keep <= 1:
        raise UsageError(f"--keep-fp16 {keep:g}: a share is between 0 and 1.")
    if not options.int8 and (options.tune or keep):
        asked = "--tune" if options.tune else "--keep-fp16"
        raise UsageError(f"{asked} is about the INT8 file, and --no-int8 leaves it out: give one.")
    return ExportPlan(
        embed=parse_parts(tuple(options.embed)),
        keeping=AUTO if keep is None else FloatShare(share=keep, by=by) if keep else None,
        tune=options.tune,
        engine=engine,
        dynamic_batch=options.dynamic_batch,
        int8=options.int8,
    )


def require_possible(options: ExportPlan, target: Target) -> None:
    """Refuse what is asked of an INT8 file that this target does not get, before hours are spent.

    Raises:
        IncompatibleError: it says what there is instead.
    """
    keeping = options.keeping is not None and options.keeping.asked
    asked = "--tune" if options.tune else "--keep-fp16" if keeping else None
    if asked is not None and not target.software.int8:
        raise IncompatibleError(
            f"{without_int8(target)}, so {asked} has nothing to work on: leave it out. {fp16_of(target)}"
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
