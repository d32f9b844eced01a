"""One engine of TensorRT-RTX for several kinds of GPU, built where there is none."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgekd.errors import MissingToolError
from edgekd.export.nvidia_parser import (
    INSTALL,
    NAME,
    NvidiaParser,
    ParserDiedError,
    ParserRequest,
    find_module,
    sms_of,
)
from edgekd.files import digest_of
from edgekd.progress import Display
from edgekd.records import (
    RTX,
    OnnxModel,
    PortableEngine,
    Precision,
    Target,
    is_rtx,
)

# After the precision; what `--engine` builds for the GPU that is there has another name
PORTABLE: Final = "-rtx.engine"
# The fastest form that there is
_PREFERRED: Final[tuple[Precision, ...]] = ("int8", "fp16", "fp32")


def build_portable(
    models: Sequence[OnnxModel], folder: Path, *, target: Target, display: Display
) -> PortableEngine | None:
    """Build an engine of the smallest precision for all GPUs of a target that runs TensorRT-RTX.

    Args:
        models: that were exported.
        folder: where they lie, and where the engine goes.
        target: what it is for; of another than TensorRT-RTX's nothing is built.
        display: what happens is said there, and why nothing was built.

    Returns:
        The engine; None where none was built. The files stand without it, so that is warned of and no error.
    """
    if not is_rtx(target.software.tensorrt):
        return None
    if find_module() is None:
        display.warn(f"no engine was built: {NAME} is not installed here: {INSTALL}")
        return None
    by_precision = {model.precision: model for model in models}
    model = next(by_precision[each] for each in _PREFERRED if each in by_precision)
    sms = sms_of(target.board.facts, model.precision)
    name = f"model-{model.precision}{PORTABLE}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".engine-") as scratch:
        plan = Path(scratch) / name
        request = ParserRequest(model=folder / model.path, sms=sms, plan=plan)
        with NvidiaParser([request]) as builder:
            try:
                answer = next(builder.answers())
            except (ParserDiedError, MissingToolError) as error:
                display.warn(f"no engine was built of {model.path}: {error}")
                return None
        if not answer.built:
            why = "; ".join(reason.message for reason in answer.reasons)
            display.warn(
                f"no engine was built of {model.path}: {NAME} {builder.version} refuses it: {why}"
            )
            return None
        plan.replace(folder / name)
    made = PortableEngine(
        path=name,
        digest=digest_of(folder / name),
        made_from=model.digest,
        precision=model.precision,
        tensorrt=f"{RTX}{builder.version}",
        compute_capabilities=sms,
        size_bytes=(folder / name).stat().st_size,
        build_s=round(answer.build_s or 0.0, 3),
        warnings=answer.warnings,
    )
    display.say(
        f"engine   {name} for SM {', '.join(sms)}, built in {made.build_s:.1f} s by {NAME} {builder.version}; "
        "no GPU has run it here"
    )
    if any(size is None for each in model.inputs for size in each.shape):
        display.warn(f"{name} takes one image at a time, where {model.path} leaves the batch open")
    for warning in made.warnings:
        display.warn(f"{name}: {warning}")
    return made
