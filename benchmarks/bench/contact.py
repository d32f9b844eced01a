"""From contact to the first result over ssh, besides the measurement itself.

    python -m benchmarks.bench.contact
    python -m benchmarks.bench.contact --repeats 20

An OpenSSH server on loopback stands in for a board, so the network's share is missing. One clock runs from before the
connection until the first process has answered with times; taken off are its warm-up, its timed calls and the first call, as the
agent tells them. "empty" is a board that edgekd never saw; "known" one that keeps agent and model. The board's shell finds an
empty home, for bash reads .bashrc at every command that comes over ssh; with --own-home it reads this account's. To reach: 3 s.
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import onnxruntime

from benchmarks.bench import subjects
from benchmarks.distill.running import commit
from benchmarks.machine import processor
from benchmarks.rows import append_row
from edgekd.bench import runner
from edgekd.bench.config import BenchConfig
from edgekd.bench.protocol import requests
from edgekd.bench.protocol.responses import LatencyResponse
from edgekd.bench.transport import agent_process
from edgekd.bench.transport.ssh import SshAccess
from edgekd.bench.transport.ssh_address import read_address
from edgekd.files import digest_of
from tests.bench import sshd

RESULTS: Final = Path(__file__).parents[1] / "results" / "bench-contact.csv"
REACH_S: Final = 3.0
MODEL: Final = "resnet8-w8"


def one_contact(server: sshd.Server, model: Path, config: BenchConfig) -> dict[str, float]:
    """Seconds of each part, and bytes that were sent."""
    board = SshAccess(read_address(server.url), python=sys.executable, options=server.options)
    marks = [time.perf_counter()]
    with board:
        marks.append(time.perf_counter())
        runner.probe_machine(board, config)
        marks.append(time.perf_counter())
        placed = requests.UploadedModel(board.place(model), digest_of(model), None)
        marks.append(time.perf_counter())
        question = next(requests.questions([placed], config, "onnxruntime"))
        answers = board.ask(question.arguments, timeout_s=question.seconds + config.timeout_s)
        marks.append(time.perf_counter())
    run = agent_process.one(LatencyResponse, answers)
    assert run.first_ns is not None
    measured_s = run.warmup_s + (run.first_ns + sum(run.values_ns)) / 1e9
    parts = [end - begin for begin, end in pairwise(marks)]
    return {
        "contact_s": parts[0],
        "probe_s": parts[1],
        "place_s": parts[2],
        "answer_s": parts[3] - measured_s,
        "overhead_s": marks[-1] - marks[0] - measured_s,
        "measured_s": measured_s,
        "sent_bytes": sum(size for _, size in board.sent),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=subjects.NETWORKS, default=MODEL)
    parser.add_argument("--repeats", type=int, default=10, help="of both kinds, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-home", action="store_true", help="with this account's .bashrc")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not os.access(sshd.SSHD, os.X_OK):
        parser.error(sshd.REASON)
    config = BenchConfig(seed=options.seed)
    taken: dict[str, list[float]] = {"empty": [], "known": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = subjects.write(options.model, folder, seed=options.seed)
        for repeat in range(options.repeats):
            place = folder / f"board-{repeat}"  # of each repeat, a new board
            place.mkdir()
            home = Path.home() if options.own_home else place
            server = sshd.start(place, f"SetEnv XDG_CACHE_HOME={place / 'cache'} HOME={home}")
            try:
                for board, seconds in taken.items():
                    load = os.getloadavg()[0]
                    parts = one_contact(server, model, config)
                    seconds.append(parts["overhead_s"])
                    print(
                        f"{repeat + 1}/{options.repeats} {board}: {parts['overhead_s']:.2f} s",
                        file=sys.stderr,
                        flush=True,
                    )
                    append_row(
                        options.results,
                        {
                            "model": options.model,
                            "repeat": repeat + 1,
                            "board": board,
                            "home": "own" if options.own_home else "empty",
                            **{
                                key: f"{value:.3f}"
                                for key, value in parts.items()
                                if key != "sent_bytes"
                            },
                            "sent_bytes": int(parts["sent_bytes"]),
                            "load_before": f"{load:.2f}",
                            "seed": config.seed,
                            "device": processor(),
                            "onnxruntime": onnxruntime.__version__,
                            "commit": commit(),
                        },
                    )
            finally:
                sshd.stop(server)
    for board, seconds in taken.items():
        under = sum(each < REACH_S for each in seconds)
        print(
            f"{board}: median {median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s; "
            f"{under} of {len(seconds)} contacts under {REACH_S:g} s"
        )


if __name__ == "__main__":
    main()
