"""The recipe of docs/offline.md, run as it stands there, without a network.

The whole wheelhouse has gigabytes. Here it holds edgekd and its light dependencies, packed again
from what is installed; the heavy ones are lent to the new environment through a path file.
"""

import base64
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import console
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "offline.md"
SOURCES = (
    *("edgekd", "distill", "export", "bench", "targets"),
    *("pyproject.toml", "README.md", "LICENSE", "constraints.txt"),
)
# What edgekd needs before it imports a framework, and setuptools, which torch needs; their own dependencies are found from them.
LIGHT = ("typer", "pydantic", "rich", "setuptools")
NOT_LENT = ("pip", "edgekd")


def light_distributions():
    waiting, found = list(LIGHT), {}
    while waiting:
        name = waiting.pop()
        distribution = importlib.metadata.distribution(name)
        if distribution.name in found:
            continue
        found[distribution.name] = distribution
        for line in distribution.requires or []:
            wanted = Requirement(line)
            # Others are for another platform, another Python or an extra, whether they are installed or not.
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(wanted.name)
    return list(found.values())


def packed(distribution, folder):
    """A wheel from an installed distribution: its files, without what the installer added."""
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line[5:].split("-") for line in lines if line.startswith("Tag: ")]
    tag = "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags, strict=True))
    name = f"{distribution.name.replace('-', '_')}-{distribution.version}-{tag}.whl"
    added = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    rows = []
    with zipfile.ZipFile(folder / name, "w") as archive:
        info = ""
        for file in distribution.files or []:
            if file.suffix == ".pyc" or ".." in file.parts:
                continue
            if file.parts[0].endswith(".dist-info"):
                info = file.parts[0]
                if file.name in added:
                    continue
            content = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            rows.append(f"{file},sha256={digest.decode()},{len(content)}")
            archive.writestr(str(file), content)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return name


def lent(folder, light):
    """A folder of links to everything installed but the light distributions, and pip."""
    folder.mkdir()
    # More than one where the environment was made with --system-site-packages.
    sites = [
        Path(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))
    ]
    kept_back = set()
    for name in [*NOT_LENT, *(distribution.name for distribution in light)]:
        for file in importlib.metadata.distribution(name).files or []:
            kept_back.add(file.parts[0])
    for entry in (entry for site in sites if site.is_dir() for entry in site.iterdir()):
        link = folder / entry.name
        wanted = entry.name not in kept_back and entry.suffix != ".pth"
        if wanted and "edgekd" not in entry.name and not link.is_symlink():
            link.symlink_to(entry)


def offline():
    """What a command is started with to have no network; nothing where that is not allowed."""
    tool = shutil.which("unshare")
    alone = [tool or "unshare", "--user", "--map-root-user", "--net"]
    allowed = tool and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    return alone if allowed else []


@pytest.mark.slow
def test_the_recipe_works_without_an_index(tmp_path):
    connected, carried = console.blocks(PAGE.read_text(), "sh")
    source = tmp_path / "clone"
    source.mkdir()
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(REPOSITORY / name, source / name)
    light = light_distributions()
    assert {"pydantic_core", "typing_extensions"} <= {found.name for found in light}
    environment = clean(tmp_path)

    wheel, tar = connected.splitlines()
    # Neither the gigabytes nor a build environment from an index.
    run(f"{wheel} --no-deps --no-build-isolation", source, environment)
    wheels = [packed(distribution, source / "wheelhouse") for distribution in light]
    run(tar, source, environment)

    target = tmp_path / "target"
    target.mkdir()
    shutil.copy(source / "wheelhouse.tar", target)
    unpack, create, install, look = carried.splitlines()
    run(unpack, target, environment)
    run(create, target, environment)
    lent(tmp_path / "lent", light)
    (site,) = (target / "edgekd-env" / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(f"{tmp_path / 'lent'}\n")
    printed = run(install, target, environment)
    for name in wheels:
        assert f"wheelhouse/{name}" in printed
    assert "every command can run here" in run(look, target, environment)
    where = "edgekd-env/bin/python -c 'import edgekd, rich; print(edgekd.__file__, rich.__file__)'"
    assert run(where, target, environment).count(str(site)) == 2


@pytest.mark.slow
def test_what_is_not_in_the_folder_is_not_fetched(tmp_path):
    _, carried = console.blocks(PAGE.read_text(), "sh")
    _, create, install, _ = carried.splitlines()
    (tmp_path / "wheelhouse").mkdir()
    environment = clean(tmp_path)
    run(create, tmp_path, environment)
    failed = subprocess.run(
        [*offline(), "sh", "-c", install],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert failed.returncode != 0
    assert "No matching distribution found for edgekd" in failed.stderr


def clean(folder):
    """No settings of pip, no index, no proxy that answers."""
    (folder / "bin").mkdir()
    tool = folder / "bin" / "python3"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    tool.chmod(0o755)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "PYTHON")) and "proxy" not in name.lower()
    }
    return kept | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }


def run(line, cwd, environment):
    ran = subprocess.run(
        [*offline(), "sh", "-c", line],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
    )
    assert ran.returncode == 0, f"$ {line}\n{ran.stdout}"
    return ran.stdout
