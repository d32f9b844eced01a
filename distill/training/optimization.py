"""Student and optimiser as a run begins with them, and parts of its steps."""

import copy
from collections.abc import Callable, Iterable
from typing import Final

import torch
from torch import Tensor, nn

from edgekd.distill.compute.compiled_forward import Pass, compile_forward
from edgekd.distill.compute.device import Compute
from edgekd.distill.compute.distributed import ProcessGroup
from edgekd.distill.kd_losses import Loss
from edgekd.distill.models import architectures, networks
from edgekd.distill.models.batch_norm import batch_norms
from edgekd.distill.recipes.config import Learning
from edgekd.records import Architecture

# Of tensors that are zero, like new biases
LEAST_SCALE: Final = 0.01


def make_student(
    student: Architecture, *, seed: int, generator: torch.Generator, compute: Compute
) -> nn.Module:
    """A student with its first weights, on the device."""
    # What a library draws beside weights of layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251  # libraries take no generator
        made = architectures.build(student)
    networks.initialise(made, generator=generator)
    return place_student(made, compute)


def place_student(student: nn.Module, compute: Compute) -> nn.Module:
    """A copy on the device, with all its weights to be learned."""
    placed = copy.deepcopy(student).requires_grad_(True)
    placed.to(compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]
    return placed


def make_optimizer(student: nn.Module, learning: Learning) -> torch.optim.Optimizer:
    """The optimiser of a recipe; `set_rate` sets its rate."""
    if learning.optimizer == "adam":
        groups = [
            {"params": [part], "scale": _scale(part) if learning.relative_rate else 1.0}
            for part in student.parameters()
        ]
        return torch.optim.Adam(groups, lr=learning.rate, weight_decay=learning.weight_decay)
    return torch.optim.SGD(
        student.parameters(),
        lr=learning.rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=learning.weight_decay,
    )


def _scale(weights: Tensor) -> float:
    """The root mean square of a tensor: what a step of Adam is a share of, so that no step breaks small weights."""
    return max(LEAST_SCALE, float(weights.detach().square().mean().sqrt()))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next step, of each tensor by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def retention_loss(
    student: nn.Module,
    acquired: Tensor,
    remembered: tuple[Tensor, Tensor],
    *,
    loss: Loss,
    rate: float,
    compute: Compute,
) -> Tensor:
    """Loss on new images plus that on remembered ones after a step on the new (LRA).

    Patel et al., CVPR 2023 ("Learning to Retain while Acquiring"), eq. 5: the gradient goes through
    the inner step, so that a step which would forget is avoided before it is made.

    Args:
        student: whose weights are stepped, and left as they are.
        acquired: its loss on new images.
        remembered: images (M, C, H, W) and what the teacher answers to them (M, K).
        loss: of the recipe.
        rate: of the inner step.
        compute: where, and with whom gradients are averaged.
    """
    names, parameters = zip(*student.named_parameters(), strict=True)
    gradients = compute.group.all_reduce_means(
        torch.autograd.grad(acquired, parameters, create_graph=True)
    )
    moved = {
        name: part - rate * slope
        for name, part, slope in zip(names, parameters, gradients, strict=True)
    }
    images, targets = remembered
    with compute.autocast():
        answers = torch.func.functional_call(student, moved, (images,))
    return acquired + loss(answers, targets)


def all_finite(module: nn.Module) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in module.state_dict().values())


@torch.no_grad()
def average_statistics(learning: Iterable[nn.Module], group: ProcessGroup) -> None:
    """Running statistics of each rank's batches to those of all."""
    found: list[Tensor] = []
    for network in learning:
        for layer in batch_norms(network).values():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            found += [layer.running_mean, layer.running_var]
    group.average(found)


def compile_passes(
    student: nn.Module,
    teacher: nn.Module,
    shape: tuple[int, ...],
    *,
    compute: Compute,
    say: Callable[[str], None],
) -> tuple[Pass, Pass]:
    """The student's and the teacher's forward pass, compiled where they can be.

    Args:
        student: in training; its statistics are as before afterwards.
        teacher: in evaluation mode.
        shape: of a batch, (N, C, H, W).
        compute: where.
        say: takes a warning.
    """
    example = torch.zeros(shape, device=compute.device).to(memory_format=compute.memory_format)
    buffers = {name: each.clone() for name, each in student.named_buffers()}
    answers = compile_forward(student.train(), example, compute=compute, say=say)
    # The trial moved its statistics
    student.load_state_dict(buffers, strict=False)
    with torch.no_grad():
        targets = compile_forward(teacher, example, compute=compute, say=say)
    return answers, targets
