"""Sets and student folders in the shortest way, as tests of export need them."""

import json

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

from edgekd.distill.data.labelled import normalise
from edgekd.distill.models import architectures
from edgekd.distill.teachers.loader import load_teacher
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.files import digest_of
from edgekd.records import (
    Architecture,
    InputSpec,
    Student,
    SyntheticSet,
    to_json,
)
from edgekd.workflows.distill import coverage_of

UNSAID = TeacherOptions()
SPEC = InputSpec(channels=1, height=28, width=28, mean=(0.1307,), std=(0.3081,))


def write_set(folder, images, teacher, said=UNSAID):
    """A set of a teacher, as `synthesize` writes one, of images (N, H, W, C) that are given."""
    loaded = load_teacher(teacher, said, generator=torch.Generator().manual_seed(0))
    info = loaded.info
    with torch.no_grad():
        logits = loaded.module(torch.from_numpy(normalise(images, info.input)))
    classes = logits.argmax(1).numpy().astype(np.int64)
    folder.mkdir()
    np.save(folder / "images.npy", images)
    np.save(folder / "classes.npy", classes)
    record = SyntheticSet(
        file="images.npy",
        digest=digest_of(folder / "images.npy"),
        count=len(images),
        input=info.input,
        teacher_digest=info.state_digest,
        seed=0,
        coverage=coverage_of(loaded, images, classes),
        classes_file="classes.npy",
        classes_digest=digest_of(folder / "classes.npy"),
    )
    (folder / "set.json").write_text(to_json(record, schema="synthetic-set"))
    return folder


def write_student(folder, name="lenet5-half", change=None):
    """A student's folder of random weights and images, as `distill` writes one; `change` edits the weights."""
    architecture = Architecture(
        source="edgekd", name=name, channels=1, classes=10, height=28, width=28
    )
    with torch.random.fork_rng():
        torch.set_rng_state(torch.Generator().manual_seed(0).get_state())
        state = dict(architectures.build(architecture).state_dict())
    if change is not None:
        change(state)
    folder.mkdir()
    (folder / "student.safetensors").write_bytes(safetensors_bytes(state))
    student = Student(
        checkpoint="student.safetensors",
        digest=digest_of(folder / "student.safetensors"),
        architecture=architecture,
        input=SPEC,
        parameters=0,
        macs=0,
        chosen_because="a test",
        teacher_digest="0" * 64,
        recipe="pool",
        seed=0,
        steps=0,
        precision="fp32",
        agreement=1.0,
        agreement_images=0,
    )
    (folder / "student.json").write_text(to_json(student, schema="student"))
    draw = np.random.default_rng(0)
    for file, count in (("calibration.npy", 64), ("held-out.npy", 32)):
        np.save(folder / file, draw.integers(0, 256, (count, 28, 28, 1), np.uint8))
    return folder


def models_of(folder):
    """What `export` wrote, by precision."""
    record = json.loads((folder / "models.json").read_text())
    return {model["precision"]: model for model in record["models"]}
