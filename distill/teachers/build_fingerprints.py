"""Building the index of signatures: `python -m edgekd.distill.teachers.build_fingerprints OUT.json.gz` (an hour of a core).

Run it anew when timm or torchvision grow. Every classifier is built twice on the meta device, with
other class and channel counts: what differs between the two are the head and the first layer, and
the rest is the signature. Names do not identify a function (`efficientnet_b0` and
`tf_efficientnet_b0` share all of theirs), so architectures of one signature are also *run*, in
float64 with the same weights on the same image, and told apart by what they answer.
"""

import contextlib
import hashlib
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.distill.models import architectures
from edgekd.distill.teachers.fingerprints import (
    Configuration,
    FingerprintEntry,
    Group,
    Index,
    ScaledSize,
    body_digest,
    drop_counters,
    names_digest,
    shapes_digest,
    write_index,
)
from edgekd.distill.teachers.published_configurations import configurations_of
from edgekd.records import Architecture

Shape = tuple[int, ...]

# Counts that occur nowhere else at the same place in both builds
CLASSES: Final = (10, 13)
CHANNELS: Final = (3, 5)
# Parameters: float64 copies of more do not fit beside others
LARGEST_COMPARED: Final = 130_000_000
# Of the scale of the answers; some networks compute parts in float32
SAME: Final = 1e-6
# Pixels, where the network takes them
COMPARED_AT: Final = 96


@dataclass(kw_only=True)
class _Built:
    """What two builds of one architecture showed."""

    name: str
    kind: str
    shapes: dict[str, Shape]
    classes: tuple[ScaledSize, ...]
    channels: tuple[ScaledSize, ...]
    parameters: int
    macs: int | None = None
    input: Shape | None = None
    configurations: list[Configuration] = field(default_factory=list)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def names() -> Iterator[tuple[str, str]]:
    """Every architecture as `source:name` with what it is for."""
    import timm
    from torchvision import models

    yield from ((f"timm:{name}", "classifier") for name in timm.list_models())
    classifiers = models.list_models(module=models)
    for name in classifiers:
        for variant in architectures.variants(name):
            yield f"torchvision:{variant}", "classifier"
    for kind in ("detection", "segmentation", "video"):
        module = getattr(models, kind)
        for name in models.list_models(module=module):
            yield f"torchvision:{name}", kind


def build(name: str, kind: str) -> _Built | None:
    """An architecture's signature; None for what cannot be built without a download or at all."""
    first = _module(name, kind, classes=CLASSES[0], channels=CHANNELS[0])
    if first is None:
        return None
    other = _module(name, kind, classes=CLASSES[1], channels=CHANNELS[1])
    if other is None:
        other = _module(name, kind, classes=CLASSES[1], channels=CHANNELS[0])
    if other is None:
        return None
    shapes = _shapes(first)
    compared = _shapes(other)
    if kind != "classifier":
        return _Built(
            name=name,
            kind=kind,
            shapes=shapes,
            classes=(),
            channels=(),
            parameters=sum(part.numel() for part in first.parameters()),
        )
    if shapes.keys() != compared.keys():
        _say(f"  {name}: other names for other counts")
        return None
    classes: list[ScaledSize] = []
    channels: list[ScaledSize] = []
    for part, shape in shapes.items():
        if len(shape) != len(compared[part]):
            return None
        for axis, pair in enumerate(zip(shape, compared[part], strict=True)):
            if pair[0] == pair[1]:
                continue
            for counts, places in ((CLASSES, classes), (CHANNELS, channels)):
                if pair[0] * counts[1] == pair[1] * counts[0] and pair[0] % counts[0] == 0:
                    places.append(ScaledSize(name=part, axis=axis, factor=pair[0] // counts[0]))
                    break
            else:
                _say(f"  {name}: {part} is {pair} for {CLASSES} classes")
                return None
    if not classes:
        # Features without a head
        return None
    found = _Built(
        name=name,
        kind=kind,
        shapes=shapes,
        classes=tuple(classes),
        channels=tuple(channels),
        parameters=sum(part.numel() for part in first.parameters()),
        configurations=list(configurations_of(name)),
    )
    found.input = found.configurations[0].input if found.configurations else None
    found.macs = _macs(first, found.input)
    return found


def _module(name: str, kind: str, *, classes: int, channels: int) -> nn.Module | None:
    source, _, bare = name.partition(":")
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            return _build(source, bare, kind, classes=classes, channels=channels)
    except NotImplementedError:  # RegNets copy values while they are built
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _build(source, bare, kind, classes=classes, channels=channels)
    except Exception as error:  # of hundreds of networks some cannot be built so: they are named
        _say(f"  {name}: not built: {type(error).__name__}: {str(error)[:100]}")
        return None


def _build(source: str, bare: str, kind: str, *, classes: int, channels: int) -> nn.Module:
    if kind != "classifier":
        from torchvision import models

        plain: nn.Module = models.get_model(
            bare, weights=None, num_classes=classes, **_backbone(kind)
        )
        return plain
    side = architectures.required_size(bare) if source == "timm" else None
    height, width = side or (224, 224)
    return architectures.build(
        Architecture(
            source=source,  # type: ignore[arg-type]
            name=bare,
            channels=channels,
            classes=classes,
            height=height,
            width=width,
        )
    )


def _backbone(kind: str) -> dict[str, None]:
    return {} if kind == "video" else {"weights_backbone": None}


def _shapes(module: nn.Module) -> dict[str, Shape]:
    return drop_counters(architectures.shapes_of(module.state_dict()))


def _macs(module: nn.Module, shape: Shape | None) -> int | None:
    if shape is None or next(module.parameters()).device.type != "meta":
        return None
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # Some compute with values
    with contextlib.suppress(Exception), torch.no_grad(), counter:
        module.eval()(torch.zeros(1, *shape, device="meta"))
        return int(counter.get_total_flops()) // 2
    return None


# --- telling architectures of one signature apart ------------------------------------------------


def behaviours(built: list[_Built]) -> list[int]:
    """A number for each: equal where the answers were equal, -1 where they could not be compared."""
    answers: list[Tensor | None] = [_answer(each) for each in built]
    kinds: list[Tensor] = []
    numbers = []
    for answer in answers:
        if answer is None:
            numbers.append(-1)
            continue
        for number, known in enumerate(kinds):
            if known.shape == answer.shape and _close(known, answer):
                numbers.append(number)
                break
        else:
            numbers.append(len(kinds))
            kinds.append(answer)
    return numbers


def _close(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) <= SAME * float(first.abs().max())


@torch.no_grad()
def _answer(built: _Built) -> Tensor | None:
    if built.parameters > LARGEST_COMPARED or built.input is None:
        return None
    source, _, bare = built.name.partition(":")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _build(source, bare, built.kind, classes=CLASSES[0], channels=CHANNELS[0])
        module.eval().double()
        _fill(module)
        for size in (COMPARED_AT, built.input[-1]):
            # A size that it cannot take
            with contextlib.suppress(Exception):
                found = module(_draw("image", (1, CHANNELS[0], size, size)))
                return found if bool(torch.isfinite(found).all()) else None
    except Exception as error:  # as above
        _say(f"  {built.name}: not run: {type(error).__name__}: {error}")
    return None


def _fill(module: nn.Module) -> None:
    """Weights that depend on names and shapes alone, small enough for every epsilon to matter."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = _draw(name, tuple(tensor.shape))
        if name.endswith("running_var"):
            drawn = 0.05 * (1 + 0.5 * torch.tanh(drawn))
        elif tensor.ndim > 1:
            drawn = 0.3 * drawn / (tensor[0].numel() ** 0.5)
        else:
            drawn = 0.05 * drawn + (0.5 if name.endswith("weight") else 0.0)
        tensor.copy_(drawn)


def _draw(name: str, shape: Shape) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


_EPSILON: Final = re.compile(r"\beps=([\d.e-]+)")


def _traits(built: _Built) -> set[str]:
    """Words for what a network is made of: classes of its leaves, and their epsilons."""
    module = _module(built.name, built.kind, classes=CLASSES[0], channels=CHANNELS[0])
    if module is None:
        return set()
    found = {type(module).__name__}
    for part in module.modules():
        if not list(part.children()):
            found.add(type(part).__name__)
            found |= {
                f"{type(part).__name__} eps {value}" for value in _EPSILON.findall(repr(part))
            }
    for option in ("transform_input",):
        if getattr(module, option, False):
            found.add(f"{option}: mean and std are changed inside the network")
    return found


def groups_of(all_built: list[_Built]) -> tuple[list[Group], dict[str, FingerprintEntry]]:
    """Signatures with their members, and what is known of each member."""
    by_signature: dict[tuple[Any, ...], list[_Built]] = defaultdict(list)
    for built in all_built:
        # Only classifiers are told apart by shapes; of the others the names say enough.
        classified = built.kind == "classifier"
        shapes = shapes_digest(built.shapes, built.classes) if classified else built.kind
        by_signature[names_digest(built.shapes), shapes, built.classes].append(built)
    groups, entries = [], {}
    for number, members in enumerate(by_signature.values()):
        first = members[0]
        several = len(members) > 1 and first.kind == "classifier"
        numbers = behaviours(members) if several else [0] * len(members)
        traits: list[set[str]] = (
            [_traits(member) for member in members] if several else [set()] * len(members)
        )
        common = set.intersection(*traits)
        for member, behaviour, own in zip(members, numbers, traits, strict=True):
            entries[member.name] = FingerprintEntry(
                kind=member.kind,
                parameters=member.parameters,
                macs=member.macs,
                behaviour=behaviour,
                apart=tuple(sorted(own - common))[:4],
                configurations=tuple(dict.fromkeys(member.configurations)),
            )
        # torchvision builds for three channels only, and shares signatures with timm.
        channels = max((member.channels for member in members), key=len)
        groups.append(
            Group(
                names=names_digest(first.shapes),
                shapes=shapes_digest(first.shapes, [*first.classes, *channels]),
                body=_body(first, channels),
                classes=first.classes,
                channels=channels,
                members=tuple(member.name for member in members),
            )
        )
        if several:
            told = ", ".join(
                f"{member.name}={behaviour}"
                for member, behaviour in zip(members, numbers, strict=True)
            )
            _say(f"{number + 1}/{len(by_signature)} {told}")
    return groups, entries


def _body(built: _Built, channels: tuple[ScaledSize, ...]) -> str:
    """Digest of all but the head; nothing where the head is not one named part."""
    heads = {place.name.partition(".")[0] for place in built.classes}
    if len(heads) != 1:
        return ""
    return body_digest(built.shapes, heads.pop(), channels)


def main() -> None:
    import timm
    import torchvision

    out = Path(sys.argv[1])
    built = []
    for number, (name, kind) in enumerate(names()):
        found = build(name, kind)
        if found is not None:
            built.append(found)
        if number % 50 == 0:
            _say(f"built {number}: {name}")
    groups, entries = groups_of(built)
    index = Index(
        made_with={"timm": timm.__version__, "torchvision": torchvision.__version__},
        groups=tuple(groups),
        entries=entries,
    )
    write_index(index, out)
    _say(f"{out}: {len(entries)} architectures, {len(groups)} signatures, {out.stat().st_size} B")


if __name__ == "__main__":
    main()
