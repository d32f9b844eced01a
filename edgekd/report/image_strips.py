"""The synthetic images of a bundle as pictures in a page, small whatever the bundle holds.

N images, C channels, H x W pixels.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgekd.distill.data.untrusted_arrays import read_npy
from edgekd.errors import EdgekdError
from edgekd.records import InputSpec
from edgekd.records.manifest import Manifest

Pixels = npt.NDArray[np.uint8]  # (N, H, W, C)

CLASSES_SHOWN: Final = 20
IMAGES_SHOWN: Final = 8  # of a class
AT_ONCE: Final = 128  # images
# Pixels of an image as it is shown
LARGEST_SIDE: Final = 64
# For the classes; the moments get as much
IMAGE_BYTES: Final = 200_000


@dataclass(frozen=True, kw_only=True)
class StripMoment:
    """Images at one point of a run, of some classes."""

    progress: float
    step: int
    classes: tuple[int, ...]
    # One for each of `classes`
    images: Pixels


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """How the images changed."""

    moments: tuple[StripMoment, ...]
    # The run was continued from a checkpoint without them
    late: bool


@dataclass(frozen=True, kw_only=True)
class StripImage:
    source: str  # a data URI
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    label: str
    found: int
    shown: int
    strip: StripImage | None


@dataclass(frozen=True, kw_only=True)
class MomentRow:
    label: str
    # One a moment
    images: tuple[StripImage | None, ...]


def class_rows(folder: Path, manifest: Manifest) -> tuple[tuple[ClassRow, ...], str]:
    """Images by class; or none, and why."""
    if manifest.calibration is None:
        return (), "The bundle was made without images (--no-images)."
    try:
        pixels = _calibration_images(folder / manifest.calibration.file, manifest.input)
        decided = _predict(folder, manifest, pixels)
    except (EdgekdError, OSError, ValueError, EOFError) as error:
        return (), f"The images cannot be shown: {error}"
    shown = min(manifest.classes, CLASSES_SHOWN)
    wanted = [manifest.classes * place // shown for place in range(shown)]
    rows: tuple[ClassRow, ...] = ()
    for count, side in ((IMAGES_SHOWN, LARGEST_SIDE), (5, 48), (4, 40), (2, 32), (1, 24)):
        rows = tuple(
            _class_row(manifest, number, pixels[decided == number], count, side)
            for number in wanted
        )
        if sum(len(row.strip.source) for row in rows if row.strip) <= IMAGE_BYTES:
            break
    return rows, ""


def _calibration_images(path: Path, spec: InputSpec) -> Pixels:
    images = read_npy(path)
    shape = (spec.height, spec.width, spec.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise ValueError(f"{path.name} holds {images.dtype} of shape {images.shape}")
    return np.asarray(images, np.uint8)


def _predict(folder: Path, manifest: Manifest, pixels: Pixels) -> npt.NDArray[np.int64]:
    """What the FP32 model sees in each: the teacher is not in the bundle."""
    from edgekd.export.parity import logits_of

    spec = manifest.input
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    model = next((model for model in manifest.models if model.precision == "fp32"), None)
    if model is None:
        raise ValueError("there is no FP32 model to say what they show")
    decided = []
    # As floats, all of them can be large
    for start in range(0, len(pixels), AT_ONCE):
        scaled = (pixels[start : start + AT_ONCE].astype(np.float32) / 255 - mean) / std
        images = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)  # (N, C, H, W)
        decided.append(logits_of(folder / model.path, images).argmax(1))
    return np.asarray(np.concatenate(decided), np.int64)


def _class_row(manifest: Manifest, number: int, images: Pixels, count: int, side: int) -> ClassRow:
    chosen = images[:count]
    return ClassRow(
        label=_label(manifest, number),
        found=len(images),
        shown=len(chosen),
        strip=strip(chosen, manifest.input, side=side) if len(chosen) else None,
    )


def _label(manifest: Manifest, number: int) -> str:
    names = manifest.class_names
    return names[number] if names is not None and number < len(names) else f"class {number}"


def moment_rows(manifest: Manifest, timeline: Timeline | None) -> tuple[MomentRow, ...]:
    if timeline is None:
        return ()
    numbers = sorted({number for moment in timeline.moments for number in moment.classes})
    rows: tuple[MomentRow, ...] = ()
    for side in (LARGEST_SIDE, 48, 32, 24):
        rows = tuple(
            MomentRow(
                label=_label(manifest, number),
                images=tuple(
                    strip(
                        moment.images[moment.classes.index(number)][None], manifest.input, side=side
                    )
                    if number in moment.classes
                    else None
                    for moment in timeline.moments
                ),
            )
            for number in numbers
        )
        if sum(len(image.source) for row in rows for image in row.images if image) <= IMAGE_BYTES:
            break
    return rows


def strip(images: Pixels, spec: InputSpec, *, side: int) -> StripImage:
    """Images side by side as a PNG, made smaller where they are larger than `side`."""
    from PIL import Image

    data = sheet([images], spec, side=side)
    width, height = Image.open(io.BytesIO(data)).size
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return StripImage(source=source, width=width, height=height)


def sheet(rows: Sequence[Pixels], spec: InputSpec, *, side: int) -> bytes:
    """Rows of images as a PNG, each made smaller where it is larger than `side`."""
    from PIL import Image

    scale = min(1.0, side / max(spec.height, spec.width))
    height, width = max(1, round(spec.height * scale)), max(1, round(spec.width * scale))
    most = max(len(images) for images in rows)
    gap = 2 if most > 1 or len(rows) > 1 else 0
    mode = "RGBA" if spec.channels == 3 else "LA"
    size = (most * (width + gap) - gap, len(rows) * (height + gap) - gap)
    whole = Image.new(mode, size)
    for line, images in enumerate(rows):
        # RGB as it is, BGR turned; of anything else the first channel.
        seen = {"rgb": images, "bgr": images[..., ::-1]}.get(spec.colour_order, images)
        shown = np.ascontiguousarray(seen if spec.channels == 3 else seen[..., :1].squeeze(-1))
        for place, pixels in enumerate(shown):
            image = Image.fromarray(pixels)
            if scale < 1:
                image = image.resize((width, height), Image.Resampling.BOX)
            whole.paste(image.convert(mode), (place * (width + gap), line * (height + gap)))
    written = io.BytesIO()
    whole.save(written, format="PNG", optimize=True)
    return written.getvalue()
