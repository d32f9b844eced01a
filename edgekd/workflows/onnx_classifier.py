"""ONNX classifiers as they come: in which form they take images, and what they answer with.

N images, H x W pixels, C channels, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx

from edgekd.distill.data.labelled import normalise
from edgekd.errors import IncompatibleError, InputFileError
from edgekd.export.parity import batches, one_answer, session
from edgekd.export.pre_post_processing import PIXELS
from edgekd.records import InputSpec

_TYPES: Final[dict[str, npt.DTypeLike]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
# Channels of images
_CHANNELS: Final = (1, 3)


@dataclass(frozen=True, kw_only=True)
class OnnxClassifier:
    """One file. Not a record."""

    path: Path
    type: npt.DTypeLike
    # (N, C, H, W), or (N, H, W, C) as Keras has them
    layout: Literal["NCHW", "NHWC"]
    # Blue first, of `--embed bgr`
    bgr: bool
    # (C, H, W); None where it is open
    shape: tuple[int, int, int] | None
    # Of its output; None where it is open
    classes: int | None
    running: Any

    @property
    def takes_pixels(self) -> bool:
        """Whether mean and standard deviation are inside."""
        return self.type == np.uint8

    @property
    def note(self) -> str | None:
        """In which form it takes images, where it is not the usual one."""
        if self.takes_pixels:
            return f"takes pixels of 0..255, {self.layout}: mean and standard deviation are inside"
        if self.layout == "NHWC":
            return "takes (N, H, W, C), as Keras does: images are given so"
        return None

    def answers(self, images: npt.NDArray[np.uint8], spec: InputSpec) -> npt.NDArray[np.float32]:
        """Answers (N, K) for pixels (N, H, W, C).

        Raises:
            InputFileError: its answers are of another shape, or its batch does not fit.
            IncompatibleError: ONNX Runtime fails to run it.
        """
        given: npt.NDArray[Any] = images[..., ::-1] if self.bgr else images
        if self.takes_pixels:
            given = given if self.layout == "NHWC" else given.transpose(0, 3, 1, 2)
        else:
            given = normalise(given, spec)
            given = given if self.layout == "NCHW" else given.transpose(0, 2, 3, 1)
        takes = self.running.get_inputs()[0]
        found = []
        for part in batches(given, takes.shape[0], name=str(self.path)):
            try:
                answer = self.running.run(None, {takes.name: part.astype(self.type)})
            except Exception as error:  # onnxruntime's errors share no class with a name
                raise IncompatibleError(
                    f"{self.path}: ONNX Runtime does not run it: {str(error).splitlines()[0][:300]}"
                ) from error
            found.append(np.asarray(one_answer(answer, name=str(self.path)), np.float32))
        return np.concatenate(found)


def read_classifier(path: Path) -> OnnxClassifier:
    """What a file takes and gives.

    Raises:
        InputFileError: no ONNX model, of several inputs or outputs, or it answers with classes alone.
        IncompatibleError: ONNX Runtime does not take it.
    """
    running = session(path)
    takes, gives = running.get_inputs(), running.get_outputs()
    kind = _TYPES.get(takes[0].type)
    sizes = [size if isinstance(size, int) else None for size in takes[0].shape]
    if len(takes) != 1 or kind is None or len(sizes) != 4:
        told = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in takes)
        raise InputFileError(
            f"{path}: takes {told}; expected one batch of images, float or uint8, of four dimensions."
        )
    if len(gives) == 1 and "float" not in gives[0].type and "double" not in gives[0].type:
        raise InputFileError(
            f"{path}: answers with {gives[0].type.removeprefix('tensor').strip('()')} of shape {gives[0].shape}: classes "
            "alone, as --embed top1 makes them. Confidence and agreement need an answer for each class: name the file without it."
        )
    first = sizes[1] in _CHANNELS
    layout: Literal["NCHW", "NHWC"] = "NHWC" if sizes[3] in _CHANNELS and not first else "NCHW"
    c, h, w = (sizes[1], sizes[2], sizes[3]) if layout == "NCHW" else (sizes[3], sizes[1], sizes[2])
    given = gives[0].shape
    return OnnxClassifier(
        path=path,
        type=kind,
        layout=layout,
        bgr=kind == np.uint8 and _is_bgr(path),
        shape=None if c is None or h is None or w is None else (c, h, w),
        classes=given[1] if len(given) == 2 and isinstance(given[1], int) else None,
        running=running,
    )


def _is_bgr(path: Path) -> bool:
    graph = onnx.load_model(path, load_external_data=False).graph
    return any(tensor.name == f"{PIXELS}_order" for tensor in graph.initializer)
