#!/usr/bin/env bash
# Pillow 13.0.0: a TIFF that says how it is to be turned is scrambled when it is opened by its name, and right as a stream.
#
# Expected: `Image.open` gives the same pixels whether it is handed a path or an open file. Seen: for uncompressed TIFF files
# whose orientation tag turns the picture by 90 degrees (values 5 to 8, which microscopes and scanners write), the file opened
# by its name has its pixels in rows of the turned width: every row begins in the wrong place, without an error. The same
# bytes as a stream are turned as they should be, and so is the same picture with compression. Who is hurt: whoever evaluates
# or calibrates a classifier on such a folder: accuracy falls, and nothing says why.
#
# Installs pinned packages into a temporary folder (30 MB); fails if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import io
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

ORIENTATION = 274
# What each value asks for, of rows and columns as they are stored (TIFF 6.0, page 36)
TURNED = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
}
stored = np.arange(24, dtype=np.uint8).reshape(4, 6)
path = Path(sys.argv[1]) / "picture.tif"
print(f"Pillow {PIL.__version__}")
wrong = {}
for compression in (None, "tiff_lzw"):
    for value, turn in TURNED.items():
        picture = Image.fromarray(stored)
        exif = picture.getexif()
        exif[ORIENTATION] = value
        picture.save(path, exif=exif, compression=compression)
        for how, opened in (("name", path), ("stream", io.BytesIO(path.read_bytes()))):
            with Image.open(opened) as image:
                found = np.asarray(ImageOps.exif_transpose(image))
            if not np.array_equal(found, turn(stored)):
                wrong.setdefault((compression, how), []).append(value)
for (compression, how), values in wrong.items():
    print(f"  compression {compression}, opened by its {how}: wrong for orientations {values}")
assert wrong == {(None, "name"): [5, 6, 7, 8]}, wrong
print("as found: open such files as streams")
PYTHON
