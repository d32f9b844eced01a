"""What a folder carried to a board by hand does there: every question of its plan, the answers into one file."""

import hashlib
import json
import os
import subprocess
import sys
from typing import Any, Callable, Dict, List

from edgekd.bench.agent.errors import RefusedError

FORMAT = 1

Emit = Callable[..., None]


def run_kit(plan: str, out: str, emit: Emit) -> None:
    """Ask each question of a plan in a process of its own.

    Args:
        plan: JSON; file names in its questions are relative to its folder.
        out: where the answers go; written whole, or not at all.
        emit: told of progress.

    Raises:
        RefusedError: the plan cannot be read, or is of another version.
    """
    try:
        with open(plan, "rb") as stream:
            text = stream.read()
        questions = json.loads(text.decode("utf-8"))
        if questions["schema"] != "kit" or questions["schema_version"] != FORMAT:
            raise ValueError("not a plan of format {}".format(FORMAT))
        asked = [
            ([str(word) for word in each["arguments"]], dict(each["environment"]))
            for each in questions["questions"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError("inputs", "{}: {}".format(plan, error)) from error
    program = os.path.abspath(sys.argv[0])
    folder = os.path.dirname(os.path.abspath(plan))
    answers: List[Dict[str, Any]] = []
    for number, (arguments, environment) in enumerate(asked):
        emit("progress", phase=arguments[0], step=number, of=len(asked))
        done = subprocess.run(
            [sys.executable, program, *arguments],
            cwd=folder,
            env=dict(os.environ, **environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
        answers.append(
            {
                "arguments": arguments,
                "code": done.returncode,
                "stdout": done.stdout.decode("utf-8", "replace"),
                "stderr": done.stderr.decode("utf-8", "replace")[-4096:],
            }
        )
    result = {
        "schema": "kit-result",
        "schema_version": FORMAT,
        "plan_sha256": hashlib.sha256(text).hexdigest(),
        "answers": answers,
    }
    part = out + ".part"
    with open(part, "w", encoding="utf-8") as stream:
        json.dump(result, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(part, out)
