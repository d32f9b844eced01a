"""One run of an ONNX file by ONNX Runtime in a process of its own: `python -m edgekd.export.trial_process FILE`.

Its answer is a line of JSON on stdout. Native code reads files here that nobody vouches for; where it dies or
does not end, only this process does.
"""

import ctypes
import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

# Of prctl(2)
_PR_SET_PDEATHSIG: Final = 1
_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(uint64)": np.uint64,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def main() -> int:
    """Run a file on zeros and on noise, and say how far it came."""
    path, memory_bytes = Path(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        # Who asked may be killed, and nobody would end this then.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if memory_bytes:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    sys.stdout.write(json.dumps(_run(path)) + "\n")
    sys.stdout.flush()
    return 0


def _run(path: Path) -> dict[str, Any]:
    """`stage` says where it ended: "session", "inputs" (none can be made), "run" or "done"."""
    from edgekd.errors import EdgekdError
    from edgekd.export.parity import session

    try:
        running = session(path, few=True)
    except EdgekdError as error:
        return {"stage": "session", "error": str(error)}
    except MemoryError:
        return {"stage": "memory", "error": "memory"}
    takes = running.get_inputs()
    types = [entry.type for entry in takes]
    if not set(types) <= set(_TYPES):
        return {"stage": "inputs", "error": f"it takes {', '.join(types)}"}
    # Sizes that are open beside the batch can be anything, and a guess may not suit
    guessed = any(not isinstance(size, int) for entry in takes for size in entry.shape[1:])
    finite = True
    for noise in (False, True):
        given = {entry.name: _values(entry, noise=noise) for entry in takes}
        try:
            found = running.run(None, given)
        except MemoryError:
            return {"stage": "memory", "error": "memory"}
        except Exception as error:  # onnxruntime's errors share no class with a name
            return {"stage": "run", "error": str(error), "guessed": guessed}
        finite &= all(
            bool(np.isfinite(each).all())
            for each in found
            if isinstance(each, np.ndarray) and each.dtype.kind == "f"
        )
    return {"stage": "done", "finite": finite}


def _values(entry: Any, *, noise: bool) -> Any:  # noqa: ANN401
    """Zeros or noise of an input's shape: one of what is open, 224 pixels of a side."""
    shape = [
        size if isinstance(size, int) else 1 if place == 0 or len(entry.shape) != 4 else 224
        for place, size in enumerate(entry.shape)
    ]
    kind = np.dtype(_TYPES[entry.type])
    if not noise:
        return np.zeros(shape, kind)
    generator = np.random.default_rng(0)
    if kind.kind == "f":
        return generator.standard_normal(shape, np.float32).astype(kind)
    # Of whole numbers, which may be places in a table, the two that are nearly always there
    return generator.integers(0, 256 if kind == np.uint8 else 2, shape).astype(kind)


if __name__ == "__main__":
    sys.exit(main())
