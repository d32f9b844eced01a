"""Reshapes of a converted model whose sizes are constants, with those sizes as numbers.

onnx2torch (1.5.15) looks at the values of a tensor of sizes at each pass. So the passes can neither be counted without memory,
nor be exported again.
"""

from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule


class Reshape(nn.Module):
    """ONNX's Reshape: 0 keeps a size, -1 is what is left."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, images: Tensor) -> Tensor:
        """Reshape a tensor of any shape."""
        sizes = [images.shape[at] if size == 0 else size for at, size in enumerate(self.sizes)]
        return images.reshape(sizes)


def fix_reshapes(module: GraphModule) -> None:
    """Replace reshapes to constant sizes, in place."""
    from onnx2torch.node_converters.reshape import OnnxReshape

    for node in module.graph.nodes:
        if node.op != "call_module" or len(node.args) != 2:
            continue
        if not isinstance(module.get_submodule(node.target), OnnxReshape):
            continue
        sizes = _constant(module, node.args[1])
        if sizes is not None:
            module.set_submodule(node.target, Reshape(sizes))
            node.args = node.args[:1]
    module.graph.eliminate_dead_code()
    module.recompile()


def _constant(module: GraphModule, node: Any) -> tuple[int, ...] | None:  # noqa: ANN401
    if node.op != "get_attr":
        return None
    found: Any = module
    for part in node.target.split("."):
        found = getattr(found, part)
    return tuple(int(size) for size in found.tolist())
