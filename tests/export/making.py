"""An INT8 file in the shortest way, as tests need one."""

import onnx

from edgekd.export.compatibility import read_graph
from edgekd.export.qdq import ActivationRanges, choose, with_pairs


def write_int8(fp32, *, out, calibration, held_out) -> ActivationRanges:
    """Ranges by the best method, pairs, one file."""
    model = read_graph(fp32)
    found = choose(model, calibration=calibration, held_out=held_out)
    onnx.save(with_pairs(model, found.limits), out)
    return found
