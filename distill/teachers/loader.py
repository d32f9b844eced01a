"""The teacher: loading it safely, understanding it, and leaving it as it was."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydantic
import torch
from torch import Tensor, nn

from edgekd.distill.models import student_choice
from edgekd.distill.models.batch_norm import batch_norms
from edgekd.distill.teachers.answers import with_logits
from edgekd.distill.teachers.build_module import build_module, silent
from edgekd.distill.teachers.checkpoints.file_contents import NAMES
from edgekd.distill.teachers.inspection import inspect_teacher
from edgekd.distill.teachers.inspection.kinds import Preprocessing
from edgekd.distill.teachers.metadata import TeacherOptions
from edgekd.distill.teachers.state_dict import state_digest
from edgekd.errors import InputFileError, IntegrityError, UsageError
from edgekd.files import digest_of
from edgekd.records import Architecture, InputSpec, NoiseResponse, TeacherInfo

# Of the largest logit: answers that differ by less are the same
ALIKE: Final = 1e-6
NOISE_IMAGES: Final = 256


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A loaded teacher: evaluation mode, no gradients to parameters. Not a record."""

    module: nn.Module
    info: TeacherInfo
    flip: bool

    def verify_unchanged(self) -> None:
        """Check that nothing has touched the teacher since it was loaded.

        Raises:
            IntegrityError: a parameter or buffer differs.
        """
        if state_digest(self.module.state_dict()) != self.info.state_digest:
            raise IntegrityError(
                "the teacher changed during the run; its batch-norm statistics or weights were written to. "
                "This is a fault of edgekd: please report it with the log."
            )


def load_teacher(
    path: Path,
    options: TeacherOptions,
    *,
    generator: torch.Generator,
    say: Callable[[str], None] = silent,
) -> Teacher:
    """Load a teacher on the CPU and find out what it is.

    Args:
        path: of any file that `file_formats.open_file` knows.
        options: what the command line says; a TOML file beside `path` and an `edgekd` entry inside
            it fill in the rest, in that order, and then what the network's library says.
        generator: for the noise of the preflight.
        say: told before code of the user's is run.

    Raises:
        InputFileError: the file cannot be used, or fits no architecture.
        UsageError: something must be known that no source says; the message names every such option.
    """
    found = inspect_teacher(path, options)
    known = found.known
    # Of a folder, the weights in it
    path = known.path
    fed = known.preprocessing()
    made = build_module(found, say)
    architecture, module = made.architecture, made.module.eval()
    # Scripted modules lack the method for all at once
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    spec = _input_spec(architecture, fed)
    names = known.metadata.options.class_names
    if names is not None and len(names) != architecture.classes:
        raise UsageError(
            f"{known.metadata.origin}: {len(names)} class_names for {architecture.classes} classes."
        )
    size = _size(path, architecture, module)
    layers = batch_norms(module)
    module, answered = with_logits(module, spec)
    info = TeacherInfo(
        file=path.name,
        file_digest=digest_of(path),
        state_digest=state_digest(module.state_dict()),
        architecture=architecture,
        input=spec,
        classes=architecture.classes,
        class_names=names,
        format=NAMES[known.format],
        weights_key=found.taken.weights.key if found.taken is not None else "",
        metadata_from=known.origin,
        architecture_from=made.because,
        parameters=size.parameters or known.parameters,  # a frozen script has constants alone
        macs=size.macs,
        batch_norm_layers=len(layers),
        batch_norm_trained=_trained(layers),
        noise=_noise_response(module, spec, generator=generator),
        notes=(*known.notes, *made.notes, *answered),
    )
    # A mirrored digit is another sign, a mirrored photograph is not; grey images tend to be signs.
    metadata = known.metadata.options.flip
    return Teacher(
        module=module, info=info, flip=metadata if metadata is not None else spec.channels == 3
    )


def _input_spec(architecture: Architecture, fed: Preprocessing) -> InputSpec:
    channels = architecture.channels
    mean = fed.mean * channels if len(fed.mean) == 1 else fed.mean
    std = fed.std * channels if len(fed.std) == 1 else fed.std
    try:
        return InputSpec(
            channels=channels,
            height=architecture.height,
            width=architecture.width,
            mean=mean,
            std=std,
            colour_order={1: "gray", 3: "rgb"}.get(channels, "other"),  # type: ignore[arg-type]
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"input, mean or std cannot be used: {where}: {first['msg']}.") from error


def _size(path: Path, architecture: Architecture, module: nn.Module) -> student_choice.Size:
    """Parameters and multiply-accumulates; the first pass tells whether the network takes this input."""
    height, width = architecture.height, architecture.width
    try:
        return student_choice.size_of(module, shape=(architecture.channels, height, width))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"{path}: {architecture} cannot take images of {height} x {width} pixels ({error}). "
            "Is --input what it was trained on?"
        ) from error


# --- preflight ------------------------------------------------------------------------------------


def _trained(layers: Mapping[str, nn.Module]) -> bool:
    """Whether the statistics moved from where they start (mean 0, variance 1) in every layer."""
    for layer in layers.values():
        mean, variance = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        if bool((mean == 0).all()) and bool((variance == 1).all()):
            return False
    return bool(layers)


@torch.no_grad()
def _noise_response(
    module: nn.Module, spec: InputSpec, *, generator: torch.Generator
) -> NoiseResponse:
    noise = torch.randn(NOISE_IMAGES, *spec.shape, generator=generator)
    logits = torch.cat([module(part) for part in torch.split(noise, 64)])
    if logits.ndim != 2 or not bool(torch.isfinite(logits).all()):
        raise InputFileError(
            f"the teacher answers noise with shape {tuple(logits.shape)} or values that are not finite; "
            "edgekd compresses classifiers that return one row of logits per image."
        )
    confidence, decided = logits.softmax(1).max(1)
    return NoiseResponse(
        images=NOISE_IMAGES,
        distinct_classes=len(torch.unique(decided)),
        mean_confidence=min(1.0, float(confidence.mean())),
        logit_std=float(logits.std()),
    )


@torch.no_grad()
def refuse_constant(teacher: Teacher, *, generator: torch.Generator) -> None:
    """Look whether anything can be learned from a teacher at all.

    Raises:
        InputFileError: it answers noise of every strength alike.
    """
    spec = teacher.info.input
    strengths = torch.tensor([0.0, 0.3, 1.0, 3.0]).repeat(4).view(-1, 1, 1, 1)
    images = strengths * torch.randn(len(strengths), *spec.shape, generator=generator)
    logits = teacher.module(images)
    apart = float((logits.amax(0) - logits.amin(0)).max())
    if apart <= ALIKE * (1 + float(logits.abs().max())):
        raise InputFileError(
            "the teacher answers every image alike: nothing can be inverted out of it, or learned from it. Are its "
            "weights those of a training that ended well, and are --mean and --std those that it was trained with?"
        )
