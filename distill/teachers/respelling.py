"""Other spellings of a library's network: under a user's wrapper, of an old release, with the head somewhere else.

Every guess is a mapping of names alone. It counts only where all names and shapes are then those of a network in
the index, so that a wrong one finds nothing.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from edgekd.distill.models.parameter_names import PREFIXES
from edgekd.distill.teachers import fingerprints
from edgekd.distill.teachers.checkpoints.checkpoint_contents import WeightSet
from edgekd.distill.teachers.fingerprints import COUNTERS, FingerprintMatch

# Components that are taken off at most
_DEPTH: Final = 8
# Tensors of what may be a head, with a classifier's own hidden layer
_HEAD: Final = 8
# Of a network at its top
_PARTS: Final = 24
# Beside the network in Lightning modules, which answers without them. `acc` or `f1` alone may be a layer
_NOT_OF_THE_NETWORK: Final = re.compile(
    r"^((criterion|criteria|loss|loss_fn|loss_func)|\w*(metrics?|accuracy|confmat|auroc)"
    r"|(train|val|valid|validation|test)_(acc|f1)\w*)(\.|$)"
)
# torchvision before 0.3, whose published files still have these names (its own loader renames them)
_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# Of `nn.Sequential(*list(resnet.children())[:-1])`; what lies between has no tensors
_RESNET_CHILDREN: Final = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}

# File's name by name in the library's spelling
_Names = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Respelt:
    """Weights in a library's spelling, the networks that are spelt so, and what was done, in words."""

    weights: WeightSet
    match: FingerprintMatch
    said: str


def respell(weights: WeightSet) -> Respelt | None:
    """Weights as a library spells them; None where no spelling is a network's, or several are."""
    original = weights.original
    shapes = {name: shape for name, shape in original.items() if not name.endswith(COUNTERS)}
    own = {name: name for name in shapes if not _NOT_OF_THE_NETWORK.match(_inner(name, weights))}
    found: dict[tuple[str, ...], tuple[_Names, FingerprintMatch, str]] = {}
    for names, said in _spellings(own, shapes):
        match = fingerprints.find_match({ours: shapes[theirs] for ours, theirs in names.items()})
        if match is not None and match.members:
            found.setdefault(match.members, (names, match, said))
    if len(found) != 1:
        return None
    names, match, said = found.popitem()[1]
    return Respelt(weights=_renamed(weights, names), match=match, said=said)


def layers_outside(whole: WeightSet, part: WeightSet) -> tuple[str, ...]:
    """Layers of a file beside a part of it that is a whole network: a head behind its classifier, a layer in front.

    Args:
        whole: set of weights of the file.
        part: names below one of its prefixes.

    Returns:
        Names of what may take part in the answer. Other networks (`teacher.`, `ema.`) and losses do not.
    """
    shapes = whole.shapes
    return tuple(
        name
        for name in part.left
        if len(shapes.get(name, ())) > 1
        and not PREFIXES.match(name)
        and not _NOT_OF_THE_NETWORK.match(name)
        and name.rpartition(".")[2] not in {"mean", "std"}
    )


@dataclass(frozen=True, kw_only=True)
class FoundBody:
    """A library's network without its head, and what stands in the head's place."""

    # source:name of those that have it
    members: tuple[str, ...]
    # What all names begin with, and where the body is below that; "" where it is not below a name of its own
    prefix: str
    below: str
    # Names and shapes of the rest, without `prefix`
    rest: Mapping[str, fingerprints.Shape]


def find_body(weights: WeightSet) -> FoundBody | None:
    """The network that all but the head is, under the library's names."""
    original = weights.original
    own = {name: name for name in original if not name.endswith(COUNTERS)}
    for names, prefix in _bared(own):
        firsts = dict.fromkeys(name.partition(".")[0] for name in names)
        if len(firsts) > _PARTS:
            continue
        for first in firsts:
            inside = {name: theirs for name, theirs in names.items() if _first(name) == first}
            if len(inside) in {1, len(names)}:
                continue
            bare = {name[len(first) + 1 :]: original[theirs] for name, theirs in inside.items()}
            members = fingerprints.of_body(bare)
            if members:
                rest = {n: original[theirs] for n, theirs in names.items() if n not in inside}
                return FoundBody(members=members, prefix=prefix, below=first, rest=rest)
        for first in firsts:
            body = {n: original[theirs] for n, theirs in names.items() if _first(n) != first}
            members = fingerprints.of_body(body)
            if members:
                rest = {n: original[theirs] for n, theirs in names.items() if n not in body}
                return FoundBody(members=members, prefix=prefix, below="", rest=rest)
    return None


def _first(name: str) -> str:
    return name.partition(".")[0]


def _inner(name: str, weights: WeightSet) -> str:
    return name.removeprefix(weights.prefix)


def _renamed(weights: WeightSet, names: _Names) -> WeightSet:
    used = set(names.values())
    left = tuple(
        name for name in weights.original if name not in used and not name.endswith(COUNTERS)
    )
    return replace(
        weights,
        prefix="",
        tensors={
            ours: weights.tensors[theirs.removeprefix(weights.prefix)]
            for ours, theirs in names.items()
        },
        left=(*weights.left, *left),
    )


def _spellings(
    own: _Names, shapes: Mapping[str, fingerprints.Shape]
) -> Iterator[tuple[_Names, str]]:
    for names, prefix in _bared(own):
        under = f"all names begin with {prefix[:-1]}" if prefix else ""
        for spelt, said in _bodies(names):
            yield spelt, _join(under, said)
    for names, prefix in _bared(own):
        for linear in _heads(names, shapes):
            body = {ours: theirs for ours, theirs in names.items() if not _is_of(ours, linear)}
            for bare, deeper in _bared(body):
                for spelt, said in _bodies(bare):
                    for head in _places():
                        if any(f"{head}.{part}" in spelt for part in ("weight", "bias")):
                            continue
                        whole = {
                            **spelt,
                            f"{head}.weight": names[f"{linear}.weight"],
                            f"{head}.bias": names[f"{linear}.bias"],
                        }
                        below = f"its body is {(prefix + deeper)[:-1]}" if prefix + deeper else ""
                        told = f"its head is the linear layer {prefix}{linear}"
                        yield whole, _join(below, said, told)


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _bared(names: _Names) -> Iterator[tuple[_Names, str]]:
    """The names, and without one after the other component that all begin with."""
    prefix = ""
    for _ in range(_DEPTH):
        yield names, prefix
        firsts = {name.partition(".")[0] for name in names}
        if len(firsts) != 1 or any("." not in name for name in names):
            return
        first = firsts.pop()
        prefix += f"{first}."
        names = {name[len(first) + 1 :]: theirs for name, theirs in names.items()}


def _bodies(names: _Names) -> Iterator[tuple[_Names, str]]:
    """The names, and as other spellings that are in use would have them."""
    yield names, ""
    for rename, said in _RENAMINGS:
        renamed = {rename(name): theirs for name, theirs in names.items()}
        if renamed.keys() != names.keys() and len(renamed) == len(names):
            yield renamed, said


def _of_resnet(name: str) -> str:
    first, dot, rest = name.partition(".")
    return f"{_RESNET_CHILDREN.get(first, first)}{dot}{rest}"


_RENAMINGS: Final[tuple[tuple[Callable[[str], str], str], ...]] = (
    (lambda name: _DENSENET.sub(r"\1\2", name), "names are those of torchvision before 0.3"),
    (_of_resnet, "parts are numbered, as children of a ResNet in a Sequential"),
    (lambda name: f"features.{name}", "its body is the features of the network"),
    (
        lambda name: f"features.{name.removeprefix('0.')}" if name.startswith("0.") else name,
        "parts are numbered, as children of the network in a Sequential",
    ),
)


def _heads(names: _Names, shapes: Mapping[str, fingerprints.Shape]) -> Iterator[str]:
    """Linear layers that may be the classifier: of a part that has few tensors, with a bias."""
    counts: dict[str, int] = {}
    for name in names:
        first = name.partition(".")[0]
        counts[first] = counts.get(first, 0) + 1
    for name in names:
        linear, dot, part = name.rpartition(".")
        if not dot or part != "weight" or counts[name.partition(".")[0]] > _HEAD:
            continue
        shape, bias = shapes[names[name]], names.get(f"{linear}.bias")
        if len(shape) == 2 and bias is not None and shapes[bias] == shape[:1]:
            yield linear


def _is_of(name: str, linear: str) -> bool:
    return name.rpartition(".")[0] == linear


def _places() -> tuple[str, ...]:
    """What classifiers of one linear layer are called in the index."""
    found: dict[str, None] = {}
    index = fingerprints.load_index()
    for group in index.groups:
        names = [place.name for place in group.classes if place.axis == 0 and place.factor == 1]
        stems = {name.rpartition(".")[0] for name in names}
        if len(names) == len(group.classes) == 2 and len(stems) == 1:
            found[stems.pop()] = None
    return tuple(found)
