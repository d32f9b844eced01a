"""One image file as bytes (H, W, C): orientation, palettes, transparency, and values beyond 8 bits.

Most values are scaled by their type. Floats and 32-bit integers have no white of their own, so a
set is decoded first and scaled as a whole after. H x W pixels, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgekd.distill.data.untrusted_arrays import as_input_errors
from edgekd.distill.data.untrusted_pictures import open_picture
from edgekd.errors import InputFileError

IMAGE_SUFFIXES: Final = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".tga", ".jp2", ".avif"),
)
_GREY: Final = {"1", "L", "LA", "La", "I", "F"}
# 65535 / 255
_STEP: Final = 257
# Largest value of 12 bits, in which X-ray and depth cameras measure
_TWELVE_BITS: Final = 4095
# Of rounding, beyond 1.0
_SLACK: Final = 1e-3
Depth = Literal["8 bits", "16 bits", "32-bit integers", "floats"]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One file, decoded; to be scaled where it is not of 8 bits."""

    pixels: npt.NDArray[Any]  # (H, W, C)
    depth: Depth
    # What was lost on the way
    remarks: tuple[str, ...] = ()


def decode_image(file: Path, channels: int | None) -> Picture:
    """Read an image file upright.

    Args:
        file: of an image.
        channels: 1 (grey) or 3 (RGB); None for what the file has.

    Raises:
        InputFileError: it cannot be read.
    """
    from PIL import ImageOps

    opened = open_picture(file, suffixes=IMAGE_SUFFIXES)
    kind = opened.format
    with as_input_errors(file, "not an image that can be read"):
        image = ImageOps.exif_transpose(opened.image)
    remarks = ("several pictures in one file: the first is taken",) if opened.frames > 1 else ()
    grey = image.mode in _GREY or image.mode.startswith("I;16")
    wanted = channels or (1 if grey else 3)
    depth = _depth(image.mode, kind)
    if depth != "8 bits":
        # (H, W)
        values = np.asarray(image)
        if depth == "16 bits":
            values = values.astype(np.uint16)
        return Picture(pixels=np.repeat(values[..., None], wanted, 2), depth=depth, remarks=remarks)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            remarks = (*remarks, "transparent in parts: colours are taken as they are stored")
        image = image.convert("RGB")
    pixels = np.asarray(image.convert("L" if wanted == 1 else "RGB"), np.uint8)
    return Picture(
        pixels=pixels.reshape(*pixels.shape[:2], wanted), depth="8 bits", remarks=remarks
    )


def _depth(mode: str, kind: str | None) -> Depth:
    # Pillow opens some files of 16 bits as integers of 32
    if mode.startswith("I;16") or (mode == "I" and kind in {"PNG", "PPM"}):
        return "16 bits"
    return "32-bit integers" if mode == "I" else "floats" if mode == "F" else "8 bits"


def scale_pictures(
    origin: str, pictures: Sequence[Picture]
) -> tuple[list[npt.NDArray[np.uint8]], tuple[str, ...]]:
    """Pictures as bytes, each type on one scale over the whole set, and what there is to say of it.

    Raises:
        InputFileError: values have no known scale.
    """
    notes: list[str] = []
    scales = {"8 bits": 1.0}
    for depth in dict.fromkeys(each.depth for each in pictures):
        if depth == "8 bits":
            continue
        of_depth = [each.pixels for each in pictures if each.depth == depth]
        scales[depth], note = _scale(origin, depth, of_depth)
        notes.append(f"{len(of_depth):,} images of {depth}: {note}")
    for remark in dict.fromkeys(remark for each in pictures for remark in each.remarks):
        count = sum(remark in each.remarks for each in pictures)
        notes.append(f"{count:,} image{'s are' if count > 1 else ' is'} {remark}")
    return [_as_bytes(each.pixels, scales[each.depth]) for each in pictures], tuple(notes)


def scale_array(
    origin: str, images: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Images of any numbers as bytes of the same shape, and what there is to say of it.

    Raises:
        InputFileError: values have no known scale.
    """
    if images.dtype == np.uint8 or not images.size:
        return images, ()
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255), ("values are false and true: 0 and 255",)
    depth: Depth = "floats" if images.dtype.kind == "f" else "32-bit integers"
    if depth == "floats" and not (
        -_SLACK <= float(images.min()) <= float(images.max()) <= 1 + _SLACK
    ):
        raise InputFileError(
            f"{origin}: images are {images.dtype} of {float(images.min()):.4g} to {float(images.max()):.4g}; expected uint8 (N, H, W, C), or "
            "floats of 0..1. Normalised images are not read: edgekd normalises pixels itself."
        )
    if images.dtype == np.uint16 and int(images.max()) > 255:
        depth = "16 bits"
    scale, note = _scale(origin, depth, [images])
    return _as_bytes(images, scale), (f"images are {images.dtype}: {note}",)


def _as_bytes(values: npt.NDArray[Any], scale: float) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    return np.clip(np.rint(values.astype(np.float64) * scale), 0, 255).astype(np.uint8)


def _scale(origin: str, depth: str, values: Sequence[npt.NDArray[Any]]) -> tuple[float, str]:
    """What values are multiplied with to be 0..255, in words too."""
    low, high = float(min(map(np.min, values))), float(max(map(np.max, values)))
    span = f"values from {low:.4g} to {high:.4g}"
    if not np.isfinite([low, high]).all():
        raise InputFileError(f"{origin}: {depth} with values that are NaN or infinite.")
    if low < (-_SLACK if depth == "floats" else 0):
        raise InputFileError(
            f"{origin}: {depth}, {span}: no pixels. Save them as 8 bits, or as floats of 0..1."
        )
    if depth != "16 bits" and high == 0:
        raise InputFileError(
            f"{origin}: {depth} that are all 0; expected uint8 (N, H, W, C) of 0 to 255."
        )
    if depth == "16 bits":
        if 0 < high <= 255:
            raise InputFileError(
                f"{origin}: 16 bits with {span}: all would be black. Save them as 8 bits."
            )
        few = "; no value needs more than 12 bits, are they darker than they should be?"
        return 1 / _STEP, f"65535 is white{few if high <= _TWELVE_BITS else ''}"
    if depth == "floats" and high <= 1 + _SLACK:
        return 255.0, "1 is white"
    if depth != "floats" and high == 1:
        raise InputFileError(
            f"{origin}: {depth} of 0 and 1: black and white, or floats cut off? Save them as uint8, 0 to 255."
        )
    if high <= 255:
        return 1.0, "255 is white"
    if depth != "floats" and high <= 65535:
        return 1 / _STEP, "65535 is white"
    raise InputFileError(
        f"{origin}: {depth}, {span}: nothing says which is white. Save them as uint8, 0 to 255."
    )
