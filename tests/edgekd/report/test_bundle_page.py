"""report.html, from records that are built here, and as a browser sees it."""

import base64
import importlib.util
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekd.bundle import layout, verification
from edgekd.errors import OutputError
from edgekd.records import (
    Architecture,
    Conditions,
    Coverage,
    DataUsed,
    Energy,
    GateResult,
    HistoryPoint,
    InputSpec,
    LayerPrecision,
    Measured,
    Measurements,
    MeasurementWarning,
    Memory,
    NoiseResponse,
    OnnxModel,
    Parity,
    PowerTrace,
    Samples,
    Student,
    SyntheticSet,
    TeacherInfo,
    TensorSpec,
    TraceSpan,
    Unmeasured,
)
from edgekd.records.manifest import (
    Accuracy,
    Evaluation,
    GoldenVectors,
    Manifest,
    Report,
    TargetInfo,
)
from edgekd.report import bundle_page, charts, image_strips
from edgekd.report.bundle_summary import description
from edgekd.targets.catalogue import load_target
from edgekd.workflows.measure import benchmark_output

REPOSITORY = Path(__file__).parents[3]
HOSTILE = '<script>alert("x")</script><img src="http://example.invalid/x" onerror=alert(1)>$\\frac'
ZERO = "0" * 64
CLASSES = 3
SPEC = InputSpec(channels=3, height=8, width=8, mean=(0.5,) * 3, std=(0.25,) * 3)
NOT_MEASURED = Unmeasured(reason="no sensor that this user may read")


def model_file(path):
    """Decides by the channel that is brightest."""
    weight = np.repeat(np.eye(3, dtype=np.float32), 64, axis=0)  # (C * H * W, K)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], name="Flatten"),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], name="Gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)


def made_up():
    """Images (N, H, W, C): six red, two green, none blue."""
    images = np.zeros((8, 8, 8, 3), np.uint8)
    images[:6, ..., 0] = 200
    images[6:, ..., 1] = 200
    return images


def onnx_record(precision):
    return OnnxModel(
        path=f"model-{precision}.onnx", digest=ZERO, opset=17, ir_version=8, precision=precision,
        exporter="dynamo", inputs=(TensorSpec(name="images", dtype="float32", shape=(1, 3, 8, 8)),),
        outputs=(), size_bytes=2048, made_from=ZERO, legal_for=("jetson",),
        parity=Parity(against="PyTorch", images=8, max_abs_error=0.0, max_abs_tolerance=None,
                      top1_agreement=1.0, top1_tolerance=0.9, passed=True),
    )  # fmt: skip


def manifest_of(*, name="teacher.pt", class_names=("red", "green", "blue")):
    target = load_target("jetson")
    small = Architecture(source="edgekd", name="lenet5", channels=3, classes=3, height=8, width=8)
    teacher = TeacherInfo(
        file=name, file_digest=ZERO, state_digest=ZERO, architecture=small, input=SPEC,
        format="a file of torch.save", architecture_from="by the names and shapes of its weights",
        classes=CLASSES, class_names=class_names, weights_key="", metadata_from="options",
        parameters=4000, macs=10**6, batch_norm_layers=0, batch_norm_trained=False,
        noise=NoiseResponse(images=8, distinct_classes=3, mean_confidence=0.5, logit_std=1.0),
    )  # fmt: skip
    student = Student(
        checkpoint="student.safetensors", digest=ZERO, architecture=small, input=SPEC,
        parameters=1000, macs=10**5, chosen_because="it is small", teacher_digest=ZERO,
        recipe="pool", seed=0, steps=100, precision="fp32", agreement=0.875, agreement_images=8,
    )  # fmt: skip
    calibration = SyntheticSet(
        file="calibration.npy", digest=ZERO, count=8, input=SPEC, teacher_digest=ZERO, seed=0,
        coverage=Coverage(class_histogram=(6, 2, 0), mean_confidence=0.9, batch_norm_distance=None),
    )  # fmt: skip
    return Manifest(
        made_with="edgekd 0.1.0",
        target=TargetInfo(id=target.id, title=target.board.title, asked="jetson",
                          software=target.software, facts=target.board.facts),
        input=SPEC, classes=CLASSES, class_names=class_names, teacher=teacher, student=student,
        models=(onnx_record("fp32"), onnx_record("int8")), without={}, calibration=calibration,
        golden=GoldenVectors(inputs="golden-inputs.bin", outputs={}, vectors={}, count=1, made_of="noise",
                             tolerance=0.0),
        data_used=DataUsed(kind="none", statement="none"), quality="failed",
        quality_gates=(GateResult(name="agreement", kind="quality", passed=False, value=0.875, limit=0.9,
                                  unit="share", reason="only 87.50% the same"),),
        warnings=("something was said",), files=(), content_digest="c" * 64,
    )  # fmt: skip


def measured(latency):
    return Measurements(
        subject="model-fp32.onnx", subject_digest=ZERO, precision="fp32", taken_on="a test machine",
        is_target=False,
        conditions=Conditions(
            machine="a test machine", os="Linux", runtime="onnxruntime 1", provider="CPU",
            threads=1, batch=1, warmup_s=0.5, warmup_runs=10, processes=3, governor=None,
            cpu_mhz=None, load_before=0.0, temperature_c=None, emulated=False, command=("x",),
        ),
        warnings=(MeasurementWarning(code="load", message="it was busy", advice="measure again"),),
        latency=latency, energy=NOT_MEASURED,
        memory=Memory(**dict.fromkeys(
            ("runtime_pss", "runtime_uss", "session_pss", "session_uss", "model_pss", "model_uss",
             "peak_rss"), NOT_MEASURED)),
    )  # fmt: skip


def report_of(*measurements, **changes):
    history = tuple(
        HistoryPoint(step=step, images=step * 8, elapsed_s=step / 10, agreement=step / 100,
                     losses={"kd": 2.0 / step, "bn": float("inf") if step == 50 else 1.0})
        for step in range(10, 101, 10)
    )  # fmt: skip
    report = Report(
        made_with="edgekd 0.1.0", command=("edgekd", "compress", "teacher.pt"), device="cpu",
        precision="fp32", threads=2, elapsed_s=90.0, history=history, evaluation=None,
        measurements=measurements, gates=(),
        layer_precision=tuple(
            LayerPrecision(tensor=f"relu_{number}", made_by=f"Relu Relu_{number}",
                           sqnr_db=40.0 - number) for number in range(12)),
    )  # fmt: skip
    return replace(report, **changes)


def timeline_of(*, late=False):
    images = made_up()
    return image_strips.Timeline(
        moments=(
            image_strips.StripMoment(progress=0.0, step=0, classes=(0, 1), images=images[5:7]),
            image_strips.StripMoment(progress=1.0, step=100, classes=(0,), images=images[:1]),
        ),
        late=late,
    )


LATENCY = Samples(values=(*(0.001 + 1e-6 * number for number in range(200)), 0.1), unit="s")


@pytest.fixture
def folder(tmp_path):
    model_file(tmp_path / "model-fp32.onnx")
    np.save(tmp_path / "calibration.npy", made_up())
    return tmp_path


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [
            found[name]
            for name in ("src", "srcset", "href", "xlink:href", "data", "poster", "action")
            if name in found
        ]
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


def page_of(folder, manifest=None, report=None, timeline=None):
    made = bundle_page.html(
        folder, manifest or manifest_of(), report or report_of(measured(LATENCY)), timeline=timeline
    )
    return made, Seen(made)


def test_the_head_says_verdict_gates_command_and_digest(folder):
    _, seen = page_of(folder)
    for said in (
        "Quality failed",
        "✗ failed agreement: only 87.50% the same",
        "edgekd compress teacher.pt",
        "c" * 64,
        "NVIDIA Jetson Orin Nano 8GB",
        "Something was said",
    ):  # fmt: skip
        assert said in seen.text


def test_a_budget_stands_beside_the_quality_on_the_page_and_in_words(folder):
    gates = (
        GateResult(name="budget size", kind="budget", metric="size", passed=False, value=200.0, limit=100.0, unit="B", reason="200 B",
                   bound="at most"),
        GateResult(name="budget energy", kind="budget", metric="energy", passed=True, value=None, limit=0.003, unit="J",
                   reason=f"Unmeasured ({HOSTILE})", bound="at most", mark="not checked"),
    )  # fmt: skip
    report = report_of(gates=gates, bench_failed=f"nobody answered {HOSTILE}")
    _, seen = page_of(folder, report=report)
    assert "Budget failed" in seen.text
    assert "FAILED budget size 200 B, at most 100 B is asked: 2.0 times that" in seen.text
    assert "allowed budget energy" in seen.text
    assert "The board was not measured: nobody answered" in seen.text
    assert "script" not in seen.tags
    assert "Budget" not in page_of(folder)[1].text
    said = description(manifest_of(), report)
    assert "budget     failed" in said
    assert "the board was not measured" in said


def test_hostile_names_stay_text(folder):
    manifest = manifest_of(name=HOSTILE, class_names=(HOSTILE, HOSTILE, HOSTILE))
    manifest = replace(
        manifest,
        warnings=(HOSTILE,),
        data_used=DataUsed(kind="none", statement=HOSTILE),
        without={HOSTILE: HOSTILE},
    )
    found = replace(measured(LATENCY), subject=HOSTILE, taken_on=HOSTILE)
    history = (HistoryPoint(step=1, images=1, elapsed_s=1.0, losses={HOSTILE: 1.0}, agreement=0.5),)
    evaluation = Evaluation(
        data=HOSTILE, data_digest=ZERO, images=10, int8_top1_agreement=None,
        results=(Accuracy(model=HOSTILE, accuracy=0.5, agreement_with_teacher=0.5),),
        never_right={HOSTILE: 60},
    )  # fmt: skip
    layers = (LayerPrecision(tensor=HOSTILE, made_by=HOSTILE, sqnr_db=1.0),)
    report = report_of(
        found, history=history, evaluation=evaluation, layer_precision=layers, command=(HOSTILE,)
    )
    _, seen = page_of(folder, manifest, report, timeline_of())
    _, plainly = page_of(folder, timeline=timeline_of())
    assert "script" not in seen.tags
    assert seen.tags.count("img") == plainly.tags.count("img")
    assert all(image["alt"] for image in seen.images)
    assert HOSTILE in seen.text
    assert "right on 0 of 60 images" in seen.text
    assert "http" not in " ".join(seen.addresses)


def test_what_was_not_measured_shows_its_reason_and_no_number(folder):
    made, seen = page_of(folder, report=report_of(measured(NOT_MEASURED)))
    assert f"not measured: {NOT_MEASURED.reason}" in seen.text
    assert seen.text.count(NOT_MEASURED.reason) == 6  # latency, energy, four of memory
    section = made[made.index("Latency, memory and energy") : made.index("Measured under")]
    assert "Histogram" not in section
    assert not re.search(r"\d\s*(ms|µs|MiB|KiB|J)\b", section)


def test_samples_that_are_no_numbers_are_not_measured(folder):
    for values in ((), (float("nan"), 1.0), (float("inf"),), (1e308, -1e308)):
        _, seen = page_of(folder, report=report_of(measured(Samples(values=values, unit="s"))))
        assert "not measured: the report holds values that are no measurement" in seen.text


def test_a_histogram_names_its_median_and_what_lies_beyond(folder):
    _, seen = page_of(folder)
    assert "201 calls: median 1.10 ms, p95 1.19 ms, fastest 1.00 ms." in seen.text
    assert "slower calls, up to 100 ms, lie right of it" in seen.text
    assert "Measured on a test machine. This is not the target" in seen.text
    assert "It was busy. What to do: measure again." in seen.text


# --- power over time --------------------------------------------------------------------------


def trace_of(*, seconds=14.0, spike_w=None, rate_hz=100):
    """3 W, and 8 W while the model runs."""
    times = np.arange(0, seconds, 1 / rate_hz)
    watts = np.where((times > 2.6) & (times < 10.2), 8.0, 3.0)
    if spike_w is not None:
        watts[len(watts) // 2] = spike_w
    spans = [(3.5, 5.5), (5.5, 7.5), (7.5, 9.5)]
    return PowerTrace(
        seconds=tuple(times.tolist()), watts=tuple(watts.tolist()),
        windows=tuple(TraceSpan(begin_s=begin, end_s=end, runs=100) for begin, end in spans),
        idle=(TraceSpan(begin_s=0.2, end_s=2.2, runs=0), TraceSpan(begin_s=11.3, end_s=13.3, runs=0)),
    )  # fmt: skip


def with_power(trace, *, sensor="INA3221 VDD_IN"):
    joules = Samples(values=(0.08, 0.081, 0.08), unit="J")
    return replace(
        measured(LATENCY), energy=Energy(gross=joules, scope="module", sensor=sensor, trace=trace)
    )


def test_power_is_drawn_with_what_it_was_measured_in(folder):
    made, seen = page_of(folder, report=report_of(with_power(trace_of())))
    assert "Power by INA3221 VDD_IN: 1,400 readings in 14.0 s, 3.00 W to 8.00 W." in seen.text
    assert "Shaded: 3 windows of calls; under a bar: idle, with the model loaded." in seen.text
    drawn = made[made.index('aria-label="Power.') :]
    drawn = drawn[: drawn.index("</svg>")]
    assert drawn.count("fill: var(--accent); opacity: 0.18") == 3
    assert drawn.count(">idle<") == 2
    assert drawn.count(">windows<") == 1
    assert "#0102" not in drawn


def test_a_long_trace_is_thinned_and_keeps_its_extremes(folder):
    points = list(
        zip(trace_of(rate_hz=1400).seconds, trace_of(rate_hz=1400, spike_w=50.0).watts, strict=True)
    )
    kept = charts.envelope(points, 300)
    assert len(kept) <= 300
    assert set(kept) <= set(points)
    assert [at for at, _ in kept] == sorted(at for at, _ in kept)
    assert max(value for _, value in kept) == 50.0
    assert min(value for _, value in kept) == 3.0
    assert charts.envelope(points[:300], 300) == points[:300]
    long, _ = page_of(folder, report=report_of(with_power(trace_of(rate_hz=1400))))
    short, _ = page_of(folder, report=report_of(with_power(trace_of(rate_hz=20))))
    assert len(long) < len(short) + 20_000


def test_a_trace_shows_the_run_and_little_around_it(folder):
    _, seen = page_of(folder, report=report_of(with_power(trace_of(seconds=120.0, spike_w=500.0))))
    assert "3.00 W to 8.00 W" in seen.text  # the spike came a minute later


@pytest.mark.parametrize(
    "trace",
    [
        PowerTrace(seconds=(), watts=(), windows=(), idle=()),
        PowerTrace(seconds=(1.0,), watts=(3.0,), windows=(), idle=()),
        PowerTrace(seconds=(0.0, 1.0), watts=(float("nan"), float("inf")), windows=(), idle=()),
    ],
)
def test_a_trace_of_no_readings_is_not_drawn(folder, trace):
    made, _ = page_of(folder, report=report_of(with_power(trace)))
    assert "Power by" not in made


@pytest.mark.parametrize("value", [1e308, -1e308, 1e99, 5e-324, 0.0, -0.4])
def test_powers_that_nobody_expects_are_drawn_or_left_out(folder, value):
    spans = (TraceSpan(begin_s=0.0, end_s=value, runs=1), TraceSpan(begin_s=0.0, end_s=2.0, runs=1))
    trace = PowerTrace(
        seconds=(0.0, 1.0, 2.0), watts=(value, 1.0, value), windows=spans, idle=spans[1:]
    )
    made, seen = page_of(folder, report=report_of(with_power(trace, sensor=HOSTILE)))
    assert "script" not in seen.tags
    assert made.count('role="img" aria-label="') == seen.tags.count("svg")


def test_without_labelled_data_it_says_so_and_gives_no_accuracy(folder):
    _, seen = page_of(folder)
    assert "Not evaluated: no labelled data was given" in seen.text
    assert seen.text.count("not evaluated") == 8  # two columns of teacher, student, FP32, INT8


def test_an_evaluation_comes_with_its_interval(folder):
    results = tuple(
        Accuracy(model=name, accuracy=0.9, agreement_with_teacher=1.0)
        for name in ("teacher", "student", "fp32", "int8")
    )
    evaluation = Evaluation(
        data="test.npz", data_digest=ZERO, images=100, results=results, int8_top1_agreement=0.99
    )
    _, seen = page_of(folder, report=report_of(evaluation=evaluation))
    assert seen.text.count("90.00%") == 4
    assert "82.6% to 94.5%" in seen.text  # Wilson, as in Newcombe 1998, table I's formula
    assert "There INT8 top-1 matches FP32 on 99.00%" in seen.text


def decoded(source):
    return Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))


def test_images_stand_with_the_class_that_the_model_sees(folder):
    _, seen = page_of(folder)
    red, green = seen.images
    assert "red 6 images" in seen.text
    assert "green 2 images" in seen.text
    assert "blue 0 images no image of this class" in seen.text
    assert "6 synthetic images that the model takes for red" in red["alt"]
    sheet = decoded(red["src"])
    assert sheet.size == (6 * 8 + 5 * 2, 8)
    assert sheet.getpixel((0, 0)) == (200, 0, 0, 255)
    assert decoded(green["src"]).getpixel((0, 0)) == (0, 200, 0, 255)


def test_blue_first_images_are_turned(folder):
    manifest = replace(manifest_of(), input=replace(SPEC, colour_order="bgr"))
    _, seen = page_of(folder, manifest)
    assert decoded(seen.images[0]["src"]).getpixel((0, 0)) == (0, 0, 200, 255)


def test_large_images_of_many_classes_stay_small(tmp_path):
    draw = np.random.default_rng(0)
    spec = InputSpec(channels=3, height=160, width=160, mean=(0.5,) * 3, std=(0.25,) * 3)
    row = draw.integers(0, 256, (8, 160, 160, 3), np.uint8)
    sources = image_strips.strip(row, spec, side=image_strips.LARGEST_SIDE)
    assert sources.height == image_strips.LARGEST_SIDE
    moments = tuple(
        image_strips.StripMoment(progress=share, step=1, classes=tuple(range(8)), images=row)
        for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    )
    manifest = replace(manifest_of(), input=spec, classes=8)
    made, seen = page_of(
        tmp_path, manifest, timeline=image_strips.Timeline(moments=moments, late=False)
    )
    assert len(seen.images) == 48
    assert len(made) < 600_000
    assert "The images cannot be shown" in seen.text  # there is no file


@pytest.mark.parametrize("damage", ["missing", "pickle", "shape", "model"])
def test_a_bundle_whose_images_cannot_be_read_has_a_page_that_says_so(folder, damage):
    if damage == "missing":
        (folder / "calibration.npy").unlink()
    elif damage == "pickle":
        np.save(folder / "calibration.npy", np.array([{"a": 1}]), allow_pickle=True)
    elif damage == "shape":
        np.save(folder / "calibration.npy", made_up()[:, :4])
    else:
        (folder / "model-fp32.onnx").write_bytes(b"no model")
    _, seen = page_of(folder)
    assert "The images cannot be shown:" in seen.text
    assert seen.images == []


def test_without_images_there_are_none(folder):
    _, seen = page_of(folder, replace(manifest_of(), calibration=None))
    assert seen.images == []
    assert "made without images (--no-images)" in seen.text
    assert "Left out with the other images." in seen.text


def test_moments_stand_side_by_side_and_gaps_are_named(folder):
    _, seen = page_of(folder, timeline=timeline_of())
    alts = [image["alt"] for image in seen.images]
    assert alts[-3:] == ["red at 0%", "red at 100%", "green at 0%"]
    assert "green none" in seen.text
    assert "continued from a checkpoint" not in seen.text
    _, late = page_of(folder, timeline=timeline_of(late=True))
    assert "continued from a checkpoint" in late.text
    _, without = page_of(folder)
    assert "this page was made from a finished bundle" in without.text


def test_the_worst_layers_come_first_and_old_reports_have_none(folder):
    _, seen = page_of(folder)
    assert "The 10 worst of 12" in seen.text
    assert seen.text.index("relu_11") < seen.text.index("relu_10") < seen.text.index("relu_2")
    assert "relu_1 made" not in seen.text
    _, old = page_of(folder, report=report_of(layer_precision=()))
    assert "holds no figures for its layers" in old.text


def test_a_history_of_nothing_or_of_one_point_is_drawn_as_far_as_it_goes(folder):
    _, seen = page_of(folder, report=report_of(history=()))
    assert "The report holds no history of the run." in seen.text
    one = HistoryPoint(step=1, images=1, elapsed_s=1.0, losses={"kd": 1.0}, agreement=0.5)
    _, seen = page_of(folder, report=report_of(history=(one,)))
    assert seen.tags.count("svg") == 2


@pytest.mark.parametrize("value", [1e308, -1e308, 1e99, 5e-324, 0.0, float("nan"), float("inf")])
def test_numbers_that_nobody_expects_are_drawn_or_left_out(folder, value):
    history = tuple(
        HistoryPoint(step=step, images=1, elapsed_s=1.0, losses={"kd": loss}, agreement=0.5)
        for step, loss in ((1, value), (2, 1.0), (10**400, value))
    )
    found = measured(Samples(values=(value, 1.0, 0.0), unit="s"))
    layers = (LayerPrecision(tensor="t", made_by="m", sqnr_db=value),)
    _, seen = page_of(folder, report=report_of(found, history=history, layer_precision=layers))
    assert seen.tags.count("svg") >= 2


def test_the_page_holds_all_it_needs(folder):
    made, seen = page_of(folder, timeline=timeline_of())
    assert seen.addresses
    assert all(address.startswith(("data:", "#")) for address in seen.addresses)
    assert not re.search(r"@import|url\((?!#)|https?://(?!\S*</)", made)
    assert "script" not in seen.tags
    assert all(image.get("alt") for image in seen.images)
    assert made.count('role="img" aria-label="') == seen.tags.count("svg") > 3
    identities = re.findall(r'\bid="([^"]+)"', made)
    assert len(identities) == len(set(identities))
    headings = [int(tag[1]) for tag in seen.tags if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_same_records_are_the_same_page(folder):
    assert page_of(folder, timeline=timeline_of())[0] == page_of(folder, timeline=timeline_of())[0]


# --- of a run ---------------------------------------------------------------------------------


def test_the_page_of_a_run_is_summed_and_has_images_over_time(made):
    folder = made[0]
    text = (folder / "report.html").read_text()
    assert "  report.html\n" in (folder / "SHA256SUMS").read_text()
    assert "report.html" not in (folder / "manifest.json").read_text()
    seen = Seen(text)
    assert "How they changed over the run" in seen.text
    assert " at 0%" in seen.images[-1]["alt"]  # the run is one round: there is one moment
    assert "Not measured: the report of this bundle holds no figures" not in seen.text
    assert len(text) < 600_000
    assert "1,000 labelled images of test-1000.npz" in seen.text
    assert layout.read_report(folder).layer_precision[-1].tensor == "logits"


def test_a_page_is_made_anew_and_the_bundle_still_holds(made, edgekd, tmp_path):
    copy = shutil.copytree(made[0], tmp_path / "b")
    code, _, err = edgekd("bundle", "report", copy)
    assert code == OutputError.exit_code
    assert "--force" in err
    code, out, _ = edgekd("bundle", "report", copy, "--out", tmp_path / "page.html")
    assert (code, out) == (0, f"{tmp_path}/page.html\n")
    code, _, _ = edgekd("bundle", "report", copy, "--force")
    assert code == 0
    verification.verify_bundle(copy)
    assert (copy / "report.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    assert "made from a finished bundle" in (copy / "report.html").read_text()


def test_a_bundle_of_before_there_were_pages_verifies_and_gets_one(made, edgekd, tmp_path):
    copy = shutil.copytree(made[0], tmp_path / "b")
    (copy / "report.html").unlink()
    sums = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in sums if "report.html" not in line))
    verification.verify_bundle(copy)
    assert edgekd("bundle", "report", copy)[0] == 0
    verification.verify_bundle(copy)


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shots():
    spec = importlib.util.spec_from_file_location(
        "screenshots", REPOSITORY / "docs" / "screenshots.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_finds_nothing_amiss(shots, folder, width, dark):
    long = "averylongclassnamewithoutaspace" * 4
    manifest = manifest_of(class_names=(long, "green", "blue"), name=f"{long}.pt")
    text, _ = page_of(
        folder, manifest, report_of(with_power(trace_of(), sensor=long)), timeline=timeline_of()
    )
    assert "Power by" in text
    found = shots.look(text, width=width, dark=dark)
    assert found["innerWidth"] == width
    assert found["scrollWidth"] <= width
    assert found["wide"] == []
    assert found["complaints"] == []
    assert found["requests"] == []
    assert len(found["images"]) == 5
    assert all(natural > 0 and done and alt for natural, done, alt in found["images"])
    assert all(height > 50 for height in found["charts"])
    light, deep = sorted((luminance(found["ground"]), luminance(found["ink"])), reverse=True)
    assert (light + 0.05) / (deep + 0.05) > 10
    assert (luminance(found["ground"]) < 0.1) is dark


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_a_browser_finds_nothing_amiss_on_the_page_of_a_bench(shots, width):
    taken = (with_power(trace_of()), replace(with_power(trace_of(rate_hz=1400)), subject="b" * 90))
    text = benchmark_output.html_of(
        Measured(measurements=taken, failed={"ssh://board": "no route"})
    )
    found = shots.look(text, width=width)
    assert found["scrollWidth"] <= width
    assert found["wide"] == []
    assert found["complaints"] == []
    assert found["requests"] == []
    assert len(found["charts"]) == 4  # latency and power of both
    assert all(100 < height < 300 for height in found["charts"])


def test_every_colour_of_text_has_contrast_in_every_scheme(folder):
    made, _ = page_of(folder)
    schemes = [
        dict(re.findall(r"--(\w+): (#\w+)", block))
        for block in re.findall(r":root \{([^}]+)\}", made)
    ]
    assert len(schemes) == 3  # light, dark, print
    for colours in schemes:
        shades = {name: luminance(rgb(colour)) for name, colour in colours.items()}
        for ground in ("ground", "panel"):
            for ink, least in (
                ("ink", 7),
                ("quiet", 4.5),
                ("good", 4.5),
                ("bad", 4.5),
                ("series", 3),
            ):
                light, deep = sorted((shades[ground], shades[ink]), reverse=True)
                assert (light + 0.05) / (deep + 0.05) >= least, (ground, ink)


def rgb(colour):
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    return " ".join(str(int(digits[place : place + 2], 16)) for place in (0, 2, 4))


@pytest.mark.browser
def test_the_browser_test_would_notice(shots):
    bad = (
        '<!doctype html><p style="width: 900px">wide</p><img alt="" src="data:image/png;base64,x">'
        '<script>console.error("heard")</script>'
    )
    found = shots.look(bad, width=360)
    assert found["innerWidth"] == 360
    assert found["scrollWidth"] >= 900
    assert found["wide"]
    assert found["images"][0][0] == 0
    assert any("heard" in line for line in found["complaints"])
