"""Our median latency against that of a C program on ONNX Runtime's C API.

    python -m benchmarks.bench.against_c
    python -m benchmarks.bench.against_c --models resnet18 --pairs 40

A process of the agent and one of the C program (timing.c) run side by side in turns of 0.2 s, which is first being drawn; a pair
gives one ratio of medians. Both have the same file, values, threads, arena, optimisation and rules of warm-up, and the C
program's outputs are held against Python's. Printed is the median of the ratios with a bootstrap interval. To reach: 0.98 to 1.02.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from benchmarks.bench import c_program, subjects
from benchmarks.bench.turns import run_in_turns
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.bench.agent.supervisor import INNER
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.responses import LatencyResponse, read_answer
from edgekd.bench.transport import agent_process
from edgekd.bench.transport.agent_access import AGENT

RESULTS: Final = Path(__file__).parents[1] / "results" / "bench-against-c.csv"
REACH: Final = (0.98, 1.02)
CONFIG: Final = BenchConfig(seconds=4.0, max_runs=200_000)
# Kernels of the two builds of the library may round differently.
TOLERANCE: Final = 1e-5


@dataclass(frozen=True)
class Pair:
    ours_s: float  # medians
    theirs_s: float
    ours_runs: int
    theirs_runs: int

    @property
    def ratio(self) -> float:
        return self.ours_s / self.theirs_s


def ours_command(case: c_program.Case, config: BenchConfig, agent: Sequence[str]) -> list[str]:
    """Words of the process that the agent measures in, without the one that watches it."""
    placed = requests.UploadedModel(str(case.model), None, None)
    question = next(requests.questions([placed], config, "onnxruntime"))
    assert question.kind == "run"
    return [*agent, *question.arguments, INNER]


def check(case: c_program.Case, found: c_program.Timed) -> None:
    """Hold what the C program says against Python.

    Raises:
        RuntimeError: it runs another version, or computes something else.
    """
    if found.version != onnxruntime.__version__:
        raise RuntimeError(f"the library is {found.version}, the module {onnxruntime.__version__}")
    expected = case.expected.ravel()
    scale = float(np.abs(expected).max())
    if found.output.shape != expected.shape or not np.allclose(
        found.output, expected, rtol=0, atol=TOLERANCE * scale
    ):
        raise RuntimeError(f"{case.model.name}: the C program's output differs from Python's")


def interval(ratios: Sequence[float], *, seed: int) -> tuple[float, float]:
    """95 % interval of the median of the ratios, by bootstrap over pairs."""
    draw = np.random.default_rng(seed)
    picked = draw.choice(np.asarray(ratios), size=(10_000, len(ratios)))  # (resamples, pairs)
    low, high = np.percentile(np.median(picked, axis=1), [2.5, 97.5])
    return float(low), float(high)


def take_pair(
    program: Path,
    case: c_program.Case,
    config: BenchConfig,
    *,
    agent: Sequence[str],
    folder: Path,
    ours_first: bool,
) -> Pair:
    """A process of each, in turns.

    Raises:
        RuntimeError: one failed, or the C program computes something else.
    """
    commands = [
        ours_command(case, config, agent),
        c_program.command(program, case, config, folder),
    ]
    if ours_first:
        said, printed = run_in_turns(commands)
    else:
        printed, said = run_in_turns(commands[::-1])
    answers = [read_answer(line, at) for at, line in enumerate(said.encode().splitlines(), 1)]
    ours = agent_process.one(LatencyResponse, answers).values_ns
    theirs = c_program.read(printed, folder)
    check(case, theirs)
    medians = [float(np.median(values)) / 1e9 for values in (ours, theirs.values_ns)]
    return Pair(medians[0], medians[1], len(ours), len(theirs.values_ns))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=subjects.NETWORKS, default=None)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=CONFIG.seconds, help="of timed calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--agent", type=Path, help="another agent's __main__.py")
    parser.add_argument("--note", default="", help="for the rows")
    options = parser.parse_args()
    config = BenchConfig(**{**vars(CONFIG), "seconds": options.seconds, "seed": options.seed})
    agent = (sys.executable, str(options.agent)) if options.agent else AGENT
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = c_program.built(folder)
        cases = {
            model: c_program.case_of(subjects.write(model, folder, seed=options.seed), config)
            for model in options.models or subjects.NETWORKS
        }
        pairs: dict[str, list[Pair]] = {model: [] for model in cases}
        for number in range(options.pairs):
            for model, case in cases.items():
                load = os.getloadavg()[0]
                ours_first = draw.random() < 0.5
                pair = take_pair(
                    program, case, config, agent=agent, folder=folder, ours_first=ours_first
                )
                pairs[model].append(pair)
                print(
                    f"{number + 1}/{options.pairs} {model}: {pair.ratio:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
                append_row(
                    options.results,
                    {
                        "model": model,
                        "pair": number + 1,
                        "first": "ours" if ours_first else "c",
                        "ours_p50_us": f"{pair.ours_s * 1e6:.3f}",
                        "c_p50_us": f"{pair.theirs_s * 1e6:.3f}",
                        "ratio": f"{pair.ratio:.4f}",
                        "ours_runs": pair.ours_runs,
                        "c_runs": pair.theirs_runs,
                        "load_before": f"{load:.2f}",
                        "threads": config.threads,
                        "seconds": config.seconds,
                        "seed": config.seed,
                        "device": processor(),
                        "onnxruntime": onnxruntime.__version__,
                        "commit": commit(),
                        "note": options.note,
                    },
                )
    for line in table(pairs, seed=options.seed):
        print(line)


def table(pairs: dict[str, list[Pair]], *, seed: int) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| model | ours, p50 | C, p50 | ratio | 95 % interval | |", "| --- " * 6 + "|"]
    for model, found in pairs.items():
        ratios = [pair.ratio for pair in found]
        middle = float(np.median(ratios))
        low, high = interval(ratios, seed=seed)
        medians = [
            float(np.median([getattr(pair, name) for pair in found])) * 1e6
            for name in ("ours_s", "theirs_s")
        ]
        verdict = "reached" if REACH[0] <= middle <= REACH[1] else "missed"
        lines.append(
            f"| {model} | {medians[0]:.1f} us | {medians[1]:.1f} us | {middle:.3f} | "
            f"{low:.3f} to {high:.3f} | {verdict} |"
        )
    return lines


if __name__ == "__main__":
    main()
