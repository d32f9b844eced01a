"""Tables of what export reaches.

    python -m benchmarks.export --table int8 --shared ../shared
    python -m benchmarks.export --table graphs
    python -m benchmarks.export --table time
    python -m benchmarks.export --table costs
    python -m benchmarks.export --table sizes
    python -m benchmarks.export --table cheap --sets FOLDER
    python -m benchmarks.export --table networks [--foreign FOLDER]
    python -m benchmarks.export --table vnni [--foreign FOLDER]
    python -m benchmarks.export --table parser [--set nodes] [--anew] [--rtx-python PYTHON]

Each writes benchmarks/results/export-<table>.csv: int8, networks, vnni, time, costs and sizes anew, cheap, graphs and parser what is missing in it. `--shared` is the
folder with the real data and the third-party teachers, which are not part of edgekd; what is made of them is kept in
out/benchmarks.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.export import cheap, costs, graphs, int8, networks, sizes, timing, vnni
from benchmarks.export import parser as nvidia
from edgekd.distill.compute.device import choose_compute

RESULTS = Path(__file__).parents[1] / "results"
CACHE = Path("out") / "benchmarks"
Table = Callable[[argparse.Namespace, Callable[[str], None]], None]
TABLES: Final[dict[str, Table]] = {
    "int8": int8.table,
    "cheap": cheap.table,
    "networks": networks.table,
    "vnni": vnni.table,
    "graphs": graphs.table,
    "time": timing.table,
    "costs": costs.table,
    "sizes": sizes.table,
    "parser": nvidia.table,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--sets", type=Path, default=CACHE, help="sets of synthesize, for --table cheap"
    )
    parser.add_argument("--subject", help="the only network, for --table cheap")
    parser.add_argument(
        "--foreign",
        type=Path,
        help="weights of others, for --table networks and vnni (see the former's module)",
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", choices=TABLES, required=True)
    nvidia.add_options(parser)
    options = parser.parse_args()
    options.place = choose_compute("cpu", threads=options.threads)
    TABLES[options.table](options, say)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


main()
