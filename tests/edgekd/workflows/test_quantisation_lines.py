from edgekd.records import Calibration, LayerSensitivity
from edgekd.workflows.model_files import quantisation_lines

LAYERS = tuple(
    LayerSensitivity(layer=name, divergence=lost, macs_share=share, size_share=share)
    for name, lost, share in (("stem", 0.1234, 0.02), ("body", 0.01, 0.95), ("fc", 0.05, 0.03))
)


def calibration(**fields):
    return Calibration(
        method="max",
        images=64,
        held_out_images=32,
        agreement={"max": 0.9},
        divergence={"max": 0.05, "corrected": 0.01},
        **fields,
    )


def test_nothing_is_said_where_nothing_was_done():
    assert quantisation_lines(calibration()) == []
    assert quantisation_lines(calibration(sensitivity=LAYERS)) == []


def test_layers_that_are_kept_are_named_with_what_they_would_lose():
    (line,) = quantisation_lines(calibration(sensitivity=LAYERS, kept=("stem", "fc")))
    assert line == (
        "kept in floating point, 5.0% of the MACs (nats lost by each alone in INT8): stem (0.123), fc (0.050)"
    )


def test_what_the_correction_was_worth_is_said():
    (line,) = quantisation_lines(calibration(corrected=True))
    assert line.endswith("0.0100 nats from FP32, 0.0500 without")
