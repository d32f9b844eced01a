"""The batch-norm layers of a `.pt2` program, under the names of the exported network."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekd.distill.teachers.pt2.operators import BATCH_NORM, aten_name
from edgekd.distill.teachers.pt2.records import Archive, Node, Value


def norm_name(node: Node, attributes: Mapping[str, str]) -> str:
    """The name of a batch-norm node's layer: that of its statistics.

    Raises:
        ValueError: the node has no stored statistics.
    """
    mean = node.arguments.get("running_mean")
    path = attributes.get(mean.name, "") if isinstance(mean, Value) else ""
    if not path:
        raise ValueError(
            "a batch-norm layer has no running statistics of its own: it was exported in training mode, "
            "or keeps none. Export again after model.eval()"
        )
    return path.removesuffix(".running_mean") if "." in path else f"{path}_layer"


def build_norms(archive: Archive, tensors: Mapping[str, Tensor]) -> dict[str, _BatchNorm]:
    layers: dict[str, _BatchNorm] = {}
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    for node in archive.nodes:
        if aten_name(node.target) not in BATCH_NORM:
            continue
        name = norm_name(node, archive.attributes)

        def find_buffer(argument: str, node: Node = node) -> Tensor | None:
            value = node.arguments.get(argument)
            if value is None:
                return None
            if not isinstance(value, Value) or value.name not in archive.attributes:
                raise ValueError(f"the {argument} of a batch-norm layer is computed, not stored")
            return tensors[archive.attributes[value.name]]

        mean, variance = find_buffer("running_mean"), find_buffer("running_var")
        weight, bias = find_buffer("weight"), find_buffer("bias")
        data, eps = (
            node.arguments["input"],
            node.arguments.get("eps", node.arguments.get("epsilon")),
        )
        if mean is None or variance is None or not isinstance(data, Value):
            raise ValueError(f"{name} has no running statistics")
        if not isinstance(eps, int | float):
            raise TypeError(f"the eps of {name} is no number")
        affine = weight is not None or bias is not None
        layer = kinds[len(archive.metas[data.name].sizes)](len(mean), eps=float(eps), affine=affine)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(_as_long(name, mean, mean))
        layer.running_var.copy_(_as_long(name, variance, mean))
        if affine:
            nn.init.ones_(layer.weight) if weight is None else layer.weight.data.copy_(
                _as_long(name, weight, mean)
            )
            nn.init.zeros_(layer.bias) if bias is None else layer.bias.data.copy_(
                _as_long(name, bias, mean)
            )
        counted = tensors.get(f"{name}.num_batches_tracked")
        if counted is not None and layer.num_batches_tracked is not None and counted.ndim == 0:
            layer.num_batches_tracked.copy_(counted)
        layers[name] = layer
    return layers


def _as_long(name: str, tensor: Tensor, other: Tensor) -> Tensor:
    if tensor.shape != (len(other),):
        raise ValueError(
            f"{name} has statistics of shapes {tuple(tensor.shape)} and {tuple(other.shape)}"
        )
    return tensor
