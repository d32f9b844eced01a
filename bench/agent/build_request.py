"""What an engine is asked to be, and which tool can make it so."""

import hashlib
import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from edgekd.bench.agent.golden_vectors import Vectors

# Goes up when the same wish makes another engine; engines of an older recipe are built again.
RECIPE = 1

Wish = NamedTuple(
    "Wish",
    [
        ("model", str),
        ("precision", str),  # fp32, fp16, int8
        ("typing", str),  # weak: the builder chooses types, by flags; strong: they are in the graph
        ("workspace_bytes", int),
        # Inputs whose batch the model leaves open, with the one shape that the engine is for.
        ("open_inputs", List[Tuple[str, List[int]]]),
        ("dla", Optional[int]),  # number of a core; None: the GPU
        ("pinned", List[str]),  # layers that stay in FP32 where types are the builder's choice
        ("timing_cache", Optional[bytes]),
        # GPUs that the engine is for, "8.6"; empty: the one that is here. Only some TensorRT take them.
        ("compute_capabilities", List[str]),
    ],
)
Built = NamedTuple(
    "Built",
    [
        ("plan", bytes),
        ("timing_cache", Optional[bytes]),
        ("unpinned", List[str]),
        ("warnings", List[str]),  # of the builder, each once
    ],
)
Tool = NamedTuple(
    "Tool",
    [
        ("name", str),
        ("tensorrt", str),  # its version, "10.3.0"; of TensorRT-RTX "rtx-1.7.1.116"
        ("build", Callable[[Wish], Built]),
        # A plan and golden vectors to the outputs of each vector.
        ("answers", Callable[[bytes, Vectors], List[List[bytes]]]),
    ],
)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def signature(wish: Wish, model_digest: str, tool: str, workspace_mb: Optional[int]) -> str:
    """A digest of all that decides what is built, but for the board and its software.

    A workspace that follows from the board's free memory is left out: it differs from boot to boot.
    """
    fields: Dict[str, Any] = {
        "recipe": RECIPE,
        "model": model_digest,
        "precision": wish.precision,
        "typing": wish.typing,
        "workspace_mb": workspace_mb,
        "open_inputs": wish.open_inputs,
        "dla": wish.dla,
        "pinned": sorted(wish.pinned),
        "tool": tool,
    }
    if wish.compute_capabilities:
        # Left out otherwise, so that engines of before this field are found again
        fields["compute_capabilities"] = wish.compute_capabilities
    return digest_of(json.dumps(fields, sort_keys=True).encode("ascii"))
