"""Time and memory of `edgekd teacher describe` on a file of 100 MB: the whole process, median of nine.

python benchmarks/describe.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 9
# In a process of its own, so that the memory of making the file is not counted.
MAKE = (
    "import sys, torch; from torchvision import models;"
    "torch.save({'state_dict': models.resnet50(num_classes=365).state_dict()}, sys.argv[1])"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.pth"
        subprocess.run([sys.executable, "-c", MAKE, str(path)], check=True)
        size = path.stat().st_size
        seconds, peaks = [], []
        for _ in range(RUNS):
            started = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "edgekd",
                "teacher",
                "describe",
                str(path),
                "--no-write",
            ]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise SystemExit(f"describe failed: {status}")
            seconds.append(time.perf_counter() - started)
            peaks.append(usage.ru_maxrss * 1024)
        print(
            f"edgekd teacher describe, {size / 1e6:.0f} MB: median {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f} s in {RUNS} runs), "
            f"peak memory {max(peaks) / 1e6:.0f} MB, {max(peaks) / size:.2f} times the file"
        )


if __name__ == "__main__":
    main()
