"""The model card and the notes on licences of a bundle: Markdown from its records."""

from dataclasses import dataclass
from typing import Final

from edgekd.bench.format import brief, place
from edgekd.bundle.sbom import ARCHITECTURE_LICENCES
from edgekd.records import runtime_text
from edgekd.records.manifest import Manifest, Report
from edgekd.templating import render

UNKNOWN: Final = "not known to edgekd: ask its author"


@dataclass(frozen=True, kw_only=True)
class ProvenanceLink:
    """One step of the chain of digests."""

    what: str
    file: str
    digest: str
    made_from: str


def chain(manifest: Manifest, report: Report) -> tuple[ProvenanceLink, ...]:
    """From the teacher's file to the engines that were measured."""
    teacher, student = manifest.teacher, manifest.student
    links = [
        ProvenanceLink(
            what="teacher, file", file=teacher.file, digest=teacher.file_digest, made_from=""
        ),
        ProvenanceLink(
            what="teacher, weights",
            file=teacher.file,
            digest=teacher.state_digest,
            made_from=teacher.file_digest,
        ),
    ]
    links += [
        ProvenanceLink(what="data", file=name, digest=digest, made_from="")
        for name, digest in sorted(manifest.data_used.digests.items())
    ]
    links.append(
        ProvenanceLink(
            what="student",
            file=student.checkpoint,
            digest=student.digest,
            made_from=student.teacher_digest,
        )
    )
    if manifest.calibration is not None:
        images = manifest.calibration
        links.append(
            ProvenanceLink(
                what="calibration images",
                file=images.file,
                digest=images.digest,
                made_from=images.teacher_digest,
            )
        )
    links += [
        ProvenanceLink(
            what=f"ONNX, {model.precision}",
            file=model.path,
            digest=model.digest,
            made_from=model.made_from,
        )
        for model in manifest.models
    ]
    links += [
        ProvenanceLink(
            what=f"engine, {found.engine.precision}, {runtime_text(found.engine.tensorrt)}",
            file=found.engine.path,
            digest=found.engine.digest,
            made_from=found.engine.made_from,
        )
        for found in report.measurements
        if found.engine is not None
    ]
    if report.engine is not None:
        made = report.engine
        sms = ", ".join(made.compute_capabilities)
        links.append(
            ProvenanceLink(
                what=f"engine, {made.precision}, {runtime_text(made.tensorrt)} for SM {sms}",
                file=made.path,
                digest=made.digest,
                made_from=made.made_from,
            )
        )
    return tuple(links)


# A matter of licence as much as of accuracy
FIRST_WEIGHTS: Final = {
    "drawn": "drawn from the seed; none is the teacher's",
    "inherited": "the teacher's, where names and shapes fit",
    "cut": "the teacher's: the student is a part of it",
}


def model_card(manifest: Manifest, report: Report) -> str:
    """What the model is, what it was made of, what was measured of it, and what was warned of."""
    return render(
        "model_card.md",
        manifest=manifest,
        report=report,
        first_weights=FIRST_WEIGHTS[manifest.student.initial_weights],
        shape="x".join(map(str, manifest.input.shape)),
        chain=chain(manifest, report),
        measured=[(brief(found), place(found)) for found in report.measurements],
        warnings=[
            f"{found.subject}: {warning.message}"
            for found in report.measurements
            for warning in found.warnings
        ],
    )


def licences(manifest: Manifest) -> str:
    """Under what the parts of a bundle stand, as far as that is known."""
    return render(
        "licenses.md",
        manifest=manifest,
        unknown=UNKNOWN,
        first_weights=FIRST_WEIGHTS[manifest.student.initial_weights],
        student_code=ARCHITECTURE_LICENCES.get(manifest.student.architecture.source, UNKNOWN),
    )
