"""Why an exporter gave up, in words: what torch says of it is pages long, and the reason stands at its end."""

import re
from collections.abc import Iterator
from typing import Final

import torch
from torch import nn

from edgekd.errors import IncompatibleError
from edgekd.records import Software, runtime_text

# The exporter colours its messages
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*m")
# "No ONNX function found for <OpOverload(op='aten.fft_fft2' …" and "Exporting the operator 'aten::fft_fft2' …".
_OPERATOR: Final = re.compile(
    r"(?:No ONNX function found for <OpOverload\(op='|Exporting the operator ')([\w:.]+)"
)
# "Unsupported: ONNX export of operator adaptive_avg_pool2d, output size that are not factor of input size. Please …"
_FORM: Final = re.compile(r"ONNX export of operator (\w+),? ?(.*?)\.(?:\s|$)")
_SINCE: Final = re.compile(r"Support for this operator was added in version (\d+)")
_BRANCHES: Final = re.compile(
    r"data-dependent|dynamic control flow|control flow op|vmap over calling \.item", re.IGNORECASE
)
_ONE_PATH: Final = (
    "its forward pass decides by the values that it computes (`if`, `while`, `bool()` on a tensor), and a "
    "graph has one path. Write the decision as arithmetic, for example torch.where."
)


def explain_refusal(error: BaseException, software: Software) -> IncompatibleError:
    """What to tell of an exporter that failed on a network which runs in PyTorch."""
    return IncompatibleError(
        f"torch's {software.exporter} exporter cannot write this network at opset {software.opset}, "
        f"which {_name_software(software)} needs: {_reason(error, software)}"
    )


def require_one_path(
    module: nn.Module, sample: torch.Tensor, tracer_warnings: list[str], software: Software
) -> None:
    """Look into what the tracer warned of: it follows one branch, and warns alike of shapes and of values.

    Args:
        module: that was traced.
        sample: what it was traced with, (N, C, H, W).
        tracer_warnings: the tracer's warnings; without any, nothing is done.
        software: that it is written for.

    Raises:
        IncompatibleError: a branch hangs on values.
    """
    if not tracer_warnings:
        return
    try:
        # With sizes that are fixed, what it can't decide is decided by values.
        torch.export.export(module, (sample,), strict=False)
    except Exception as error:
        if _branches(error):
            raise explain_refusal(error, software) from error
        raise IncompatibleError(
            f"the tracer of torch's {software.exporter} exporter, which {_name_software(software)} needs, warns of its own "
            f"graph ({_first_line(tracer_warnings[0])}), and torch.export cannot settle it: {_first_line(str(error))}. "
            "Choose another student, or a target with newer software."
        ) from error


def _name_software(software: Software) -> str:
    return software.name + (f" ({runtime_text(software.tensorrt)})" if software.tensorrt else "")


def _reason(error: BaseException, software: Software) -> str:
    texts = [str(each) for each in _chain(error)]
    if _branches(error):
        return _ONE_PATH
    form = next(filter(None, map(_FORM.search, texts)), None)
    if form is not None:
        return (
            f"torch's operator {form[1]} has no ONNX form there ({form[2]}). "
            "Choose a student without it, or a target with newer software."
        )
    operator = next(filter(None, map(_OPERATOR.search, texts)), None)
    if operator is None:
        # The innermost error is the cause; what is around it says at which step.
        return f"{_first_line(texts[-1])} Choose another student, or a target with newer software."
    since = next(filter(None, map(_SINCE.search, texts)), None)
    if since is None:
        reads = "none" if software.runtime == "tensorrt" else "none, nor does ONNX Runtime"
        return (
            f"torch's operator {operator[1]} has no ONNX form there. TensorRT that reads it: {reads}. "
            "Choose a student without it."
        )
    return (
        f"torch's operator {operator[1]} has an ONNX form from opset {since[1]} on. "
        "Choose a student without it, or a target with newer software."
    )


def _branches(error: BaseException) -> bool:
    return any(_BRANCHES.search(str(each)) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, outermost first."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _first_line(text: str) -> str:
    lines = [line.strip() for line in _ESCAPES.sub("", text).splitlines() if line.strip()]
    return lines[0] if lines else "no reason given."
