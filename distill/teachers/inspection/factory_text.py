"""A factory for a network whose body is known, written out as far as the file's names say."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgekd.distill.models.parameter_names import Shape
from edgekd.distill.teachers import fingerprints
from edgekd.distill.teachers.respelling import FoundBody

FACTORY = "make"


def factory_path(weights: Path) -> Path:
    """Where the factory of a file belongs: beside it."""
    return weights.with_name(f"{weights.stem}_net.py")


def factory_text(weights: Path, body: FoundBody) -> str | None:
    """The text of that file; None where the head is of layers that are not written out.

    Args:
        weights: the file, for its name.
        body: what is known, and what is not.
    """
    # torchvision's is likelier than a namesake with other strides; the others are said
    first, *others = sorted(body.members, key=lambda name: not name.startswith("torchvision:"))
    source, _, name = first.partition(":")
    head = fingerprints.head_of(first)
    stem, layers = _layers(body.rest)
    if not head or not layers:
        return None
    made = (
        f"torchvision.models.{name}()"
        if source == "torchvision"
        else f'timm.create_model("{name}")'
    )
    sequential = "\n".join(f"        {line}" for line in layers)
    lines = [
        f'"""The network of {weights.name}, as far as its names say.',
        "",
        "Layers without weights leave no trace in a file: look at every line with CHECK, and at what forward does. Then:",
        f"edgekd teacher check {weights.name} --arch {factory_path(weights).name}:{FACTORY} ... on some labelled images.",
        '"""',
        "",
        f"import {source}",
        "from torch import Tensor, nn",
        "",
        "",
        "def head() -> nn.Module:",
        "    return nn.Sequential(",
        sequential,
        "    )",
        "",
        "",
        f"def {FACTORY}() -> nn.Module:",
        f"    body = {made}" + (f"  # CHECK: or {', '.join(others)}" if others else ""),
    ]
    if not body.below:
        return "\n".join([*lines, f"    body.{stem or head} = head()", "    return body", ""])
    inside = [
        f"    body.{head} = nn.Identity()",
        "    return Classifier(body)",
        "",
        "",
        "class Classifier(nn.Module):",
        "    def __init__(self, body: nn.Module) -> None:",
        "        super().__init__()",
        f"        self.{body.below} = body",
        f"        self.{stem} = head()",
        "",
        "    def forward(self, images: Tensor) -> Tensor:",
        f"        return self.{stem}(self.{body.below}(images))  # CHECK: pooling, normalisation",
        "",
    ]
    return "\n".join([*lines, *inside])


def _layers(rest: Mapping[str, Shape]) -> tuple[str, list[str]]:
    """Where the head is, and its layers as lines of a Sequential; none where it is no Sequential."""
    parts: dict[str, dict[str, Shape]] = {}
    for name, shape in rest.items():
        where, _, tensor = name.rpartition(".")
        parts.setdefault(where, {})[tensor] = shape
    stems = {where.rpartition(".")[0] for where in parts}
    places = {where.rpartition(".")[2] for where in parts}
    if len(stems) != 1 or not all(place.isdecimal() and int(place) < 64 for place in places):
        return "", []
    stem = stems.pop()
    by_place = {int(where.rpartition(".")[2]): tensors for where, tensors in parts.items()}
    if not stem or "." in stem:
        return "", []
    return stem, list(_lines(by_place))


def _lines(by_place: Mapping[int, Mapping[str, Shape]]) -> Iterator[str]:
    weighted = False
    for place in range(max(by_place) + 1):
        tensors = by_place.get(place)
        if tensors is None:
            # After a layer with weights an activation is likelier than a dropout, which changes nothing here
            yield (
                "nn.ReLU(),  # CHECK: which activation?"
                if weighted
                else "nn.Identity(),  # CHECK: nothing with weights (dropout, flatten)"
            )
            weighted = False
            continue
        shape = tensors.get("weight", ())
        bias = "" if "bias" in tensors else ", bias=False"
        if "running_mean" in tensors:
            yield f"nn.BatchNorm1d({tensors['running_mean'][0]}),"
        elif len(shape) == 2:
            yield f"nn.Linear({shape[1]}, {shape[0]}{bias}),"
        else:
            yield f"nn.LayerNorm({shape[0] if shape else 0}),  # CHECK"
        weighted = True
