"""How long commands that a pipeline waits for take: whole processes, median of 20 runs after one that is not counted.

python benchmarks/startup.py [BUNDLE]

`edgekd --help`; and, where a bundle is given, `edgekd gate` on it with a limit that it keeps.
"""

import statistics
import subprocess
import sys
import time


def main() -> None:
    commands = [["--help"]]
    if len(sys.argv) > 1:
        commands.append(["gate", sys.argv[1], "--limit", "size-kib=100000"])
    for words in commands:
        seconds = []
        for _ in range(21):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "edgekd", *words], stdout=subprocess.DEVNULL, check=True
            )
            seconds.append(time.perf_counter() - started)
        counted = seconds[1:]
        print(
            f"edgekd {words[0]}: median {statistics.median(counted):.3f} s, "
            f"{min(counted):.3f} to {max(counted):.3f} s in {len(counted)} runs"
        )


if __name__ == "__main__":
    main()
