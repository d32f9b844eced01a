"""Small bundles that hold in themselves, made in milliseconds; and keys."""

import hashlib
from dataclasses import replace

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgekd.bundle import (
    layout,
    model_card,
    sbom,
    sealing,
)
from edgekd.files import digest_of
from edgekd.records import (
    Architecture,
    Conditions,
    DataUsed,
    Energy,
    GateResult,
    InputSpec,
    Measurements,
    Memory,
    NoiseResponse,
    OnnxModel,
    Parity,
    Samples,
    Student,
    TeacherInfo,
    TensorSpec,
    Unmeasured,
)
from edgekd.records.manifest import (
    Accuracy,
    Evaluation,
    GoldenVectors,
    Manifest,
    Report,
    Role,
    TargetInfo,
)
from edgekd.targets.catalogue import load_target

ROLES: dict[str, Role] = {
    "golden-fp32.bin": "golden outputs",
    "golden-inputs.bin": "golden inputs",
    "model-fp32.onnx": "model",
    "model-int8.onnx": "model",
    "student.safetensors": "student",
}
SPEC = InputSpec(channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
NOT_MEASURED = Unmeasured(reason="a test")


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def write_bundle(
    folder, *, model=b"a model" * 300, teacher="teacher.pt", accuracy=0.9, tools=None, change=None
):
    """A bundle with two models; `change` edits the manifest before it is sealed."""
    folder.mkdir(parents=True)
    contents = {name: name.encode() * 40 for name in ROLES} | {"model-fp32.onnx": model}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    manifest = manifest_of(folder, teacher)
    report = report_of(manifest, accuracy)
    sealed = manifest if change is None else change(manifest)
    versions = {"edgekd": "0.1.0", "torch": "2.0"} if tools is None else tools
    sealing.seal(
        folder,
        sealed,
        report,
        pages={
            layout.PAGE: lambda _: "<p>a page</p>",
            layout.CARD: lambda made: model_card.model_card(made, report),
            layout.LICENCES: model_card.licences,
            layout.BILL: lambda made: sbom.bill(made, report, versions),
        },
    )
    return folder


def manifest_of(folder, teacher="teacher.pt"):
    target = load_target("jetson")
    architecture = Architecture(
        source="edgekd", name="lenet5", channels=1, classes=10, height=8, width=8
    )
    student = Student(
        checkpoint="student.safetensors", digest=digest_of(folder / "student.safetensors"),
        architecture=architecture, input=SPEC, parameters=1000, macs=10**5, chosen_because="a test",
        teacher_digest=sha("state"), recipe="pool", seed=0, steps=100, precision="fp32",
        agreement=0.875, agreement_images=8,
    )  # fmt: skip
    fp32 = onnx_of(folder, "fp32", student.digest)
    return Manifest(
        made_with="edgekd 0.1.0",
        target=TargetInfo(id=target.id, title=target.board.title, asked="jetson",
                          software=target.software, facts=target.board.facts),
        input=SPEC, classes=10, class_names=None,
        teacher=TeacherInfo(
            file=teacher, file_digest=sha("file"), state_digest=sha("state"),
            architecture=architecture, input=SPEC, format="a file", architecture_from="a test",
            classes=10, class_names=None, weights_key="", metadata_from="options", parameters=4000,
            macs=10**6, batch_norm_layers=0, batch_norm_trained=False,
            noise=NoiseResponse(images=8, distinct_classes=3, mean_confidence=0.5, logit_std=1.0),
        ),
        student=student, models=(fp32, onnx_of(folder, "int8", fp32.digest)), without={},
        calibration=None,
        golden=GoldenVectors(inputs="golden-inputs.bin", outputs={"fp32": "golden-fp32.bin"}, vectors={},
                             count=1, made_of="noise", tolerance=1e-4),
        data_used=DataUsed(kind="none", statement="none"), quality="passed",
        quality_gates=(GateResult(name="agreement", kind="quality", passed=True, value=0.95, limit=0.9,
                                  unit="share", reason="95 % the same"),),
        warnings=("a warning",),
        files=tuple(layout.entry(folder, name, role) for name, role in sorted(ROLES.items())),
        content_digest="0" * 64,
    )  # fmt: skip


def onnx_of(folder, precision, made_from):
    name = f"model-{precision}.onnx"
    return OnnxModel(
        path=name, digest=digest_of(folder / name), opset=18, ir_version=10, precision=precision,
        exporter="dynamo", inputs=(TensorSpec(name="images", dtype="float32", shape=(1, 1, 8, 8)),),
        outputs=(), size_bytes=(folder / name).stat().st_size, made_from=made_from, legal_for=(),
        parity=Parity(against="PyTorch", images=8, max_abs_error=0.0, max_abs_tolerance=None,
                      top1_agreement=1.0, top1_tolerance=0.9, passed=True),
    )  # fmt: skip


def report_of(manifest, accuracy):
    memory = Memory(
        **dict.fromkeys(
            ("runtime_pss", "runtime_uss", "session_pss", "session_uss", "model_pss", "model_uss",
             "peak_rss"), NOT_MEASURED)
    )  # fmt: skip
    measured = Measurements(
        subject="model-fp32.onnx", subject_digest=manifest.models[0].digest, precision="fp32",
        taken_on="a test machine", is_target=False, warnings=(), memory=memory,
        conditions=Conditions(
            machine="a test machine", os="Linux", runtime="onnxruntime 1", provider="CPU",
            threads=1, batch=1, warmup_s=0.5, warmup_runs=10, processes=3, governor=None,
            cpu_mhz=None, load_before=0.0, temperature_c=None, emulated=False, command=("x",),
        ),
        latency=Samples(values=(1e-4, 2e-4, 3e-4), unit="s"),
        energy=Energy(gross=NOT_MEASURED, scope="none", sensor="none"),
    )  # fmt: skip
    evaluation = Evaluation(
        data="test.npz", data_digest=sha("data"), images=1000, int8_top1_agreement=1.0,
        results=tuple(
            Accuracy(model=name, accuracy=accuracy, agreement_with_teacher=accuracy)
            for name in ("teacher", "student", "fp32", "int8")
        ),
    )  # fmt: skip
    return Report(
        made_with="edgekd 0.1.0", command=("edgekd", "compress"), device="cpu", precision="fp32",
        threads=1, elapsed_s=1.0, history=(), evaluation=evaluation, measurements=(measured,),
        gates=manifest.quality_gates,
    )  # fmt: skip


def reseal(folder):
    """Sums over a folder as it is now: what a forger without the key can do."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    kept = [name for name in names if name not in {layout.SUMS, layout.SIGNATURE}]
    text = "".join(f"{digest_of(folder / name)}  {name}\n" for name in kept)
    (folder / layout.SUMS).write_text(text)


def key_pair(folder, name="release", seed=1):
    """A private and a public key as PEM files, the same for the same seed."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def bill_faults(text):
    """What is wrong with a bill by CycloneDX's own schema, which its library brings along; None: nothing."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


def renamed_student(manifest):
    return replace(manifest, student=replace(manifest.student, teacher_digest=sha("another")))
