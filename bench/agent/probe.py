"""What a board is and has. None, or a reason: could not be read, never guessed."""

import glob
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any, Callable, Dict, List, Optional

from edgekd.bench.agent import (
    board,
    conditions,
    sensor_discovery,
    trt_python,
    trtexec,
)
from edgekd.bench.agent import sensor as sensor_types
from edgekd.bench.agent.errors import RefusedError

TIMEOUT_S = 10


def probe(proc: str, sysfs: str, root: str) -> Dict[str, Any]:
    """Board, software, clocks, sensors and runtimes.

    Args:
        proc: usually /proc.
        sysfs: usually /sys.
        root: usually /.
    """
    found = conditions.conditions_of(proc, sysfs)
    sensor, reason = sensor_discovery.find_sensor(sensor_types.Place(sysfs, proc, root))
    onnxruntime, tensorrt, tool = _runtime("onnxruntime"), _tensorrt(), _trtexec()
    return dict(
        found,
        board=conditions.read_text(os.path.join(proc, "device-tree", "model")) or None,
        compatible=_compatible(proc),
        kernel=platform.release(),
        architecture=platform.machine(),
        processors=os.cpu_count() or 1,
        memory_bytes=board.memory_bytes(proc, "MemTotal"),
        available_bytes=board.memory_bytes(proc, "MemAvailable"),
        swap_bytes=board.memory_bytes(proc, "SwapTotal"),
        l4t=board.l4t(root),
        cuda=_cuda(root),
        power_mode=_power_mode(),
        cpu_max_mhz=_most(sysfs, "devices/system/cpu/cpu*/cpufreq/scaling_max_freq", 1000.0),
        gpu_mhz=_most(sysfs, "class/devfreq/*gpu*/cur_freq", 1e6)
        or _most(sysfs, "class/devfreq/*.g?[0-9]*b/cur_freq", 1e6),
        fan=_most(sysfs, "class/hwmon/hwmon*/pwm1", 255.0),
        zones_c=_zones(sysfs),
        sensor=None if sensor is None else sensor.name,
        scope=None if sensor is None else sensor.scope,
        no_sensor=reason or None,
        onnxruntime=onnxruntime.get("version"),
        tensorrt=tensorrt.get("version"),
        trtexec=tool.get("version"),
        missing={
            name: each["reason"]
            for name, each in (
                ("onnxruntime", onnxruntime),
                ("tensorrt", tensorrt),
                ("trtexec", tool),
            )
            if "reason" in each
        },
    )


def _compatible(proc: str) -> List[str]:
    """The device tree's names of board and module: "nvidia,p3767-0003"."""
    try:
        with open(os.path.join(proc, "device-tree", "compatible"), "rb") as stream:
            names = stream.read().decode("ascii", "replace").split("\0")
    except OSError:
        return []
    return [name for name in names if name]


_IMPORT = """
import importlib, sys
reasons = []
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        reasons.append(error)
    else:
        print(name, module.__version__)
        sys.exit()
raise reasons[0]
"""


def _runtime(*names: str) -> Dict[str, str]:
    """Name and version of the first module that is there, asked for in a process of its own: what is broken may crash."""
    try:
        done = _run([sys.executable, "-c", _IMPORT, *names], timeout_s=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"reason": str(error)}
    if done.returncode == 0:
        name, version = done.stdout.decode("utf-8", "replace").split()[-2:]
        return {"name": name, "version": version}
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return {"reason": last[0] if last else "its import ended with {}".format(done.returncode)}


def _tensorrt() -> Dict[str, str]:
    """JetPack 4 has a module that is too old to be used; its trtexec is."""
    found = _runtime(*trt_python.MODULES)
    if "version" not in found:
        return found
    version = trt_python.version_text(found["name"], found["version"])
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not version.startswith(trt_python.RTX) and numbers and numbers < trt_python.OLDEST:
        return {"reason": "{} is older than {}.{}".format(version, *trt_python.OLDEST)}
    return {"version": version}


def _trtexec() -> Dict[str, str]:
    try:
        return {"version": trtexec.tool_of(trtexec.find_trtexec()).tensorrt}
    except (RefusedError, OSError) as error:
        return {"reason": str(error)}


def _cuda(root: str) -> Optional[str]:
    folder = os.path.join(root, "usr", "local", "cuda")
    try:
        with open(os.path.join(folder, "version.json"), encoding="utf-8") as stream:
            return str(json.load(stream)["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    words = (
        conditions.read_text(os.path.join(folder, "version.txt")) or ""
    ).split()  # CUDA 10: "CUDA Version 10.2.89"
    return words[-1] if words else None


def _power_mode() -> Optional[str]:
    """The name and number of a Jetson's power mode, as `nvpmodel -q` says it: "15W (0)"."""
    program = shutil.which("nvpmodel") or "/usr/sbin/nvpmodel"
    try:
        done = _run([program, "-q"], timeout_s=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.decode("utf-8", "replace")
    name = re.search(r"NV Power Mode:\s*(\S+)", text)
    number = re.search(r"^\s*(\d+)\s*$", text, re.MULTILINE)
    if name is None:
        return None
    return "{} ({})".format(name.group(1), number.group(1)) if number else name.group(1)


def _zones(sysfs: str) -> Dict[str, float]:
    """Temperature by zone, in degrees Celsius; a zone that is gated does not answer and is left out."""
    found = {}
    for folder in sorted(glob.glob(os.path.join(sysfs, "class", "thermal", "thermal_zone*"))):
        name, value = (
            conditions.read_text(os.path.join(folder, each)) for each in ("type", "temp")
        )
        try:
            found[name or os.path.basename(folder)] = float(value or "") / 1000.0
        except ValueError:
            continue
    return found


def _most(sysfs: str, pattern: str, unit: float) -> Optional[float]:
    values = conditions.numbers(glob.glob(os.path.join(sysfs, pattern)))
    return max(values) / unit if values else None


def _run(command: List[str], timeout_s: float) -> Any:
    run: Callable[..., Any] = subprocess.run
    return run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout_s,
        check=False,
    )
