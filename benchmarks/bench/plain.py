"""What most people do: mean of 100 calls after 10. Prints seconds; run in a process of its own.

python benchmarks/bench/plain.py MODEL INPUTS.npy
"""

import sys
import time

import numpy as np
import onnxruntime

WARMUP, COUNTED = 10, 100


def main() -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.load(sys.argv[2])}
    for _ in range(WARMUP):
        session.run(None, feed)
    start = time.perf_counter()
    for _ in range(COUNTED):
        session.run(None, feed)
    print((time.perf_counter() - start) / COUNTED)


if __name__ == "__main__":
    main()
