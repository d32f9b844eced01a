"""Hold every TensorRT name that edgekd uses against the real bindings: `make check-tensorrt`.

The wheels are proprietary: they go into a cache outside the repository (EDGEKD_CACHE, else
~/.cache/edgekd), and are imported behind empty shared libraries that gcc builds, one process each.
Exits with 1 where a name does not exist, and with 0 and a reason where the package index cannot be reached.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgekd.bench import agent
from edgekd.bench.agent.trt_python import RTX
from tests.bindings.collect import UndeclaredError, Use, uses

# By the TensorRT that they are of, what the index calls them. The stand-in is of none of TensorRT-RTX.
WHEELS = {
    "8.6.1": "tensorrt_bindings==8.6.1",
    "10.3.0": "tensorrt_cu12_bindings==10.3.0",
    "10.7.0": "tensorrt_cu12_bindings==10.7.0.post1",
    "10.13.3": "tensorrt_cu12_bindings==10.13.3.9.post1",
    "10.16.1": "tensorrt_cu12_bindings==10.16.1.11",
    "11.4.0": "tensorrt_cu12_bindings==11.4.0.106",
    "rtx-1.4.0": "tensorrt_rtx_cu13_bindings==1.4.0.76",
    "rtx-1.5.0": "tensorrt_rtx_cu13_bindings==1.5.0.114",
    "rtx-1.6.1": "tensorrt_rtx_cu13_bindings==1.6.1.120",
    "rtx-1.7.1": "tensorrt_rtx_cu13_bindings==1.7.1.116",
}
NO_WHEELS = ("8.2.1", "8.5.2")
SOURCE = Path(agent.__file__).parent / "trt_python.py"
STANDIN = Path(__file__).parents[1] / "standin"
INTROSPECT = Path(__file__).parent / "introspect.py"
# pip's words where there is no way to an index at all.
_UNREACHABLE = re.compile(
    r"NewConnectionError|Name or service not known|Temporary failure in name resolution|Network is unreachable"
    r"|ConnectTimeoutError|ProxyError|Connection refused|Could not fetch URL"
)


class UnreachableError(Exception):
    """There is no package index."""


class BrokenError(Exception):
    """The check itself cannot be made: no compiler, no wheel for this Python."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bindings", description=__doc__)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--cache", type=Path, default=cache())
    options = parser.parse_args()
    try:
        used = uses(options.source)
    except UndeclaredError as error:
        print(f"{options.source.name}, {error}")
        return 1
    print(f"{options.source.name}: {len({use.name for use in used})} names of TensorRT")
    try:
        found = {version: _checked(version, used, options.cache) for version in WHEELS}
    except UnreachableError as error:
        print(f"not verified: no package index can be reached ({error})")
        return 0
    except BrokenError as error:
        print(f"not verified: {error}")
        return 3
    for version in NO_WHEELS:
        print(f"TensorRT {version:9} not verified: there is no wheel of it")
    wrong = [line for version, problems in found.items() for line in _wrong(version, problems)]
    wrong += _nowhere(found)
    print("\n".join(sorted(wrong)) or "every name exists")
    return 1 if wrong else 0


def cache() -> Path:
    """Where wheels and stubs are kept."""
    given = os.environ.get("EDGEKD_CACHE")
    return (Path(given) if given else Path.home() / ".cache" / "edgekd") / "tensorrt-bindings"


Verdicts = list[tuple[Use, str | None]]


def _checked(version: str, used: Sequence[Use], folder: Path) -> Verdicts:
    """Verdicts on all uses, and on the names of the stand-in for that version."""
    stand_in = [] if version.startswith(RTX) else standin_names(version)
    verdicts = introspected(version, [*used, *stand_in], folder)
    held = sum(why is None for _, why in verdicts[: len(used)])
    lacking = sum(why is not None and use.optional for use, why in verdicts[: len(used)])
    print(
        f"TensorRT {version:9} {held} of {len(used)} uses verified, {lacking} that it lacks are asked for first; "
        f"{len(stand_in)} names of the stand-in",
        flush=True,
    )
    return verdicts


def introspected(version: str, used: Sequence[Use], folder: Path) -> Verdicts:
    """Ask the real module of a version, in a process of its own."""
    home = bindings(version, folder)
    environment = os.environ | {"LD_LIBRARY_PATH": str(home / "stubs"), "PYTHONPATH": str(home)}
    done = subprocess.run(
        [sys.executable, str(INTROSPECT), _names(version)[0]],
        input=json.dumps([dataclasses.asdict(use) for use in used]),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise BrokenError(f"the bindings {version} do not load: {done.stderr.strip()[-300:]}")
    return list(zip(used, json.loads(done.stdout), strict=True))


def standin_names(version: str) -> list[Use]:
    """What the stand-in has when it is that version."""
    code = (
        "import enum, inspect, json, tensorrt as trt\n"
        "classes = {n: k for n, k in vars(trt).items() if inspect.isclass(k) and not n.startswith('_')}\n"
        "names = [[n, m] for n, k in classes.items() for m in vars(k) if not m.startswith('_')]\n"
        "print(json.dumps([[n] for n in classes] + names))"
    )
    environment = os.environ | {"PYTHONPATH": str(STANDIN), "STANDIN_TENSORRT": version}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return [Use(path=tuple(path), line=0) for path in json.loads(done.stdout)]


def _wrong(version: str, verdicts: Verdicts) -> list[str]:
    return [
        f"{'the stand-in' if not use.line else f'line {use.line}'}: {use.name}: {why} in TensorRT {version}"
        for use, why in verdicts
        if why is not None and not (use.optional and why == "missing")
    ]


def _nowhere(found: dict[str, Verdicts]) -> list[str]:
    """Names that are asked for first, and that no version has: misspelt."""
    held = {use.name for verdicts in found.values() for use, why in verdicts if why is None}
    asked = {use for verdicts in found.values() for use, _ in verdicts if use.optional}
    return [
        f"line {use.line}: {use.name}: missing in all versions"
        for use in asked
        if use.name not in held
    ]


# --- the bindings ------------------------------------------------------------------------------


def bindings(version: str, folder: Path) -> Path:
    """The folder of a version's bindings, with the stubs that they load.

    Raises:
        UnreachableError: they are not there, and no index is.
        BrokenError: they cannot be had for this Python, or no stubs can be built.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    home = folder / f"{version}-{python}"
    if (home / "stubs").is_dir():
        return home
    home.mkdir(parents=True, exist_ok=True)
    _download(version, home)
    (wheel,) = home.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home)
    part = home / "stubs.part"
    part.mkdir(exist_ok=True)
    package, library = _names(version)
    _build_stubs(home / package / f"{library}.so", part)
    part.rename(home / "stubs")
    return home


def _names(version: str) -> tuple[str, str]:
    """The package in a wheel, and the library in it."""
    name = "tensorrt_rtx" if version.startswith(RTX) else "tensorrt"
    return f"{name}_bindings", name


def _download(version: str, home: Path) -> None:
    if list(home.glob("*.whl")):
        return
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    done = subprocess.run(
        [*command, "--dest", str(home), WHEELS[version]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        error = " ".join(done.stderr.split())[-300:]
        if _UNREACHABLE.search(done.stderr):
            raise UnreachableError(error)
        raise BrokenError(
            f"pip has no {WHEELS[version]} for Python {sys.version.split()[0]}: {error}"
        )


def _build_stubs(module: Path, folder: Path) -> None:
    """Shared libraries of the names that the module links to, with functions that do nothing."""
    needed = re.findall(
        r"NEEDED.*\[(lib(?:nv|tensorrt)\S+)\]", _said(["readelf", "--dynamic", str(module)])
    )
    lines = _said(["nm", "--dynamic", "--undefined-only", str(module)]).splitlines()
    functions = [words[1] for words in map(str.split, lines) if words[0] == "U"]
    # Versioned names are those of the C library; the rest of what is not TensorRT's is Python's and the loader's.
    ours = [n for n in functions if "@" not in n and not n.startswith(("Py", "_Py", "dl"))]
    source = folder / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ours))
    for name in needed:
        _said(
            [
                "gcc",
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{name}",
                "-o",
                str(folder / name),
                str(source),
            ]
        )


def _said(command: Iterable[str]) -> str:
    words = list(command)
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise BrokenError(
            f"{words[0]} is not installed (it comes with gcc and binutils)"
        ) from error
    except subprocess.CalledProcessError as error:
        raise BrokenError(f"{words[0]}: {error.stderr.strip()[-300:]}") from error
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
