"""Fit the estimator on published rows, and say how far it is from families that it has not seen.

    python -m benchmarks.bench.estimator --shared ../shared            # fits, prints, writes
    python -m benchmarks.bench.estimator --shared ../shared --check    # fits, prints, writes nothing

Writes `bench/estimator/fits.json`, which is shipped, and `benchmarks/results/bench-estimator.csv`. Networks
are built and exported once; their kernels are kept in `benchmarks/results/bench-kernels.csv`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.bench.fit import Fitted, fit
from benchmarks.bench.references import Row, rows, rows_digest
from benchmarks.bench.zoo import Kernels, kernels_of
from benchmarks.rows import append_row
from edgekd.bench.estimator.estimate import (
    BoardFit,
    Estimator,
    FittedRow,
    errors,
    half_width,
    hangs_on,
)
from edgekd.bench.estimator.latency_model import (
    Machine,
    Work,
    latency_s,
    work_of,
)
from edgekd.files import write_atomically
from edgekd.records import Board, to_json
from edgekd.targets.catalogue import boards as known_boards

REPOSITORY: Final = Path(__file__).parents[2]
SHIPPED: Final = REPOSITORY / "bench" / "estimator.json"
RESULTS: Final = REPOSITORY / "benchmarks" / "results" / "bench-estimator.csv"
KERNELS: Final = REPOSITORY / "benchmarks" / "results" / "bench-kernels.csv"
VERSION: Final = "1"
COMMAND: Final = "python -m benchmarks.bench.estimator --shared ../shared"
# The rows of this board are of its Super mode.
SUPER: Final = frozenset(("jetson-orin-nano-8gb",))
# FP16 lanes and tensor cores of a multiprocessor: Maxwell, Volta and Ampere of Jetson.
CORES: Final = {"5.3": 128, "7.2": 64, "8.7": 128}
# Tiles that were compared: pixels and channels, on tensor cores and on plain ones.
TILES: Final = (((128, 64), (64, 32)), ((64, 64), (64, 32)), ((64, 32), (64, 32)))


def machine_of(board: Board) -> Machine:
    """A board's facts, as the law needs them."""
    ending = "_super" if board.name in SUPER else ""

    def fact(name: str) -> float:
        value = board.facts[name].value
        assert isinstance(value, int | float)
        return float(value)

    return Machine(
        peak_macs_per_s=fact(f"fp16_tflops_dense{ending}") * 1e12 / 2,
        bandwidth_bytes_per_s=fact(f"memory_bandwidth_gb_s{ending}") * 1e9,
        multiprocessors=int(fact("cuda_cores")) // CORES[str(board.facts["sm"].value)],
        tensor_cores=fact("tensor_cores") > 0,
    )


def works_of(
    all_rows: Sequence[Row],
    networks: Mapping[str, Kernels],
    machines: Mapping[str, Machine],
    tiles: tuple[tuple[int, int], tuple[int, int]] = TILES[0],
) -> dict[Row, Work]:
    return {
        row: work_of(
            networks[row.network].kernels,
            machines[row.board],
            row.precision,
            counts=networks[row.network].counts,
            tile=tiles[0] if machines[row.board].tensor_cores else tiles[1],
        )
        for row in all_rows
    }


def predict_left_out(
    all_rows: Sequence[Row], works: Mapping[Row, Work], boards: tuple[str, ...]
) -> dict[Row, float]:
    """Seconds of each row by a fit without its family, on any board and in any precision."""
    found = {}
    for family in sorted({row.family for row in all_rows}):
        fitted = fit([row for row in all_rows if row.family != family], works, boards)
        for row in all_rows:
            if row.family == family:
                found[row] = latency_s(works[row], fitted.constants(*row.where))
    return found


def nested(
    all_rows: Sequence[Row],
    networks: Mapping[str, Kernels],
    machines: Mapping[str, Machine],
    boards: tuple[str, ...],
) -> dict[Row, float]:
    """The same, with the tiles chosen by leaving families out of what is left: nothing has seen the row."""
    works = {tiles: works_of(all_rows, networks, machines, tiles) for tiles in TILES}
    found = {}
    for family in sorted({row.family for row in all_rows}):
        rest = [row for row in all_rows if row.family != family]

        def score(
            tiles: tuple[tuple[int, int], tuple[int, int]], rest: Sequence[Row] = rest
        ) -> float:
            inner = predict_left_out(rest, works[tiles], boards)
            return float(np.median([abs(np.log(inner[row] / row.measured_s)) for row in rest]))

        best = min(TILES, key=score)
        fitted = fit(rest, works[best], boards)
        for row in all_rows:
            if row.family == family:
                found[row] = latency_s(works[best][row], fitted.constants(*row.where))
    return found


def mac_only(all_rows: Sequence[Row], networks: Mapping[str, Kernels]) -> dict[Row, float]:
    """The baseline: seconds proportional to MACs, by the other families of the same board and precision."""
    found = {}
    for row in all_rows:
        rates = [
            np.log(other.measured_s / networks[other.network].macs)
            for other in all_rows
            if other.where == row.where and other.family != row.family
        ]
        if rates:
            found[row] = float(np.exp(np.mean(rates))) * networks[row.network].macs
    return found


def make_estimator(shared: Path) -> tuple[Estimator, dict[Row, float], dict[str, Kernels]]:
    """The constants, the baseline's seconds of each row, and the kernels of each network."""
    all_rows = rows(shared)
    networks = {name: kernels_of(name, KERNELS) for name in sorted({r.network for r in all_rows})}
    by_name = {board.name: board for board in known_boards()}
    names = tuple(sorted({row.board for row in all_rows}))
    machines = {name: machine_of(by_name[name]) for name in names}
    works = works_of(all_rows, networks, machines)
    fitted = fit(all_rows, works, names)
    outs = predict_left_out(all_rows, works, names)
    fits = tuple(
        _board_fit(where, all_rows, works, networks, fitted, outs, machines)
        for where in sorted({row.where for row in all_rows})
    )
    shipped = Estimator(
        version=VERSION, command=COMMAND, rows_digest=rows_digest(shared), fits=fits
    )
    return shipped, mac_only(all_rows, networks), networks


def _board_fit(
    where: tuple[str, str],
    all_rows: Sequence[Row],
    works: Mapping[Row, Work],
    networks: Mapping[str, Kernels],
    fitted: Fitted,
    outs: Mapping[Row, float],
    machines: Mapping[str, Machine],
) -> BoardFit:
    mine = [row for row in all_rows if row.where == where]
    board, precision = mine[0].where
    constants = fitted.constants(board, precision)
    hangs = {row: hangs_on(works[row], constants) for row in mine}
    families = {
        row: [set(hangs[other]) for other in mine if other.family != row.family] for row in mine
    }
    return BoardFit(
        board=board,
        precision=precision,
        machine=machines[board],
        constants=constants,
        software=tuple(dict.fromkeys(row.software for row in mine)),
        power_mode=tuple(dict.fromkeys(row.power_mode for row in mine)),
        sources=tuple(dict.fromkeys(row.source for row in mine)),
        rows=tuple(
            FittedRow(
                model=row.model,
                family=row.family,
                measured_s=row.measured_s,
                fitted_s=float(f"{latency_s(works[row], constants):.6g}"),
                left_out_s=float(f"{outs[row]:.6g}"),
                supported=set(hangs[row]) <= set().union(*families[row]),
                macs=networks[row.network].macs,
                side=row.side,
                kinds=hangs[row],
            )
            for row in mine
        ),
    )


def table(shipped: Estimator, baseline: Mapping[Row, float]) -> list[dict[str, object]]:
    """Errors by board and precision, of left-out families."""
    lines: list[dict[str, object]] = []
    for each in shipped.fits:
        there = [row for row in baseline if row.where == (each.board, each.precision)]
        simple = [abs(baseline[row] / row.measured_s - 1) for row in there]
        for name in ("all", "supported"):
            chosen = tuple(row for row in each.rows if row.supported or name == "all")
            if not chosen:
                continue
            missed = errors(chosen)
            within = [abs(row.measured_s / row.left_out_s - 1) <= 0.4 for row in chosen]
            lines.append(
                {
                    "board": each.board,
                    "precision": each.precision,
                    "rows": name,
                    "count": len(chosen),
                    "families": len({row.family for row in chosen}),
                    "median": f"{np.median(missed):.3f}",
                    "p90": f"{np.percentile(missed, 90):.3f}",
                    "largest": f"{max(missed):.3f}",
                    "interval": f"{half_width(chosen):.3f}",
                    "within_40_percent": f"{np.mean(within):.3f}",
                    "mac_only_median": f"{np.median(simple):.3f}" if simple else "",
                    "mac_only_p90": f"{np.percentile(simple, 90):.3f}" if simple else "",
                }
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--shared", type=Path, default=REPOSITORY.parent / "shared")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument(
        "--nested", action="store_true", help="also choose the tiles without the row"
    )
    options = parser.parse_args()
    shipped, baseline, networks = make_estimator(options.shared)
    lines = table(shipped, baseline)
    for line in lines:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    if options.nested:
        _print_nested(options.shared, shipped, networks)
    if options.check:
        return
    write_atomically(SHIPPED, to_json(shipped, schema="estimator"))
    RESULTS.unlink(missing_ok=True)
    for line in lines:
        append_row(RESULTS, line)


def _print_nested(shared: Path, shipped: Estimator, networks: Mapping[str, Kernels]) -> None:
    all_rows = rows(shared)
    machines = {each.board: each.machine for each in shipped.fits}
    found = nested(all_rows, networks, machines, tuple(sorted(machines)))
    for where in sorted({row.where for row in all_rows}):
        missed = [abs(found[r] / r.measured_s - 1) for r in all_rows if r.where == where]
        print(
            f"nested {' '.join(where)}: median {np.median(missed):.3f} p90 {np.percentile(missed, 90):.3f}"
        )


if __name__ == "__main__":
    main()
