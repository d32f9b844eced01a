"""Image files that nobody vouches for, decoded by the formats that are promised and by no other."""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekd.distill.data.untrusted_arrays import as_input_errors, open_file, require_memory
from edgekd.errors import InputFileError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow warns from here on that it may be an attack, and goes on
MOST_PIXELS: Final = 89_478_485
# Bytes of a pixel in memory, beside what the decoder holds
_PIXEL_BYTES: Final = 4


@dataclass(frozen=True, kw_only=True)
class OpenedPicture:
    """The first picture of a file, decoded whole."""

    image: "Image"
    # Pillow's name of it: "PNG"
    format: str
    # Pictures in the file
    frames: int


def open_picture(path: Path, *, suffixes: Sequence[str]) -> OpenedPicture:
    """The first picture of a file, decoded whole: nothing is read from the file afterwards.

    Args:
        path: of the file.
        suffixes: of the formats that are promised: `.png`. The content decides, not the name of the file.

    Raises:
        InputFileError: not a picture of these formats, damaged, cut short, or of too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    known = Image.registered_extensions()
    formats = sorted({known[suffix] for suffix in suffixes if suffix in known} & set(Image.OPEN))
    with (
        open_file(path) as stream,
        as_input_errors(path, "not an image that can be read"),
        _without_words(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        # Its own check of pixels comes first, as a warning or as an error
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(stream, formats=formats)
        except UnidentifiedImageError as error:
            raise InputFileError(
                f"{path}: not an image that can be read (none of {', '.join(formats)})."
            ) from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(path) from error
        if image.width * image.height > MOST_PIXELS:
            raise _too_large(path)
        require_memory(path, image.width * image.height * _PIXEL_BYTES)
        image.load()
        # Counted after: the first is then still the one that is decoded
        frames = int(getattr(image, "n_frames", 1))
        return OpenedPicture(image=image, format=image.format or "", frames=frames)


def _too_large(path: Path) -> InputFileError:
    return InputFileError(
        f"{path}: an image of more than {MOST_PIXELS:,} pixels. Make it smaller first."
    )


@contextlib.contextmanager
def _without_words() -> Iterator[None]:
    """Keep off the terminal what libraries in C print beside the error that they report."""
    try:
        kept = os.dup(2)
    except OSError:
        # Closed by whoever started us: nothing can be printed
        yield
        return
    sys.stderr.flush()
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
