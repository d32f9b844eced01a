"""What a bundle states of the data behind it."""

from typing import Literal

from edgekd.records import DataUsed
from edgekd.workflows.distill import REVEALING, Distilled
from edgekd.workflows.run_setup import DistillJob


def warn_of_images(options: DistillJob) -> str:
    """What the images of a bundle can give away."""
    if options.data.condensed is None and options.data.samples is None:
        return REVEALING
    return f"{REVEALING} Views of the images that were given may be among them."


def describe_data(distilled: Distilled, *, evaluated: bool) -> DataUsed:
    found, real = distilled.ahead, distilled.real
    kind: Literal["none", "condensed", "few real"] = "none"
    statement = "none: the images were inverted out of the teacher"
    digests = {}
    if found is not None:
        statement += f" ahead of the run, as a set of {found.count:,}"
        digests[found.file] = found.digest
    if real is not None:
        kind = "condensed" if real.kind == "condensed" else "few real"
        what = "condensed" if real.kind == "condensed" else "real"
        statement = f"{len(real.images):,} {what} images ({real.name}), and images inverted out of the teacher"
        if distilled.run.synthesizer.expansion is not None:
            statement += ", some begun as views of them"
        digests[real.name] = real.digest
    if evaluated:
        statement += "; labelled images were reported and gated on, and selected nothing"
    return DataUsed(kind=kind, statement=statement, digests=digests)
