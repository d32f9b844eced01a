r"""Which channels are kept: importances side by side, on the same images, with the same steps.

    edgekd synthesize ../shared/teachers/resnet20-12fca82f.th --input 3x32x32 --mean 0.485,0.456,0.406 \
        --std 0.229,0.224,0.225 --count 1024 --out out/benchmarks/cifar10-set
    python -m benchmarks.distill.importance --images out/benchmarks/cifar10-set

One line each: accuracy on the first 2,000 test images after least squares alone (a step at no rate), and after
`--steps`. What edgekd uses is `magnitude`; the others are here to compare with.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.distill.pairs import PAIRS, accuracy, teacher_of
from edgekd.distill.compute.device import Compute, choose_compute
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.synthetic_set import SplitSet, split_held_out
from edgekd.distill.models.student_choice import InitialStudent
from edgekd.distill.pruning.channel_groups import ChannelGroup
from edgekd.distill.pruning.cut_request import parse_cut
from edgekd.distill.pruning.plan_cut import CutPlanner
from edgekd.distill.recipes.adaptation import for_inherited
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.teachers.loader import Teacher
from edgekd.distill.training.distiller import Distillation
from edgekd.records import CutRequest
from edgekd.workflows.run_setup import image_set

TESTED: Final = 2000
# Images of a batch whose gradients are summed before they are squared
FISHER_BATCH: Final = 16

Score = Callable[[ChannelGroup], Tensor]


def magnitude(group: ChannelGroup) -> Tensor:
    return group.importance


def at_random() -> Score:
    generator = torch.Generator().manual_seed(0)
    return lambda group: torch.rand(group.channels, generator=generator)


def batch_norm_scale(network: nn.Module) -> Score:
    """Network Slimming (Liu et al., ICCV 2017): the scales of the batch-norms that a channel goes through."""

    def score(group: ChannelGroup) -> Tensor:
        found = torch.zeros(group.channels)
        for member in group.members:
            layer = network.get_submodule(member.layer)
            if member.side == "outputs" and isinstance(layer, nn.BatchNorm2d):
                scales = layer.weight.detach().abs()[list(member.positions)]
                found.index_add_(0, torch.tensor(member.channels), scales)
        return found

    return score


def first_order(network: nn.Module, images: Tensor, *, batch: int, squared: bool) -> Score:
    """Taylor terms (Molchanov et al., CVPR 2019) of the loss on what the teacher decides, by weight and then by channel.

    Args:
        network: the teacher.
        images: (N, C, H, W) normalised.
        batch: images whose gradients are summed.
        squared: squares of each batch's terms (Fisher), and not their sum.
    """
    network = copy.deepcopy(network).eval().requires_grad_(True)
    terms: dict[str, Tensor] = {}
    for part in torch.split(images, batch):
        network.zero_grad()
        answer = network(part)
        functional.cross_entropy(answer, answer.argmax(1)).backward()  # type: ignore[no-untyped-call]
        for name, weight in network.named_parameters():
            assert weight.grad is not None
            term = (weight * weight.grad).detach()
            terms[name] = terms.get(name, torch.zeros(())) + (term.square() if squared else term)

    def score(group: ChannelGroup) -> Tensor:
        found = torch.zeros(group.channels)
        for member in group.members:
            for name in ("weight", "bias"):
                term = terms.get(f"{member.layer}.{name}")
                if term is None or (member.side == "inputs" and term.ndim < 2):
                    continue
                term = term.transpose(0, 1) if member.side == "inputs" else term
                sums = term.flatten(1).sum(1) if term.ndim > 1 else term
                chosen = (sums if squared else sums.abs())[list(member.positions)]
                found.index_add_(0, torch.tensor(member.channels), chosen)
        return found

    return score


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distill.importance",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--pair", choices=PAIRS, default="cifar10")
    parser.add_argument("--images", type=Path, required=True, help="of edgekd synthesize")
    parser.add_argument("--cut", default="cut:macs=0.25")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, default=Path("out") / "benchmarks")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    compute = choose_compute("cpu", threads=options.threads)
    pair = PAIRS[options.pair]
    teacher = teacher_of(
        pair, shared=options.shared, cache=options.cache, compute=compute, say=print
    )
    asked = parse_cut(options.cut)
    assert isinstance(asked, CutRequest)
    found = split_held_out(image_set(options.images, teacher.info), origin=str(options.images))
    images, labels = (each[:TESTED] for each in pair.data.tensors(options.shared, "test"))
    shown = pair.data.normalise(found.images)
    network = teacher.module
    scores: dict[str, Score] = {
        "magnitude": magnitude,
        "fisher": first_order(network, shown, batch=FISHER_BATCH, squared=True),
        "taylor": first_order(network, shown, batch=len(shown), squared=False),
        "batch-norm scale": batch_norm_scale(network),
        "at random": at_random(),
    }
    print(f"{options.cut}, {len(shown)} images, {accuracy(network, images, labels):.1%} whole")
    for name, score in scores.items():
        reached = [
            accuracy(_distil(teacher, asked, score, found, steps, compute), images, labels)
            for steps in (1, options.steps)
        ]
        print(f"{name:18} {reached[0]:.1%} -> {reached[1]:.1%} after {options.steps} steps")


def _distil(
    teacher: Teacher, asked: CutRequest, score: Score, found: SplitSet, steps: int, compute: Compute
) -> nn.Module:
    """A part of the teacher with the channels that score most, after so many steps."""
    planner = CutPlanner(
        teacher.module,
        architecture=teacher.info.architecture,
        teacher_digest=teacher.info.state_digest,
    )
    planner.groups = [replace(group, importance=score(group)) for group in planner.groups]
    cut = planner.plan(asked)
    recipe = for_inherited(RECIPES["pool"], statistics=True)
    if steps == 1:
        recipe = replace(recipe, learning=replace(recipe.learning, rate=1e-9))
    run = Distillation(
        teacher,
        replace(teacher.info.architecture, cut=str(asked)),
        recipe,
        budget=RunBudget(steps=steps),
        seed=0,
        compute=compute,
        given=GivenData(ahead=found, initial=InitialStudent(module=planner.apply(cut), cut=cut)),
    )
    for _ in run.events():
        pass
    return run.deliver()


if __name__ == "__main__":
    main()
