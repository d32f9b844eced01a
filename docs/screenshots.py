"""Pictures of a bundle's report.html: `python docs/screenshots.py BUNDLE [FOLDER]`.

Also how the tests look at a page: headless Chromium, driven by its command line alone.
"""

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTHS = (360, 800, 1400)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--enable-logging=stderr",
)
# Headless Chromium makes no window narrower than about 500 pixels, so the page lies in a frame of
# the width that is asked for. Its text is untouched, its own policy included.
HOST = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0; background: #888 }}
iframe {{ display: block; border: 0; width: {width}px; height: {height}px }}</style>
<iframe srcdoc="{page}"></iframe><script>
addEventListener("load", () => {{
  const inner = document.querySelector("iframe"), seen = inner.contentDocument, root = seen.documentElement;
  const wide = [...seen.querySelectorAll("body *")].filter(
    (part) => !part.closest("svg") && part.getBoundingClientRect().right > inner.contentWindow.innerWidth + 0.5);
  const found = {{
    innerWidth: inner.contentWindow.innerWidth, scrollWidth: root.scrollWidth, height: root.scrollHeight,
    wide: wide.map((part) => part.tagName + "." + part.className),
    images: [...seen.images].map((image) => [image.naturalWidth, image.complete, image.alt]),
    ground: getComputedStyle(seen.body).backgroundColor, ink: getComputedStyle(seen.body).color,
    requests: inner.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name),
    charts: [...seen.querySelectorAll("svg")].map((chart) => chart.getBoundingClientRect().height),
  }};
  const told = document.createElement("pre");
  told.id = "found"; told.hidden = true; told.textContent = JSON.stringify(found);
  document.body.append(told);
}});</script>
"""


def browser() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def _run(page: str, *flags: str, width: int, height: int) -> tuple[str, str]:
    """Standard output and error of a browser that loaded the page in a frame of that size."""
    executable = browser()
    if executable is None:
        raise SystemExit(f"No browser: install one of {', '.join(NAMES)}.")
    with tempfile.TemporaryDirectory() as folder:
        host = Path(folder) / "host.html"
        host.write_text(HOST.format(width=width, height=height, page=html.escape(page)))
        done = subprocess.run(
            [executable, *FLAGS, f"--user-data-dir={folder}/profile", *flags, host.as_uri()],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env={**os.environ, "HOME": folder},
        )
    return done.stdout, done.stderr


def look(page: str, *, width: int, dark: bool = False) -> dict:
    """What a browser makes of a page: sizes, images, colours, and what it complained of."""
    flags = [f"--window-size={max(width, 500)},800", "--dump-dom", *_scheme(dark)]
    out, err = _run(page, *flags, width=width, height=800)
    told = re.search(r'<pre id="found"[^>]*>(.*?)</pre>', out, re.DOTALL)
    if told is None:
        raise RuntimeError(f"the browser said nothing: {err[-2000:]}")
    complaints = [line for line in err.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(told[1])), "complaints": complaints}


def shoot(page: str, out: Path, *, width: int, dark: bool = False) -> None:
    """The whole page as a PNG of few colours."""
    height = look(page, width=width, dark=dark)["height"]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        flags = [f"--window-size={max(width, 500)},{height}", f"--screenshot={raw}", *_scheme(dark)]
        _run(page, *flags, width=width, height=height)
        with Image.open(raw) as taken:
            shown = taken.convert("RGB").crop((0, 0, width, height))
    few = shown.quantize(192, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(out, optimize=True)


def _scheme(dark: bool) -> list[str]:
    # blink's PreferredColorScheme: 0 is dark, 1 is light.
    return [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "images")
    parser.add_argument("--dark", action="store_true")
    asked = parser.parse_args()
    page = (asked.bundle / "report.html").read_text(encoding="utf-8")
    asked.folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        out = asked.folder / f"report-{width}{'-dark' if asked.dark else ''}.png"
        shoot(page, out, width=width, dark=asked.dark)
        print(f"{out}: {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
