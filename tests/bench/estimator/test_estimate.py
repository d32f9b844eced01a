"""Laws of the estimate, its refusals, and the constants that are shipped."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.bench import estimator
from benchmarks.bench.fit import fit as fit_of
from benchmarks.bench.references import rows, rows_digest
from benchmarks.bench.yolo import YOLO11
from benchmarks.bench.zoo import kernels_of
from benchmarks.rows import read_rows
from edgekd.bench.estimator import estimate, latency_model
from edgekd.bench.estimator.graph_cost import Network
from edgekd.bench.estimator.kernel_fusion import Kernel
from edgekd.errors import IncompatibleError
from edgekd.records import (
    Estimate,
    ModelEstimate,
    Unmeasured,
    from_json,
    to_json,
)
from edgekd.targets.catalogue import boards, load_target
from edgekd.workflows.measure import estimate_latency
from tests.bench.conftest import save_convolution

NANO, XAVIER = "jetson-nano", "jetson-agx-xavier"
FITS = estimate.estimator().fits


def convolution(channels, *, side=28, filters=None, kind="dense3x3"):
    """3 x 3, as many channels out as in."""
    filters = filters or channels
    pixels = side * side
    groups = filters if kind == "grouped" else 1
    depth = channels // groups * 9
    return Kernel(
        kind=kind,
        macs=pixels * filters * depth,
        inputs=pixels * channels,
        weights=filters * depth,
        outputs=pixels * filters,
        depth=depth,
        in_channels=channels // groups,
        out_channels=filters // groups,
    )


def network(*kernels, side=224):
    return Network(kernels=kernels, input_shape=(1, 3, side, side), quantised=False)


def seconds(fit, *kernels):
    return latency_model.latency_s(
        latency_model.work_of(kernels, fit.machine, fit.precision), fit.constants
    )


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{fit.board} {fit.precision}")
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 112), st.integers(1, 40))
def test_more_of_anything_never_takes_less_time(fit, channels, filters, side, depth):
    base = seconds(fit, *[convolution(channels, filters=filters, side=side)] * depth)
    for more in (
        [convolution(channels, filters=filters, side=side)] * (depth + 1),
        [convolution(channels + 1, filters=filters, side=side)] * depth,
        [convolution(channels, filters=filters + 1, side=side)] * depth,
        [convolution(channels, filters=filters, side=side + 1)] * depth,
    ):
        assert seconds(fit, *more) >= base


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{fit.board} {fit.precision}")
def test_doubling_wide_channels_takes_between_two_and_four_times_the_device(fit):
    narrow, wide = (
        latency_model.kernel_times(
            latency_model.work_of([convolution(each, side=56)], fit.machine, fit.precision),
            fit.constants,
        )[0]
        for each in (512, 1024)
    )
    assert 2 <= wide / narrow <= 4.2  # 4.2: whole tiles on every multiprocessor


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: f"{fit.board} {fit.precision}")
def test_no_estimate_is_below_what_the_peak_allows(fit):
    kernel = convolution(1024, side=56)
    peak = fit.machine.peak_macs_per_s * latency_model.RATE[fit.precision]
    assert seconds(fit, kernel) > kernel.macs / peak / 2.25  # Winograd's saving


def test_fewer_bits_never_take_longer():
    by_board: dict[str, dict[str, estimate.BoardFit]] = {}
    for fit in FITS:
        by_board.setdefault(fit.board, {})[fit.precision] = fit
    compared = 0
    for fits in by_board.values():
        for more, less in (("fp32", "fp16"), ("fp16", "int8")):
            if {more, less} <= set(fits):
                for kernels in ([convolution(64)] * 20, [convolution(512, side=14)] * 50):
                    assert seconds(fits[less], *kernels) <= seconds(fits[more], *kernels)
                    compared += 1
    assert compared


def test_a_thousand_tiny_kernels_cost_launches_and_not_macs():
    fit = estimate.fit_for(load_target(XAVIER), "fp16")
    tiny = [Kernel(kind="copy", inputs=16, outputs=16)] * 1000
    launches = 1000 * fit.constants.enqueue_s + fit.constants.call_s
    assert seconds(fit, *tiny) == pytest.approx(launches, rel=0.05)


def test_equal_kernels_may_be_counted_instead_of_listed():
    fit = FITS[0]
    kernel = convolution(64)
    counted = latency_model.work_of([kernel], fit.machine, fit.precision, counts=[7])
    assert latency_model.latency_s(counted, fit.constants) == pytest.approx(
        seconds(fit, *[kernel] * 7)
    )


# --- refusals -------------------------------------------------------------------------------------


def refusal(target, precision, *kernels):
    with pytest.raises(IncompatibleError) as found:
        estimate.estimate_latency(
            network(*(kernels or [convolution(64)])), load_target(target), precision
        )
    return str(found.value)


def test_boards_that_were_never_measured_are_refused_and_the_others_named():
    message = refusal("jetson-tx2", "fp16")
    assert "no published measurement" in message
    assert "jetson-nano fp16" in message
    assert "jetson-agx-xavier fp16" in message


def test_a_precision_without_rows_is_refused():
    assert "jetson-nano in int8" in refusal(NANO, "int8")


def test_a_runtime_without_rows_is_refused():
    assert "onnxruntime" in refusal("raspberry-pi-5", "fp32")


def test_a_board_whose_left_out_rows_are_missed_too_far_is_refused_with_the_figure():
    message = refusal("jetson-agx-orin-64gb", "fp16")
    assert "efficientvit" in message
    assert "58%" in message


def test_kernels_that_no_row_has_are_refused():
    fit = estimate.fit_for(load_target(NANO), "fp16")
    assert fit.families_with("grouped") == {"efficientvit"}
    products = Kernel(kind="product", macs=10**9, inputs=10**6, outputs=10**6, depth=1000)
    orin = estimate.fit_for(load_target("jetson-orin-nano-8gb"), "fp16")
    assert not orin.families_with("product")
    assert "matrix products" in refusal("jetson-orin-nano-8gb", "fp16", products)


# --- what is said ---------------------------------------------------------------------------------


def test_a_file_is_estimated_with_interval_basis_and_digest(tmp_path):
    path = save_convolution(tmp_path / "m.onnx", ["N", 3, 224, 224])
    found = estimate_latency.estimate(path, target=load_target(XAVIER), precision="fp16")
    low, high = found.latency.interval
    assert 0 < low < found.latency.value < high
    assert "shufflenet" in found.latency.basis
    assert isinstance(found.energy, Unmeasured)
    assert any("outside of what was measured" in note for note in found.notes)
    assert any("what the measurement loop costs per call" in note for note in found.notes)
    assert from_json(ModelEstimate, to_json(found), origin="m") == found
    text = estimate_latency.format_estimate(found)
    assert text.startswith("Estimated for jetson-agx-xavier@jp5.1, not measured.")
    assert "90% interval" in text
    assert "no energy is estimated" in text


def test_what_rests_on_one_family_gets_the_wider_interval_and_a_note():
    target = load_target(NANO)
    sure = estimate.estimate_latency(network(*[convolution(256)] * 20), target, "fp16")
    hung = network(*[convolution(256, kind="grouped")] * 20)
    unsure = estimate.estimate_latency(hung, target, "fp16")

    def width(found):
        return found.interval[1] / found.value

    assert width(unsure) > width(sure)
    notes = estimate.notes(hung, estimate.fit_for(target, "fp16"))
    assert any("measured in one family only (efficientvit)" in note for note in notes)


def test_warnings_about_size_batch_and_types_are_said():
    fit = estimate.fit_for(load_target(XAVIER), "fp16")
    odd = replace(network(convolution(8), side=32), input_shape=(4, 3, 32, 32), quantised=True)
    notes = " | ".join(estimate.notes(odd, fit))
    for said in ("32 pixels, outside", "batch 4", "the file is quantised", "million MACs, outside"):
        assert said in notes


def test_an_estimate_lies_in_its_interval():
    with pytest.raises(ValidationError, match="does not lie"):
        Estimate(value=3.0, interval=(1.0, 2.0), unit="s", confidence=0.9, basis="b", model="1")


# --- the shipped constants ------------------------------------------------------------------------


def test_the_machines_are_those_of_the_targets():
    known = {board.name: board for board in boards()}
    for fit in FITS:
        assert fit.machine == estimator.machine_of(known[fit.board])


def test_every_fit_says_where_it_comes_from():
    for fit in FITS:
        assert all(fit.sources)
        assert all(fit.software)
        assert all(fit.power_mode)
    assert "benchmarks.bench.estimator" in estimate.estimator().command


@pytest.mark.parametrize("board", [NANO, XAVIER])
def test_left_out_families_are_met_as_well_as_the_documents_say(board):
    fit = estimate.fit_for(load_target(board), "fp16")
    missed = sorted(estimate.errors(fit.rows))
    assert missed[len(missed) // 2] <= 0.12
    assert missed[int(0.9 * (len(missed) - 1))] <= 0.35
    chosen = fit.rows_for(supported=True)
    width = estimate.half_width(chosen)
    assert width <= 0.4
    held = [abs(row.measured_s / row.left_out_s - 1) <= width for row in chosen]
    assert sum(held) >= 0.9 * len(held)


def test_the_table_of_results_is_that_of_the_constants():
    known = {
        (line["board"], line["precision"], line["rows"]): line
        for line in read_rows(estimator.RESULTS)
    }
    for line in estimator.table(estimate.estimator(), {}):
        there = known[str(line["board"]), str(line["precision"]), str(line["rows"])]
        for key in ("count", "families", "median", "p90", "largest", "interval"):
            assert str(line[key]) == there[key]


@pytest.mark.shared
def test_the_shipped_constants_follow_from_the_rows(shared):
    all_rows = rows(shared)
    networks = {row.network: kernels_of(row.network, estimator.KERNELS) for row in all_rows}
    machines = {fit.board: fit.machine for fit in FITS}
    works = estimator.works_of(all_rows, networks, machines)
    fitted = fit_of(all_rows, works, tuple(sorted(machines)))
    assert estimate.estimator().rows_digest == rows_digest(shared)
    for fit in FITS:
        again = fitted.constants(fit.board, fit.precision)
        for name in latency_model.Constants.__dataclass_fields__:
            assert getattr(again, name) == pytest.approx(getattr(fit.constants, name), rel=1e-3)


@pytest.mark.parametrize(
    ("scale", "millions", "gflop"),
    [("n", 2.6, 6.5), ("s", 9.4, 21.5), ("m", 20.1, 68.0), ("l", 25.3, 86.9), ("x", 56.9, 194.9)],
)
def test_yolo_has_the_published_size(scale, millions, gflop):
    parameters = sum(each.numel() for each in YOLO11(scale).parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=0.01)
    macs = kernels_of(f"yolo11{scale}@640", estimator.KERNELS).macs
    assert 2 * macs / 1e9 == pytest.approx(gflop, rel=0.02)
