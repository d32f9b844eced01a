"""The check of TensorRT's names: what it reads, and that it fails on what does not exist."""

import subprocess
import sys

import pytest

from tests.bindings.__main__ import NO_WHEELS, SOURCE, WHEELS, cache
from tests.bindings.collect import UndeclaredError, uses

HEAD = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from tensorrt import Builder, IBuilderConfig
"""


def read(tmp_path, body):
    source = tmp_path / "calls.py"
    source.write_text(HEAD + body)
    return {use.name: use for use in uses(source)}


def test_names_are_read_with_how_they_are_used(tmp_path):
    found = read(
        tmp_path,
        """
def build(trt, builder: "Builder"):
    config: "IBuilderConfig" = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pool_size=1)
    config.DLA_core = 0
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
""",
    )
    limit = found["IBuilderConfig.set_memory_pool_limit"]
    assert (limit.called, limit.positional, limit.keywords) == (True, 1, ("pool_size",))
    assert found["IBuilderConfig.DLA_core"].set
    assert found["BuilderFlag.FP16"].optional
    assert not found["MemoryPoolType.WORKSPACE"].optional
    assert not found["IBuilderConfig.set_flag"].optional


def test_overridden_methods_are_names_too(tmp_path):
    found = read(
        tmp_path,
        """
def logger(trt):
    class Logger(trt.ILogger):
        def log(self, severity, msg):
            pass
    return Logger()
""",
    )
    assert found["ILogger.log"].overrides
    assert found["ILogger.log"].keywords == ("severity", "msg")


@pytest.mark.parametrize(
    "line",
    [
        "builder.create_builder_config().set_flag(1)",
        "config = builder.create_builder_config(); config.set_flag(1)",
    ],
)
def test_what_is_not_said_cannot_be_checked_and_is_refused(tmp_path, line):
    with pytest.raises(UndeclaredError):
        read(tmp_path, f'\ndef build(trt, builder: "Builder"):\n    {line}\n')


def check(source):
    return subprocess.run(
        [sys.executable, "-m", "tests.bindings", "--source", str(source)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def cached():
    """The real bindings; nothing is downloaded for a test."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    missing = [v for v in WHEELS if not (cache() / f"{v}-{python}" / "stubs").is_dir()]
    if missing:
        pytest.skip(f"no bindings of {', '.join(missing)}: make check-tensorrt brings them")


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "builder.create_builder_config()",
            "builder.create_build_config()",
            "Builder.create_build_config: missing",
        ),
        ("trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.WORKSPACES", "WORKSPACES: missing"),
        # Asked for first, and in no version.
        (
            'hasattr(trt.BuilderFlag, "FP16")',
            'hasattr(trt.BuilderFlag, "FP61")',
            "FP61: missing in all versions",
        ),
        (
            "config.set_timing_cache(cache, False)",
            "config.set_timing_cache(cache, ignore=False)",
            "set_timing_cache: takes",
        ),
    ],
)
def test_a_name_that_does_not_exist_fails_the_check(tmp_path, right, wrong, said):
    text = SOURCE.read_text(encoding="utf-8")
    assert right in text
    planted = tmp_path / "engines.py"
    planted.write_text(text.replace(right, wrong), encoding="utf-8")
    done = check(planted)
    assert done.returncode == 1
    assert said in done.stdout


@pytest.mark.usefixtures("cached")
def test_the_names_that_are_used_exist():
    done = check(SOURCE)
    assert done.returncode == 0, done.stdout
    for version in (*WHEELS, *NO_WHEELS):
        assert f"TensorRT {version}" in done.stdout
