"""How far repeats of a latency lie apart: the bench's median, and a mean of 100 calls after 10.

    python -m benchmarks.bench.spread
    python -m benchmarks.bench.spread --models resnet8-w8 --repeats 20

A repeat is all processes that `edgekd bench` asks for the latency of a model, with its defaults, and one process of plain.py;
the two take turns. To reach: half of the spread of the mean. A standard deviation of ten has a 95 % interval of 0.69 to
1.83 times itself, so the ratio of two can be anything from half to twice what it is.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

import numpy as np
import onnxruntime

from benchmarks.bench import c_program, plain, subjects
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.bench.analysis import statistics
from edgekd.bench.analysis.aggregate import pool_samples
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.responses import LatencyResponse
from edgekd.bench.transport import agent_process
from edgekd.bench.transport.agent_access import LocalAccess

RESULTS: Final = Path(__file__).parents[1] / "results" / "bench-spread.csv"
MODELS: Final = ("resnet8-w8", "mobilenetv2_050", "resnet18")
REACH: Final = 0.5


def measure_median_s(model: Path, config: BenchConfig) -> float:
    """The median that the bench reports."""
    access = LocalAccess()
    placed = requests.UploadedModel(str(model), None, None)
    asked = [
        each for each in requests.questions([placed], config, "onnxruntime") if each.kind == "run"
    ]
    runs = [
        agent_process.one(
            LatencyResponse,
            access.ask(each.arguments, timeout_s=each.seconds + config.timeout_s),
        )
        for each in asked
    ]
    return statistics.median(pool_samples(runs))


def plain_s(model: Path, inputs: Path) -> float:
    """The mean of the other way."""
    done = subprocess.run(
        [sys.executable, plain.__file__, str(model), str(inputs)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def deviation(values: Sequence[float]) -> float:
    """Relative standard deviation; no unit."""
    return stdev(values) / fmean(values)


def span(values: Sequence[float]) -> float:
    """From the least to the largest, over the mean; no unit."""
    return (max(values) - min(values)) / fmean(values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=subjects.NETWORKS, default=MODELS)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    config = BenchConfig(seed=options.seed)
    draw = random.Random(options.seed)
    taken: dict[str, dict[str, list[float]]] = {
        model: {"bench": [], "plain": []} for model in options.models
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {}
        for model in options.models:
            file = subjects.write(model, folder, seed=options.seed)
            np.save(file.with_suffix(".npy"), c_program.case_of(file, config).values)
            files[model] = file
        for repeat in range(options.repeats):
            for model, file in files.items():
                ways = ["bench", "plain"]
                draw.shuffle(ways)
                for way in ways:
                    load = os.getloadavg()[0]
                    seconds = (
                        measure_median_s(file, config)
                        if way == "bench"
                        else plain_s(file, file.with_suffix(".npy"))
                    )
                    taken[model][way].append(seconds)
                    print(
                        f"{repeat + 1}/{options.repeats} {model} {way}: {seconds * 1e6:.1f} us",
                        file=sys.stderr,
                        flush=True,
                    )
                    append_row(
                        options.results,
                        {
                            "model": model,
                            "repeat": repeat + 1,
                            "way": way,
                            "latency_us": f"{seconds * 1e6:.3f}",
                            "load_before": f"{load:.2f}",
                            "threads": config.threads,
                            "processes": config.processes if way == "bench" else 1,
                            "seed": config.seed,
                            "device": processor(),
                            "onnxruntime": onnxruntime.__version__,
                            "commit": commit(),
                        },
                    )
    for line in table(taken):
        print(line)


def table(taken: dict[str, dict[str, list[float]]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        "| model | sd, range of the bench | sd, range of the mean | ratio of sd, of ranges | |",
        "| --- " * 5 + "|",
    ]
    for model, ways in taken.items():
        ours, other = ways["bench"], ways["plain"]
        ratio = deviation(ours) / deviation(other)
        lines.append(
            f"| {model} | {deviation(ours):.1%}, {span(ours):.1%} | {deviation(other):.1%}, {span(other):.1%} | "
            f"{ratio:.2f}, {span(ours) / span(other):.2f} | {'reached' if ratio <= REACH else 'missed'} |"
        )
    return lines


if __name__ == "__main__":
    main()
