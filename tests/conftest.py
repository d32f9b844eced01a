"""Markers that need something, and what many tests share."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine drawing examples is slow, and that is no fault.
settings.register_profile("edgekd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgekd")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch comes

REPOSITORY = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SHARED = REPOSITORY.parent / "shared"


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="run what is too long for CI")
    parser.addoption("--device", action="store_true", help="bench on an emulated board")
    parser.addoption(
        "--require",
        action="append",
        default=[],
        help="fail instead of skipping: browser, gpu, shared",
    )


def pytest_runtest_setup(item):
    required = item.config.getoption("--require")
    reasons = {
        "browser": _no_browser,
        "device": lambda: _no_device(item.config),
        "gpu": _no_gpu,
        "shared": _no_shared,
        "soak": lambda: _no_soak(item.config),
    }
    for marker, reason in reasons.items():
        if item.get_closest_marker(marker) is None:
            continue
        why = reason()
        if why and marker in required:
            pytest.fail(f"--require {marker}: {why}")
        if why:
            pytest.skip(why)


def _no_browser():
    found = any(shutil.which(name) for name in BROWSERS)
    return "" if found else f"no browser: none of {', '.join(BROWSERS)}"


def _no_device(config):
    return "" if config.getoption("--device") else "an emulated board: make device-test"


def _no_gpu():
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device"


def _no_shared():
    return "" if SHARED.is_dir() else "the real data and teachers are not beside the repository"


def _no_soak(config):
    return "" if config.getoption("--soak") else "a soak: run with --soak"


@pytest.fixture
def shared():
    return SHARED


@pytest.fixture
def compute():
    """The CPU in float32, made without accelerate, which allows one precision a process."""
    import torch

    from edgekd.distill.compute.device import Compute

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Compute(
        device=torch.device("cpu"),
        precision="fp32",
        autocast=contextlib.nullcontext,
        backward=lambda loss: loss.backward(),
    )
    torch.set_num_threads(threads)
