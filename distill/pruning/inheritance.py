"""Students of the teacher's own family, begun from its weights where names and shapes fit.

The first blocks of a stage are the ones that names match: a ResNet-8 begins with the first block of each stage of a
ResNet-20.
"""

from typing import Final

import torch
from torch import nn

from edgekd.distill.models import architectures, networks
from edgekd.distill.models.batch_norm import batch_norms
from edgekd.distill.models.parameter_names import canonical
from edgekd.distill.models.student_choice import InitialStudent
from edgekd.records import Architecture

# Of a student's parameters; with fewer the rest has to be learned anyway
LEAST_INHERITED: Final = 0.5


def inherit(student: Architecture, teacher: nn.Module, *, seed: int) -> InitialStudent | None:
    """A student with what fits of a teacher's weights, the rest drawn; None: too little fits.

    Args:
        student: whole, not cut.
        teacher: of any architecture.
        seed: of what is drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251  # libraries take no generator
        made = architectures.build(student)
    networks.initialise(made, generator=torch.Generator().manual_seed(seed))
    theirs = {canonical(name): tensor for name, tensor in teacher.state_dict().items()}
    state = made.state_dict()
    fitting = {
        name: theirs[canonical(name)].detach().clone()
        for name, tensor in state.items()
        if canonical(name) in theirs and theirs[canonical(name)].shape == tensor.shape
    }
    parameters = dict(made.named_parameters())
    inherited = sum(parameters[name].numel() for name in fitting if name in parameters)
    if inherited < LEAST_INHERITED * sum(each.numel() for each in parameters.values()):
        return None
    made.load_state_dict({**state, **fitting})
    statistics = all(f"{name}.running_mean" in fitting for name in batch_norms(made))
    return InitialStudent(module=made.eval(), statistics=statistics)
