"""How long `edgekd --help` takes: the whole process, median of 20 runs after one that is not counted.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time


def main() -> None:
    seconds = []
    for _ in range(21):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "edgekd", "--help"], stdout=subprocess.DEVNULL, check=True
        )
        seconds.append(time.perf_counter() - started)
    counted = seconds[1:]
    print(
        f"edgekd --help: median {statistics.median(counted):.3f} s, "
        f"{min(counted):.3f} to {max(counted):.3f} s in {len(counted)} runs"
    )


if __name__ == "__main__":
    main()
