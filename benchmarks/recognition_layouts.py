"""Whether networks are recognised as people fine-tune and save them: under wrappers, with heads of their own, as folders.

python -m benchmarks.recognition_layouts [--seed 0] [--out benchmarks/results/recognition-layouts.csv]

Twenty networks of timm and torchvision with random weights and 17 classes, in nine layouts, and twenty small
classifiers of transformers as folders. Right: edgekd builds the file's network, told the images and nothing else, and the network answers as the
saved one does. Question: it asks which network it is; `factory`: it asks, and the factory that `teacher describe` writes,
unedited, answers as the saved one does. Wrong is everything else: a network that answers otherwise, or another error.
"""

import argparse
import contextlib
import csv
import random
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgekd.distill.models import architectures
from edgekd.distill.teachers import fingerprints
from edgekd.distill.teachers.build_module import build_module, silent
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.errors import EdgekdError, UsageError
from edgekd.records import Architecture
from edgekd.workflows.describe_teacher import describe_teacher, write_toml

CLASSES: Final = 17
NETWORKS: Final = 20
LARGEST: Final = 30_000_000  # parameters
# What classifiers of one linear layer are called in the two libraries
_HEADS: Final = (
    "fc",
    "classifier",
    "head.fc",
    "head",
    "classifier.1",
    "classifier.3",
    "classifier.6",
)

State = dict[str, Tensor]


class Classifier(nn.Module):
    """A body and a head, as fine-tuning scripts write it."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = body
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.backbone(images))
        return answer


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def moved(network: nn.Module, head: str, where: str) -> State:
    """Weights with the linear layer under another name."""
    state = network.state_dict()
    return {
        f"{where}{name[len(head) :]}" if name.startswith(f"{head}.") else name: value
        for name, value in state.items()
    }


def wrapped(network: nn.Module, head: str) -> tuple[object, nn.Module]:  # noqa: ARG001
    return prefixed("timm_model.", network.state_dict()), network


def lightning(network: nn.Module, head: str) -> tuple[object, nn.Module]:  # noqa: ARG001
    state = {
        **prefixed("feature_extractor.", network.state_dict()),
        "criterion.weight": torch.ones(CLASSES),
    }
    return {"state_dict": state, "hyper_parameters": {"lr": 0.1}, "epoch": 3}, network


def deep(network: nn.Module, head: str) -> tuple[object, nn.Module]:  # noqa: ARG001
    return {"model": prefixed("module.visual.trunk.", network.state_dict())}, network


def dropout_head(network: nn.Module, head: str) -> tuple[object, nn.Module]:
    return moved(network, head, f"{head}.1"), network


def body_and_head(network: nn.Module, head: str) -> tuple[object, nn.Module]:
    body = {n: v for n, v in network.state_dict().items() if not n.startswith(f"{head}.")}
    linear = network.get_submodule(head).state_dict()
    return {"state_dict": {**prefixed("backbone.", body), **prefixed("head.", linear)}}, network


def mmpretrain(network: nn.Module, head: str) -> tuple[object, nn.Module]:
    body = {n: v for n, v in network.state_dict().items() if not n.startswith(f"{head}.")}
    linear = network.get_submodule(head).state_dict()
    state = OrderedDict({**prefixed("backbone.", body), **prefixed("head.fc.", linear)})
    return {"meta": {"epoch": 3}, "state_dict": state, "message_hub": {"log_scalars": {}}}, network


def two_linears(network: nn.Module, head: str) -> tuple[object, nn.Module]:
    linear = network.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    width = linear.in_features
    network.set_submodule(head, nn.Identity())
    made = Classifier(
        network,
        nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)),
    )
    return made.eval().state_dict(), made


def two_linears_in_place(network: nn.Module, head: str) -> tuple[object, nn.Module]:
    linear = network.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    network.set_submodule(
        head,
        nn.Sequential(
            nn.Dropout(), nn.Linear(linear.in_features, 32), nn.ReLU(), nn.Linear(32, CLASSES)
        ),
    )
    return {"net": network.eval().state_dict()}, network


def with_words(network: nn.Module, head: str) -> tuple[object, nn.Module]:  # noqa: ARG001
    name = str(getattr(network, "edgekd_name", ""))
    return {"state_dict": network.state_dict(), "arch": name.partition(":")[2], "epoch": 9}, network


LAYOUTS: Final[dict[str, Callable[[nn.Module, str], tuple[object, nn.Module]]]] = {
    "a wrapper's name": wrapped,
    "Lightning, a name of its own": lightning,
    "names in names": deep,
    "dropout and linear": dropout_head,
    "body and head": body_and_head,
    "mmpretrain": mmpretrain,
    "two linears": two_linears,
    "two linears in place": two_linears_in_place,
    "arch beside it": with_words,
}


def networks(seed: int) -> Iterator[tuple[str, Callable[[], nn.Module], str, tuple[int, int, int]]]:
    """Name, what builds it, its linear head and its images."""
    entries = fingerprints.load_index().entries
    known = sorted(
        name
        for name, entry in entries.items()
        if entry.kind == "classifier" and entry.parameters <= LARGEST and entry.configurations
    )
    random.Random(seed).shuffle(known)
    found = 0
    for name in known:
        shape = entries[name].configurations[0].input
        source, _, bare = name.partition(":")
        built = Architecture(
            source=source,
            name=bare,
            channels=3,
            classes=CLASSES,
            height=shape[1],
            width=shape[2],  # type: ignore[arg-type]
        )
        parts = dict(architectures.build(built).named_modules())
        head = next((each for each in _HEADS if isinstance(parts.get(each), nn.Linear)), None)
        if head is not None:
            yield name, lambda built=built: architectures.build(built).eval(), head, shape  # type: ignore[misc]
            found += 1
        if found == NETWORKS:
            return


def folders() -> Iterator[tuple[str, nn.Module]]:
    """Small classifiers of transformers, none with the sizes of another."""
    import transformers

    for number in range(5):
        width = 16 + 8 * number
        made: dict[str, dict[str, Any]] = {
            "ResNet": {"embedding_size": width, "hidden_sizes": [width, 2 * width], "depths": [1, 2]},
            "ViT": {
                "hidden_size": 3 * width, "num_attention_heads": 3, "num_hidden_layers": 2,
                "intermediate_size": 4 * width, "image_size": 32, "patch_size": 8,
            },
            "MobileNetV2": {"depth_multiplier": 0.35 + 0.1 * number, "image_size": 32},
            "ConvNext": {"hidden_sizes": [width, width, 2 * width, 2 * width], "depths": [1, 1, 1, 1]},
        }  # fmt: skip
        for kind, given in made.items():
            config = getattr(transformers, f"{kind}Config")(num_labels=CLASSES, **given)
            yield (
                f"transformers:{kind}",
                getattr(transformers, f"{kind}ForImageClassification")(config),
            )


@torch.no_grad()
def judge(path: Path, network: nn.Module, shape: tuple[int, int, int]) -> str:
    said = TeacherOptions(input=shape, mean=(0.5,), std=(0.25,))
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    expected = network.eval()(images)
    expected = expected if isinstance(expected, Tensor) else expected.logits

    def alike(options: TeacherOptions) -> bool:
        built = build_module(inspect_teacher(path, options), silent).module.eval()
        apart = (built(images) - expected).abs().max()
        return bool(apart <= 1e-4 * expected.abs().max())

    try:
        return "right" if alike(said) else "wrong"
    except UsageError as error:
        if "--arch" not in str(error):
            return "wrong"
    except EdgekdError:
        return "wrong"
    found, known = describe_teacher(path, said)
    write_toml(known, found, force=True)
    factory = path.with_name(f"{path.stem}_net.py")
    if not factory.exists():
        return "question"
    path.with_suffix(".toml").unlink()
    with contextlib.suppress(EdgekdError):
        if alike(TeacherOptions(arch=f"{factory}:make", input=shape, mean=(0.5,), std=(0.25,))):
            return "factory"
    return "question"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/recognition-layouts.csv")
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[tuple[str, str, str]] = []

    def keep(name: str, layout: str, verdict: str) -> None:
        rows.append((name, layout, verdict))
        print(f"{len(rows):3} {name}, {layout}: {verdict}", file=sys.stderr, flush=True)

    for name, build, head, shape in networks(options.seed):
        for layout, save in LAYOUTS.items():
            with tempfile.TemporaryDirectory() as folder:
                network = build()
                network.edgekd_name = name  # type: ignore[assignment]
                content, answering = save(network, head)
                path = Path(folder) / "teacher.pt"
                torch.save(content, path)
                keep(name, layout, judge(path, answering, shape))
    for name, network in folders():
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)  # type: ignore[operator]
            keep(name, "folder of transformers", judge(Path(folder), network, (3, 32, 32)))
    with options.out.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("network", "layout", "verdict"))
        writer.writerows(rows)
    counts = {
        verdict: sum(row[2] == verdict for row in rows)
        for verdict in ("right", "factory", "question", "wrong")
    }
    print(f"{len(rows)} files: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")


if __name__ == "__main__":
    main()
