"""Which machine is which board."""

from typing import Any

import pytest

from edgekd.bench.protocol.responses import ProbeResponse
from edgekd.targets.catalogue import load_target
from edgekd.workflows.measure.benchmark import is_board


def probe(**changes) -> ProbeResponse:
    """A machine of which nothing is known but its processor."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("board", "memory_bytes", "available_bytes", "swap_bytes", "l4t", "cuda", "power_mode", "cpu_max_mhz", "gpu_mhz",
         "fan", "sensor", "scope", "no_sensor", "onnxruntime", "tensorrt", "trtexec", "governor", "cpu_mhz",
         "temperature_c", "load_before")
    )  # fmt: skip
    usual: dict[str, Any] = {
        "event": "probe", "machine": "a machine", "os": "Linux", "python": "3.10", "emulated": False, "kernel": "5",
        "architecture": "aarch64", "processors": 6, "compatible": (), "zones_c": {}, "missing": {},
    }  # fmt: skip
    return ProbeResponse(**(nothing | usual | changes))


ORIN_NANO_8GB = ("nvidia,p3768-0000+p3767-0003", "nvidia,p3767-0003", "nvidia,tegra234")
ORIN_NX_16GB = ("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234")


@pytest.mark.parametrize(
    ("target", "found", "expected"),
    [
        ("jetson-orin-nano-8gb", {"compatible": ORIN_NANO_8GB}, True),
        ("jetson-orin-nano-8gb", {"compatible": ORIN_NX_16GB}, False),
        ("jetson-orin-nx-16gb", {"compatible": ORIN_NX_16GB}, True),
        ("jetson-orin-nx-16gb", {"compatible": ORIN_NANO_8GB}, False),
        # Kits of 4 and of 8 GB are called alike: without a number nothing is known.
        ("jetson-orin-nano-8gb", {"board": "NVIDIA Jetson Orin Nano Developer Kit"}, False),
        ("jetson-orin-nano-8gb", {"compatible": ORIN_NANO_8GB, "emulated": True}, False),
        ("raspberry-pi-5", {"board": "Raspberry Pi 5 Model B Rev 1.0"}, True),
        ("raspberry-pi-5", {"board": "Raspberry Pi 4 Model B Rev 1.4"}, False),
        ("raspberry-pi-5", {}, False),
        ("x86", {"architecture": "x86_64"}, True),
        ("x86", {"architecture": "aarch64"}, False),
        ("jetson-orin-nano-8gb", {"architecture": "x86_64"}, False),
    ],
)
def test_a_board_is_known_by_its_device_tree(target, found, expected):
    assert is_board(probe(**found), load_target(target)) is expected
