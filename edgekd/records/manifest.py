"""What stands in a bundle, so that it proves its own history."""

from typing import Literal

from pydantic import Field

from edgekd.records import (
    Budget,
    Count,
    DataUsed,
    Digest,
    Fact,
    GateResult,
    HistoryPoint,
    InputSpec,
    LayerPrecision,
    Measurements,
    OnnxModel,
    PortableEngine,
    Precision,
    RelativePath,
    Share,
    Software,
    Student,
    SyntheticSet,
    TeacherInfo,
    record,
)

Role = Literal[
    "model",
    "student",
    "record",
    "calibration images",
    "golden inputs",
    "golden outputs",
    "report",
    "integration",  # runs on the board
]


@record
class FileEntry:
    path: RelativePath
    role: Role
    sha256: Digest
    size_bytes: Count


@record
class GoldenVectors:
    """Inputs with the outputs that each model gives for them, so that firmware can test itself.

    Raw little-endian values: inputs (N, C, H, W) normalised float32, outputs (N, K) float32; or what is
    embedded. `vectors` says types, shapes, digests and tolerances of each. A device may differ by
    `tolerance` from the outputs, in units of the logits, for FP32; INT8 must decide the same.
    """

    inputs: RelativePath
    outputs: dict[Precision, RelativePath]
    vectors: dict[Precision, RelativePath]
    count: Count
    made_of: Literal["synthetic images", "noise"]
    tolerance: float


@record
class TargetInfo:
    """The board and software that the models were made for."""

    id: str
    title: str
    asked: str
    software: Software
    facts: dict[str, Fact]


@record
class Manifest:
    """`manifest.json`. `content_digest` covers everything but measurements and report."""

    # "edgekd 0.1.0"
    made_with: str
    target: TargetInfo
    input: InputSpec
    classes: Count
    class_names: tuple[str, ...] | None
    teacher: TeacherInfo
    student: Student
    models: tuple[OnnxModel, ...]
    # What was left out, and why
    without: dict[str, str]
    calibration: SyntheticSet | None
    golden: GoldenVectors
    data_used: DataUsed
    quality: Literal["passed", "failed"]
    quality_gates: tuple[GateResult, ...]
    warnings: tuple[str, ...]
    # All but the manifest, the report and SHA256SUMS
    files: tuple[FileEntry, ...]
    content_digest: Digest


@record
class Accuracy:
    """Share of labelled images that are classified right, and agreement with the teacher."""

    model: str
    accuracy: Share
    agreement_with_teacher: Share


@record
class Evaluation:
    """On data that a user brought; it selected nothing."""

    data: str
    data_digest: Digest
    images: Count
    results: tuple[Accuracy, ...]
    int8_top1_agreement: Share | None
    # Images by class, of which the student is right on none and the teacher on some
    never_right: dict[str, Count] = Field(default_factory=dict)


@record
class Report:
    """`report.json`: what varies from run to run, and is not part of the content digest."""

    made_with: str
    command: tuple[str, ...]
    device: str
    precision: str
    threads: Count
    elapsed_s: float
    history: tuple[HistoryPoint, ...]
    evaluation: Evaluation | None
    measurements: tuple[Measurements, ...]
    gates: tuple[GateResult, ...]
    # Of the INT8 graph, in graph order
    layer_precision: tuple[LayerPrecision, ...] = ()
    # That the last gates held the figures against
    budget: Budget | None = None
    # Why there are no figures of the board that was asked for
    bench_failed: str | None = None
    # Two builds need not be the same bytes, so it is no content
    engine: PortableEngine | None = None
