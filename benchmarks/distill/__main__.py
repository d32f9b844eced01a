"""Tables of recipes on real data, row by row.

    python -m benchmarks.distill --list
    python -m benchmarks.distill --table mnist --shared ../shared
    python -m benchmarks.distill --try mnist-lenet --recipe pool --minutes 3 --set learning.steps=20

A table appends to benchmarks/results/distill-<table>.csv; rows that stand there are not run again, so a
command that was stopped goes on. Rows are in the order of their worth, the first seed of all before
the second of any. `--try` prints a row and keeps nothing.
"""

import argparse
import ast
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch comes

from benchmarks.distill.page import PAGE, page
from benchmarks.distill.running import Row, run
from benchmarks.distill.sets import real_images
from benchmarks.distill.tables import TABLES
from benchmarks.rows import append_row, read_rows
from edgekd.distill.compute.device import choose_compute

RESULTS = Path(__file__).parents[1] / "results"
CACHE = Path("out") / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distill",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="teachers and condensed sets")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--page", action="store_true", help="write docs/results.md from the CSVs")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--table", choices=TABLES)
    parser.add_argument("--seeds", type=int, help="how many of each row")
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument(
        "--toy",
        action="store_true",
        help="a few steps a row, teachers and results into --cache/toy",
    )
    parser.add_argument("--try", dest="pair")
    parser.add_argument("--recipe", default="pool")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(options.results), encoding="utf-8")
        return
    if options.list or not (options.table or options.pair):
        for name, table in TABLES.items():
            print(f"{name:16} {len(table.rows)} rows x {table.seeds} seeds: {table.about}")
        return
    if options.toy:
        options.cache /= "toy"
    compute = choose_compute(options.device, threads=options.threads)
    where = {"shared": options.shared, "cache": options.cache, "compute": compute}
    sets = lambda row: real_images(row, toy=options.toy, **where)  # noqa: E731
    if options.pair:
        row = Row(
            name="try",
            pair=options.pair,
            recipe=options.recipe,
            minutes=options.minutes,
            steps=options.steps,
            seed=options.seed,
            real=options.real,
            changes=dict(_change(each) for each in options.set),
        )
        found = run(row, say=say, real=sets, show=True, **where)
        print("\n".join(f"{key:24} {value}" for key, value in found.items()))
        return
    table = TABLES[options.table]
    file = (options.cache if options.toy else options.results) / f"distill-{options.table}.csv"
    for row in table.in_order(options.seeds, toy=options.toy):
        if options.only and options.only not in row.name:
            continue
        if (row.name, str(row.seed)) in {(done["name"], done["seed"]) for done in read_rows(file)}:
            continue
        say(f"{options.table}: {row.name}, seed {row.seed}")
        found = run(row, say=say, real=sets, toy=options.toy, **where)
        append_row(file, {**found, "note": options.note})
        say(
            f"  accuracy {found['accuracy']} of {found['teacher_accuracy']} in {found['seconds']} s"
        )


def _change(text: str) -> tuple[str, object]:
    path, _, value = text.partition("=")
    try:
        return path, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return path, value


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


main()
