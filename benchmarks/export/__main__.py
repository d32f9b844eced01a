"""Tables of what export reaches, on real data.

    python -m benchmarks.export --table int8 --shared ../shared
    python -m benchmarks.export --table graphs
    python -m benchmarks.export --table time

Each writes benchmarks/results/export-<table>.csv anew. `--shared` is the folder with the real data and the
third-party teachers, which are not part of edgekd; what is made of them is kept in out/benchmarks.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.distill.running import commit
from benchmarks.export import int8
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.distill.place import choose_place

RESULTS = Path(__file__).parents[1] / "results"
CACHE = Path("out") / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", choices=["int8"], required=True)
    options = parser.parse_args()
    place = choose_place("cpu", threads=options.threads)
    path = options.results / f"export-{options.table}.csv"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    for subject in int8.subjects(options.shared, options.cache, say):
        exact = None
        for found in int8.results(subject, place, say):
            exact = found if exact is None else exact
            lost = exact.right.astype(int) - found.right.astype(int)
            row = {
                "subject": subject.name,
                "method": found.method,
                "images": found.images,
                "weight_bits": found.weight_bits,
                "accuracy": f"{found.right.mean():.4f}",
                "loss_points": f"{100 * lost.mean():.2f}",
                # Paired: only images that one of the two gets right count.
                "loss_sd_points": f"{100 * np.sqrt(np.abs(lost).sum()) / len(lost):.2f}",
                "test_images": len(lost),
                "device": processor(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "commit": commit(),
            }
            append_row(part, row)
            say(f"  {row['accuracy']}, loss {row['loss_points']} ± {row['loss_sd_points']} points")
    part.replace(path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


main()
