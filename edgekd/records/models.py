"""Networks in each form that they have: teacher, student, ONNX file, engine."""

from typing import Literal, TypeAlias

from pydantic import Field

from edgekd.records._record import (
    Count,
    Digest,
    Exporter,
    Precision,
    RelativePath,
    Share,
    record,
)
from edgekd.records.images import InputSpec

# What a file was calibrated and judged on: images inverted out of the teacher, shapes that no teacher made, the user's
ImageKind: TypeAlias = Literal["synthetic images", "structured noise", "own images"]


@record
class Architecture:
    """A network by `source:name`, with its channels, classes and input size.

    Those of `edgekd`, `timm` and `torchvision` can be built again from this alone; the others are a
    factory in a file of the user (`file`) or the code in the teacher's own file.
    """

    source: Literal[
        "edgekd",
        "timm",
        "torchvision",
        "transformers",
        "file",
        "pickle",
        "torchscript",
        "pt2",
        "onnx",
    ]
    name: str
    channels: int
    classes: int
    height: int
    width: int
    # "cut:macs=0.25": what is left of it is in a record of its own; "" the whole network
    cut: str = ""

    def __str__(self) -> str:
        name = self.name if self.source == "edgekd" else f"{self.source}:{self.name}"
        return f"{name} {self.cut}" if self.cut else name


@record
class NoiseResponse:
    """What a teacher says to standard normal noise; a teacher that says one class is hard to invert."""

    images: Count
    distinct_classes: Count
    mean_confidence: Share
    logit_std: float


@record
class TeacherInfo:
    """What was understood of a teacher file."""

    file: str
    file_digest: Digest
    state_digest: Digest
    architecture: Architecture
    input: InputSpec
    classes: Count
    class_names: tuple[str, ...] | None
    # "a file of torch.save"
    format: str
    # Which entry of the file was taken; "" when the file is the state dict.
    weights_key: str
    # Where input, mean and std came from.
    metadata_from: str
    # How the network was found out.
    architecture_from: str
    parameters: Count
    macs: Count
    batch_norm_layers: Count
    batch_norm_trained: bool
    noise: NoiseResponse
    # What a reader should know of how it was loaded.
    notes: tuple[str, ...] = ()


@record
class HistoryPoint:
    """One line of a run's log. Losses have no unit."""

    step: Count
    images: Count
    elapsed_s: float
    losses: dict[str, float]
    # Of the averaged student with the teacher, on held-out synthetic images.
    agreement: Share | None
    # Of the student without the average.
    raw_agreement: Share | None = None
    # Of the averaged student, on labelled images that were given to look at.
    accuracy: Share | None = None
    raw_accuracy: Share | None = None


@record
class Plan:
    """What a run would do and cost, from a few timed steps: for planning, not for comparing."""

    recipe: str
    because: str
    # In the paper's settings.
    faithful: bool
    student: Architecture
    # Of the student.
    steps: Count
    images: Count
    # 0 where none are made.
    image_batch_s: float
    student_step_s: float
    duration_s: float
    memory_bytes: Count
    device: str
    precision: Literal["fp32", "bf16"]


@record
class Student:
    """A distilled network: weights as safetensors, and how they came to be."""

    checkpoint: RelativePath
    digest: Digest
    architecture: Architecture
    input: InputSpec
    parameters: Count
    macs: Count
    chosen_because: str
    # Where its first weights are from: drawn, those of the teacher where they fit, or a part of the teacher
    initial_weights: Literal["drawn", "inherited", "cut"] = "drawn"
    # What of the teacher is left, where it was cut out of it
    cut: RelativePath | None = None
    cut_digest: Digest | None = None
    # Its network as a `.pt2` program, where no library builds it
    program: RelativePath | None = None
    program_digest: Digest | None = None
    teacher_digest: Digest
    recipe: str
    seed: int
    steps: Count
    precision: Literal["fp32", "bf16"]
    # With the teacher, on held-out synthetic images.
    agreement: Share
    agreement_images: Count
    warnings: tuple[str, ...] = ()
    history: tuple[HistoryPoint, ...] = ()


@record
class TensorSpec:
    name: str
    dtype: str
    shape: tuple[int | str, ...]


@record
class Parity:
    """One model against what it was made from, on the same inputs."""

    against: str
    images: Count
    # Of logits; no unit.
    max_abs_error: float
    # None where only decisions are compared.
    max_abs_tolerance: float | None
    top1_agreement: Share
    top1_tolerance: Share
    passed: bool
    # What so many images leave possible: the upper end of a one-sided 95 % interval; None in older files
    top1_highest: Share | None = None


@record
class LayerSensitivity:
    """What INT8 in one layer alone does to the answers."""

    layer: str
    # Mean KL(float || INT8) of the softmax outputs, in nats.
    divergence: float
    # Of the network's multiply-accumulates.
    macs_share: Share
    # Of the weights of its layers.
    size_share: Share


@record
class Calibration:
    """How the ranges of an INT8 graph were chosen."""

    method: str
    images: Count
    held_out_images: Count
    # Of each method that was tried, on held-out images.
    agreement: dict[str, Share]
    # Of the method and of each step after it, the mean KL of FP32's and INT8's softmax on held-out images, nats.
    divergence: dict[str, float] = Field(default_factory=dict)
    # Channels were scaled to like ranges.
    equalised: bool = False
    # Weights and biases take back what INT8 changes, layer by layer.
    corrected: bool = False
    # What agreement is with: "fp32" or "teacher"
    compared_with: str = "fp32"
    # Of each tensor, what its range cuts off.
    saturated: dict[str, Share] = Field(default_factory=dict)
    # Of each of the teacher's batch-norms, the share of training's values that lie beyond what the images cause there.
    outside: dict[str, Share] = Field(default_factory=dict)
    sensitivity: tuple[LayerSensitivity, ...] = ()
    # Layers that stay in floating point.
    kept: tuple[str, ...] = ()
    tuned_steps: int = 0
    made_of: ImageKind = "synthetic images"


@record
class OnnxModel:
    path: RelativePath
    digest: Digest
    opset: Count
    ir_version: Count
    precision: Precision
    exporter: Exporter
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: Count
    made_from: Digest
    parity: Parity
    # Targets whose legality checks it passed.
    legal_for: tuple[str, ...]
    # Of INT8.
    calibration: Calibration | None = None
    # Nodes that FP16 could not hold: kept in FP32 where types are in the graph, and for the builder to keep where
    # they are its choice.
    fp32_nodes: tuple[str, ...] = ()
    # "preprocessing", "softmax": what else is in the graph.
    embedded: tuple[str, ...] = ()


@record
class Engine:
    """A TensorRT engine. It is only for boards with the same TensorRT, SM and L4T."""

    path: RelativePath
    digest: Digest
    # The ONNX file.
    made_from: Digest
    precision: Precision
    # "10.3.0"; of TensorRT-RTX "rtx-1.7.1.116"
    tensorrt: str
    # Compute capability, "8.7"
    sm: str
    # None where it is no Jetson.
    l4t: str | None
    # Of all that was asked of the builder.
    build_key: Digest
    tool: Literal["python", "trtexec"]
    # With the golden vectors.
    parity: Parity
    size_bytes: Count
    build_s: float
    # It was there, and all that it hangs on was the same.
    reused: bool
    timing_cache_digest: Digest | None
    # Nothing was measured anew.
    tactics_replayed: bool
    # Layers that should have stayed in FP32, and could not be told to.
    not_kept_in_fp32: tuple[str, ...] = ()
    # What the builder said of it, each once, in its order.
    warnings: tuple[str, ...] = ()


@record
class PortableEngine:
    """An engine of TensorRT-RTX, built on any machine for several kinds of GPU; no card has run it."""

    path: RelativePath
    digest: Digest
    # The ONNX file.
    made_from: Digest
    precision: Precision
    # "rtx-1.7.1.116"
    tensorrt: str
    # Compute capabilities, "8.6"
    compute_capabilities: tuple[str, ...]
    size_bytes: Count
    build_s: float
    warnings: tuple[str, ...] = ()


@record
class LayerPrecision:
    """How much of one tensor of an INT8 graph is what FP32 has there: signal over noise."""

    tensor: str
    # "Relu /layer1/relu", or what the graph takes.
    made_by: str
    # 10 log10(signal power / power of the difference); 6 dB are one bit.
    sqnr_db: float
