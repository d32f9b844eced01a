from edgekd.records import Calibration, LayerSensitivity
from edgekd.workflows.model_files import quantisation_lines

LAYERS = tuple(
    LayerSensitivity(layer=name, divergence=lost, macs_share=share, size_share=share)
    for name, lost, share in (("stem", 0.1234, 0.02), ("body", 0.01, 0.95), ("fc", 0.05, 0.03))
)
STEPS = {"max": 0.05, "equalised": 0.04, "kept": 0.02, "corrected": 0.01}


def calibration(**fields):
    return Calibration(
        method="max",
        images=64,
        held_out_images=32,
        agreement={"max": 0.9},
        divergence=STEPS,
        **fields,
    )


def test_nothing_is_said_where_nothing_was_done():
    assert quantisation_lines(calibration()) == []
    assert quantisation_lines(calibration(sensitivity=LAYERS)) == []


def test_layers_that_are_kept_are_named_with_what_they_would_lose():
    steps, layers = quantisation_lines(calibration(sensitivity=LAYERS, kept=("stem", "fc")))
    assert steps == "nats from FP32: 0.0500 by max, 0.0200 with 5.0% of the MACs in floating point"
    assert layers == (
        "kept in floating point (nats that each alone loses in INT8): stem (0.123), fc (0.050)"
    )


def test_every_step_is_said_with_what_it_left():
    (line,) = quantisation_lines(calibration(equalised=True, corrected=True))
    assert line == (
        "nats from FP32: 0.0500 by max, 0.0400 with channels of like ranges, "
        "0.0100 with weights and biases corrected layer by layer"
    )
