"""What `test_distributed.py` starts in two processes: `torchrun ... distributed_program.py FOLDER`, alone for comparison.

Each rank leaves what it found in FOLDER/<number of ranks>-<rank>.pt.
"""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgekd.distill import losses
from edgekd.distill.compute.device import Compute
from edgekd.distill.compute.distributed import init_process_group
from edgekd.distill.data.given_data import GivenData
from edgekd.distill.data.synthetic_set import SplitSet
from edgekd.distill.kd_losses import SoftTargets
from edgekd.distill.models.batch_norm import watch_batch_norm
from edgekd.distill.recipes.catalogue import RECIPES
from edgekd.distill.recipes.config import adjust
from edgekd.distill.recipes.schedule import RunBudget
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import state_digest
from edgekd.distill.training.checkpoint import RunFolder
from edgekd.distill.training.distiller import Distillation
from edgekd.records import Architecture

MNIST = Path(__file__).parents[3] / "examples" / "mnist"
TEACHER, DIGITS = MNIST / "teacher.pt", MNIST / "test-1000.npz"
# One of each kind of source and memory, and a loss that goes through an inner step.
KINDS = ("pool", "cmi", "nayer", "deep-inversion", "pseudo-replay", "memory-bank", "retaining")
STUDENT = Architecture(
    source="edgekd", name="resnet8-w8", channels=1, classes=10, height=28, width=28
)
BATCH = 16
LEARNED_STEPS = 60


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def sized(name, *, inner):
    """A recipe of the book with everything small."""
    recipe = RECIPES["memory-bank" if name == "retaining" else name]
    return replace(
        recipe,
        source=adjust(
            recipe.source, batch=BATCH, steps=min(recipe.inner_steps, inner), latents=32, width=8
        ),
        memory=adjust(recipe.memory, batches=40, entry=BATCH, latents=16, width=8),
        learning=replace(
            recipe.learning, batch=BATCH, steps=2, inner_rate=0.5 if name == "retaining" else 0.0
        ),
        first_batches=2,
        held_out_every=2,
    )


def run_of(teacher, recipe, compute, *, steps, ahead=None):
    return Distillation(
        teacher,
        STUDENT,
        recipe,
        budget=RunBudget(steps=steps),
        seed=0,
        compute=compute,
        given=GivenData(ahead=ahead),
    )


def of_digits(teacher, compute):
    """A student of real digits, which learns in seconds what of inverted ones takes minutes."""
    digits = np.load(DIGITS)
    images = torch.from_numpy(digits["images"]).permute(0, 3, 1, 2).contiguous()
    classes = torch.from_numpy(digits["labels"]).long()
    ahead = SplitSet(
        images=images[:744],
        classes=classes[:744],
        held_out=images[744:],
        held_out_classes=classes[744:],
    )
    recipe = RECIPES["pool"]
    learning = replace(
        recipe.learning, batch=64, steps=20, optimizer="adam", rate=1e-2, weight_decay=0.0, mix=0.0
    )
    recipe = replace(recipe, learning=replace(learning, loss=SoftTargets(temperature=4.0)))
    return run_of(teacher, recipe, compute, steps=LEARNED_STEPS, ahead=ahead)


def finished(run):
    for _ in run.events():
        pass
    return run


def all_digests(teacher, compute):
    """For each kind of recipe the weights of student, average and generators after two rounds."""
    found = {}
    for name in KINDS:
        run = finished(run_of(teacher, sized(name, inner=2), compute, steps=4))
        parts = (run.student, run.average, *run.synthesizer.networks())
        found[name] = [state_digest(part.state_dict()) for part in parts]
    return found


def gradients(teacher, group):
    """Of the losses that look at a whole batch: to a weight that all share, and to the images."""
    images = torch.rand(BATCH, 1, 28, 28, generator=drawn(1))
    own = images.chunk(group.world_size)[group.rank].requires_grad_()
    shared = torch.zeros(1, 28, 28, requires_grad=True)
    with watch_batch_norm(teacher.module) as statistics:
        logits = teacher.module((own + shared) * 3)
    loss = statistics.distance(first=2.0, group=group) + losses.class_balance(logits, group=group)
    loss.backward()
    group.average_gradients([shared])
    # An image's own gradient is that of its rank's loss: a mean over fewer images.
    return {"loss": loss.detach(), "shared": shared.grad, "images": own.grad / group.world_size}


def continued(teacher, compute, folder):
    """Weights and images of a run that was saved after its first round, and of the whole one."""

    def fresh():
        return run_of(teacher, sized("cmi", inner=2), compute, steps=6)

    def digest(run):
        images = {name: pool.images for name, pool in run.pools()}
        return state_digest({**run.student.state_dict(), **images})

    first, second, group = fresh(), fresh(), compute.group
    with RunFolder.open(folder / "run", {}, restart=False, group=group) as saved:
        next(first.events())
        saved.save(first)
    with RunFolder.open(folder / "run", {}, restart=False, group=group) as saved:
        assert saved.load(second)
    return [digest(finished(run)) for run in (fresh(), second)]


def threads():
    """Names of all that run in this process."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


def main():
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    compute = Compute(
        device=torch.device("cpu"),
        precision="fp32",
        autocast=contextlib.nullcontext,
        backward=lambda loss: loss.backward(),
        group=init_process_group(on_cpu=True),
    )
    teacher = load_teacher(TEACHER, TeacherOptions(), generator=drawn(0))
    learned = finished(of_digits(teacher, compute))
    found = {
        "gradients": gradients(teacher, compute.group),
        "history": [point.agreement for point in learned.history],
    }
    if not compute.group.is_single:
        found["digests"] = all_digests(teacher, compute)
        found["digests"]["digits"] = [state_digest(learned.student.state_dict())]
        found["continued"] = continued(teacher, compute, folder)
    run = finished(run_of(teacher, sized("pool", inner=2), compute, steps=4))
    found["own images"] = run.pool.images
    run.gather()
    if compute.is_main:
        found["images"] = run.pool.images
        found["batches"] = [tuple(pool.images.shape[:2]) for _, pool in run.pools()]
        learned.compute = run.compute
        found["agreement"] = learned.agreement(learned.deliver())
    found["threads"] = threads()
    torch.save(found, folder / f"{compute.world_size}-{compute.rank}.pt")


if __name__ == "__main__":
    main()
