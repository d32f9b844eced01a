"""Pack and verify of a bundle with a model of 100 MB, beside `tar` plus `sha256sum` on the same files.

python -m benchmarks.bundle BUNDLE [--runs 9] [--note TEXT]

Whole processes, taken in turn; the files are in the page cache of all of them. Memory is the peak of the process itself
(`VmHWM`, read just before it ends), for what `wait4` says begins with the memory of whoever started it. `tar` and
`sha256sum` leave their output to the page cache; `pack` waits until it is on the disk, and `pack, not flushed` is the
same without that.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd import __version__
from edgekd.bundle import layout, sealing

RESULTS: Final = Path(__file__).parent / "results" / "bundle.csv"
SIZE: Final = 100_000_000
# The command line in a process of its own, which says its peak memory as it ends.
RUN: Final = """
import os, sys
from edgekd.cli.app import app, run
if sys.argv[1] == "--no-flush":
    del sys.argv[1]
    os.fsync = lambda descriptor: None
code = run(lambda: app(sys.argv[1:], standalone_mode=False))
(line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print("peak", int(line.split()[1]) * 1024, file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path, help="a bundle; its FP32 model is replaced by 100 MB")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--note", default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = grow_bundle(asked.source, place / "b")
        files = sorted(path.name for path in folder.iterdir())
        key = place / "release.pem"
        public = place / "release.pub"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
        tar = ["tar", "-C", str(folder), "-cf", str(place / "t.tar"), *files]
        sums = ["sha256sum", *(str(folder / file) for file in files)]
        out = str(place / "b.tar")
        edgekd(["bundle", "pack", str(folder), "--out", out])
        edgekd(["bundle", "sign", out, "--key", str(key)])
        signature = Path(out + ".sig")
        pack = ["bundle", "pack", str(folder), "--out", out, "--force"]
        ways: dict[str, Callable[[], int]] = {
            "tar and sha256sum": lambda: plain(tar) + plain(sums),
            "pack": lambda: edgekd(pack),
            "pack, not flushed": lambda: edgekd(["--no-flush", *pack]),
            "verify": lambda: edgekd(["bundle", "verify", out]),
            "verify, signed": lambda: edgekd(
                ["bundle", "verify", out, "--key", str(public), "--signature", str(signature)]
            ),
            "verify, folder": lambda: edgekd(["bundle", "verify", str(folder)]),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(asked.runs + 1):
            for way, work in ways.items():
                load = os.getloadavg()[0]
                started = time.perf_counter()
                peak = work()
                seconds = time.perf_counter() - started
                if repeat == 0:
                    continue  # that fills caches
                taken[way].append(seconds)
                append_row(
                    RESULTS,
                    {
                        "way": way,
                        "repeat": repeat,
                        "seconds": f"{seconds:.3f}",
                        "peak_bytes": peak or "",
                        "model_bytes": SIZE,
                        "load_before": f"{load:.2f}",
                        "device": processor(),
                        "edgekd": __version__,
                        "note": asked.note,
                    },
                )
    yardstick = statistics.median(taken["tar and sha256sum"])
    for way, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{way:20} median {middle:.3f} s, {middle / yardstick:.2f} of tar and sha256sum")


def grow_bundle(source: Path, folder: Path) -> Path:
    """A bundle like another one whose FP32 model has 100 MB that do not compress."""
    manifest, report = layout.read_manifest(source), layout.read_report(source)
    folder.mkdir()
    for listed in manifest.files:
        (folder / listed.path).write_bytes((source / listed.path).read_bytes())
    fp32 = manifest.models[0]
    with (folder / fp32.path).open("wb") as stream:
        for _ in range(100):
            stream.write(os.urandom(SIZE // 100))
    files = tuple(layout.entry(folder, each.path, each.role) for each in manifest.files)
    digest = next(each.sha256 for each in files if each.path == fp32.path)
    models = (
        replace(fp32, digest=digest, size_bytes=SIZE),
        *(replace(model, made_from=digest) for model in manifest.models[1:]),
    )
    sealing.seal(folder, replace(manifest, files=files, models=models), report, pages={})
    return folder


def plain(command: list[str]) -> int:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 0


def edgekd(arguments: list[str]) -> int:
    """Peak memory in bytes."""
    ran = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], check=True, capture_output=True, text=True
    )
    return int(ran.stderr.rpartition("peak ")[2])


if __name__ == "__main__":
    main()
