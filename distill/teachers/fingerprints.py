"""Which architectures of timm and torchvision have these names and shapes, without importing either.

The index is built ahead (`edgekd.distill.teachers.build_fingerprints`) and shipped. A signature is the names and
shapes of a state dict with the sizes that follow the number of classes and of input channels left
out, so that a fine-tuned head matches. One signature can belong to architectures that answer
differently (`efficientnet_b0` and `tf_efficientnet_b0` share all names and shapes); every one of
them is returned, with what sets them apart.
"""

import functools
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

Shape = tuple[int, ...]

FILE: Final = "fingerprints.json.gz"
# Old checkpoints lack them
COUNTERS: Final = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class ScaledSize:
    """A size in a state dict that follows a count: `factor` times the count."""

    name: str
    axis: int
    factor: int


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """How a set of published weights wants its images."""

    # Channels, height, width
    input: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FingerprintEntry:
    """What is known of an architecture."""

    # Classifier, detection, segmentation or video
    kind: str
    # At the library's number of classes
    parameters: int
    # At the first configuration's size; None where it could not be counted
    macs: int | None
    # Equal among the members of a signature: the same function; -1: not compared
    behaviour: int
    # What it has and not all of its signature have
    apart: tuple[str, ...]
    # The library's default first
    configurations: tuple[Configuration, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The architectures of one signature."""

    names: str
    shapes: str
    body: str
    classes: tuple[ScaledSize, ...]
    channels: tuple[ScaledSize, ...]
    members: tuple[str, ...]  # source:name


@dataclass(frozen=True, kw_only=True)
class Index:
    made_with: dict[str, str]
    groups: tuple[Group, ...]
    entries: dict[str, FingerprintEntry]


@dataclass(frozen=True, kw_only=True)
class FingerprintMatch:
    """Architectures that have exactly these names and shapes."""

    members: tuple[str, ...]
    classes: int
    channels: int


# --- digests ------------------------------------------------------------------------------------


def drop_counters(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Without the counters of batch-norm."""
    return {name: shape for name, shape in shapes.items() if not name.endswith(COUNTERS)}


def names_digest(names: Iterable[str]) -> str:
    return _digest("\n".join(sorted(names)))


def shapes_digest(shapes: Mapping[str, Shape], places: Iterable[ScaledSize]) -> str:
    """Of all shapes, with the sizes at `places` left out."""
    open_ = {(place.name, place.axis) for place in places}
    return _digest(
        "\n".join(
            f"{name}:{[0 if (name, axis) in open_ else size for axis, size in enumerate(shape)]}"
            for name, shape in sorted(shapes.items())
        )
    )


def body_digest(shapes: Mapping[str, Shape], head: str, channels: Iterable[ScaledSize]) -> str:
    """Of all parts but those below `head`, a first component of names."""
    body = {name: shape for name, shape in shapes.items() if name.partition(".")[0] != head}
    return shapes_digest(body, channels)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


# --- the file -----------------------------------------------------------------------------------


def write_index(index: Index, path: Path) -> None:
    """Write it compressed, the same bytes for the same index."""
    text = json.dumps(asdict(index), separators=(",", ":"), sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


@functools.cache
def load_index() -> Index:
    """The index that came with edgekd."""
    return _from_plain(
        json.loads(gzip.decompress((resources.files(__package__) / FILE).read_bytes()))
    )


def _from_plain(plain: dict[str, Any]) -> Index:
    return Index(
        made_with=plain["made_with"],
        groups=tuple(
            Group(
                names=group["names"],
                shapes=group["shapes"],
                body=group["body"],
                classes=tuple(ScaledSize(**place) for place in group["classes"]),
                channels=tuple(ScaledSize(**place) for place in group["channels"]),
                members=tuple(group["members"]),
            )
            for group in plain["groups"]
        ),
        entries={
            name: FingerprintEntry(
                kind=entry["kind"],
                parameters=entry["parameters"],
                macs=entry["macs"],
                behaviour=entry["behaviour"],
                apart=tuple(entry["apart"]),
                configurations=tuple(
                    Configuration(
                        input=tuple(each["input"]),
                        mean=tuple(each["mean"]),
                        std=tuple(each["std"]),
                    )
                    for each in entry["configurations"]
                ),
            )
            for name, entry in plain["entries"].items()
        },
    )


# --- looking up ---------------------------------------------------------------------------------


def find_match(
    shapes: Mapping[str, Shape], *, index: Index | None = None
) -> FingerprintMatch | None:
    """Every architecture with these names and shapes; None if there is none.

    Args:
        shapes: of a state dict, names as the library spells them.
        index: another than the shipped one.
    """
    index = index or load_index()
    plain = drop_counters(shapes)
    names = names_digest(plain)
    for group in index.groups:
        if group.names != names or not _fits(group, plain):
            continue
        classes, channels = _count(group.classes, plain), _count(group.channels, plain)
        if classes is not None and channels is not None:
            found = channels or 3
            # torchvision's networks take three channels, whoever shares their signature.
            members = tuple(
                member
                for member in group.members
                if found == 3 or not member.startswith("torchvision:")
            )
            return FingerprintMatch(members=members, classes=classes, channels=found)
    return None


def _fits(group: Group, shapes: Mapping[str, Shape]) -> bool:
    places = (*group.classes, *group.channels)
    return shapes_digest(shapes, places) == group.shapes


def _count(places: tuple[ScaledSize, ...], shapes: Mapping[str, Shape]) -> int | None:
    """The count that all places agree on; 0 where nothing depends on it, None where they differ."""
    counts = {divmod(shapes[place.name][place.axis], place.factor) for place in places}
    if not places:
        return 0
    count, rest = counts.pop()
    return count if not counts and not rest else None


def with_body(shapes: Mapping[str, Shape], *, index: Index | None = None) -> tuple[str, ...]:
    """Architectures that have all of these parts but for the last (a head that was exchanged)."""
    plain = drop_counters(shapes)
    heads = list(dict.fromkeys(name.partition(".")[0] for name in reversed(plain)))[:3]
    for head in heads:
        found = of_body(plain, head=head, index=index)
        if found:
            return found
    return ()


def of_body(
    shapes: Mapping[str, Shape], *, head: str = "", index: Index | None = None
) -> tuple[str, ...]:
    """Architectures whose parts are these, but for those below `head` and below their own head."""
    plain = drop_counters(shapes)
    by_places: dict[tuple[ScaledSize, ...], list[Group]] = {}
    for group in (index or load_index()).groups:
        if group.body:
            by_places.setdefault(group.channels, []).append(group)
    for channels, groups in by_places.items():
        if all(place.name in plain for place in channels):
            digest = body_digest(plain, head, channels)
            found = [group for group in groups if group.body == digest]
            if found:
                return tuple(member for group in found for member in group.members)
    return ()


def head_of(member: str) -> str:
    """First component of the names of a network's classifier (`fc`); "" where it has no single one."""
    for group in load_index().groups:
        if member in group.members:
            heads = {place.name.partition(".")[0] for place in group.classes}
            return heads.pop() if len(heads) == 1 else ""
    return ""


def kind_by_names(names: Iterable[str], *, index: Index | None = None) -> FingerprintMatch | None:
    """The networks that are no classifiers of images and have these names, whatever the shapes."""
    index = index or load_index()
    digest = names_digest(name for name in names if not name.endswith(COUNTERS))
    for group in index.groups:
        if group.names == digest and index.entries[group.members[0]].kind != "classifier":
            return FingerprintMatch(members=group.members, classes=0, channels=0)
    return None
