"""Sysfs trees of boards, written from what their device trees and drivers show. For tests and replays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Driver = Literal["hwmon", "iio"]


@dataclass(frozen=True, kw_only=True)
class Rail:
    """A channel with a label, or None where it is not connected at all."""

    label: str
    volts: float = 5.0
    amperes: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Jetson:
    model: str
    compatible: str
    chips: tuple[tuple[Rail | None, ...], ...]  # of 0x40, 0x41
    shunt_ohm: float
    total: tuple[str, ...]  # the rails whose sum is the total
    input_volts: float | None = None  # of an INA238 on the carrier
    drivers: tuple[Driver, ...] = ("iio", "hwmon")


def _rails(*labels: str, volts: float = 5.0) -> tuple[Rail, ...]:
    return tuple(
        Rail(label=label, volts=volts, amperes=0.2 + 0.1 * place)
        for place, label in enumerate(labels)
    )


_NX: Final = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
_ORIN_SUM: Final = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
_XAVIER_SUM: Final = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
_THOR_SUM: Final = ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")

JETSONS: Final = {
    "nano": Jetson(
        model="NVIDIA Jetson Nano Developer Kit",
        compatible="nvidia,p3450-0000 nvidia,jetson-nano nvidia,tegra210",
        chips=(_rails("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"),),
        shunt_ohm=0.005,
        total=("POM_5V_IN",),
        drivers=("iio",),
    ),
    "tx1": Jetson(
        model="jetson_tx1",
        compatible="nvidia,p2371-2180 nvidia,tegra210",
        chips=(_rails("VDD_IN", "VDD_GPU", "VDD_CPU"), _rails("VDD_MUX", "VDD_5V_IO_SYS")),
        shunt_ohm=0.005,
        total=("VDD_IN",),
        drivers=("iio",),
    ),
    "tx2": Jetson(
        model="quill",
        compatible="nvidia,p2597-0000+p3310-1000 nvidia,quill nvidia,tegra186",
        chips=(
            _rails("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
            _rails("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
        ),
        shunt_ohm=0.005,
        total=("VDD_IN",),
        drivers=("iio",),
    ),
    "tx2-nx": Jetson(
        model="NVIDIA Jetson TX2 NX Developer Kit",
        compatible="nvidia,p3636-0001 nvidia,tegra186",
        chips=(_rails("VDD_IN", "VDD_CPU_GPU", "VDD_SOC"),),
        shunt_ohm=0.005,
        total=("VDD_IN",),
        drivers=("iio",),
    ),
    "xavier-nx": Jetson(
        model="NVIDIA Jetson Xavier NX Developer Kit",
        compatible="nvidia,p3668-0000 nvidia,tegra194",
        chips=(_rails(*_NX),),
        shunt_ohm=0.005,
        total=("VDD_IN",),
    ),
    "agx-xavier": Jetson(
        model="Jetson-AGX",
        compatible="nvidia,p2972-0000 nvidia,tegra194",
        chips=(
            _rails("GPU", "CPU", "SOC", volts=19.5),
            (*_rails("CV", "VDDRQ", volts=19.5), *_rails("SYS5V")),
        ),
        shunt_ohm=0.005,
        total=_XAVIER_SUM,
    ),
    "orin-nano": Jetson(
        model="NVIDIA Jetson Orin Nano Developer Kit",
        compatible="nvidia,p3768-0000+p3767-0005 nvidia,tegra234",
        chips=(_rails(*_NX),),
        shunt_ohm=0.005,
        total=("VDD_IN",),
        drivers=("hwmon",),
    ),
    "orin-nx": Jetson(
        model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        compatible="nvidia,p3768-0000+p3767-0000 nvidia,tegra234",
        chips=(_rails(*_NX),),
        shunt_ohm=0.005,
        total=("VDD_IN",),
        drivers=("hwmon",),
    ),
    "agx-orin": Jetson(
        model="NVIDIA Jetson AGX Orin Developer Kit",
        compatible="nvidia,p3737-0000+p3701-0000 nvidia,tegra234",
        chips=(
            (*_rails("VDD_GPU_SOC", "VDD_CPU_CV", volts=19.5), *_rails("VIN_SYS_5V0")),
            _rails("NC", "VDDQ_VDD2_1V8AO", "NC"),
        ),
        shunt_ohm=0.002,
        total=_ORIN_SUM,
        drivers=("hwmon",),
    ),
    "agx-thor": Jetson(
        model="NVIDIA Jetson AGX Thor Developer Kit",
        compatible="nvidia,p4071-0000+p3834-0008 nvidia,tegra264",
        chips=((*_rails("VDD_GPU", "VDD_CPU_SOC_MSS", volts=19.6), *_rails("VIN_SYS_5V0")),),
        shunt_ohm=0.002,
        total=_THOR_SUM,
        input_volts=19.6,
        drivers=("hwmon",),
    ),
}


def put(path: Path, content: object) -> Path:
    """A file of a tree, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n", encoding="utf-8")
    return path


def device_tree(proc: Path, model: str, compatible: str) -> None:
    """The model and what it is compatible with; words of the latter are told apart by zero bytes."""
    tree = proc / "device-tree"
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "model").write_bytes(model.encode() + b"\0")
    (tree / "compatible").write_bytes(compatible.replace(" ", "\0").encode() + b"\0")


def hwmon(sysfs: Path, number: int, name: str, **files: object) -> Path:
    folder = sysfs / "class" / "hwmon" / f"hwmon{number}"
    put(folder / "name", name)
    for key, content in files.items():
        put(folder / key, content)
    return folder


def ina3221(
    sysfs: Path, rails: Sequence[Rail | None], shunt_ohm: float, *, number: int, driver: Driver
) -> Path:
    """A chip as the driver of JetPack 4 (iio) or of mainline (hwmon) shows it."""
    if driver == "iio":
        folder = sysfs / f"bus/i2c/drivers/ina3221x/6-004{number}/iio:device{number}"
        for place, rail in enumerate(rails):
            if rail is not None:
                put(folder / f"rail_name_{place}", rail.label)
                put(folder / f"in_voltage{place}_input", round(rail.volts * 1e3))
                put(folder / f"in_current{place}_input", round(rail.amperes * 1e3))
                put(folder / f"in_power{place}_input", round(rail.volts * rail.amperes * 1e3))
        return folder
    folder = hwmon(sysfs, number, "ina3221", samples=1, update_interval=7)
    for place, rail in enumerate(rails, start=1):
        put(folder / f"shunt{place}_resistor", round(shunt_ohm * 1e6))
        put(folder / f"in{place + 3}_input", 7)  # shunt voltages, in microvolts
        if rail is not None:
            put(folder / f"in{place}_label", rail.label)
            put(folder / f"in{place}_input", round(rail.volts * 1e3))
            put(folder / f"curr{place}_input", round(rail.amperes * 1e3))
            put(folder / f"curr{place}_crit_alarm", 0)
    put(folder / "in7_label", "sum of shunt voltages")
    put(folder / "in7_input", 21)
    put(folder / "curr4_input", 900)
    return folder


def jetson(sysfs: Path, proc: Path, board: Jetson, *, driver: Driver, first: int = 0) -> None:
    """The trees of a board; hwmon counts from `first`, which differs from boot to boot."""
    device_tree(proc, board.model, board.compatible)
    for place, rails in enumerate(board.chips):
        ina3221(sysfs, rails, board.shunt_ohm, number=first + place, driver=driver)
    if board.input_volts is not None:
        meter(sysfs, "ina238", board.input_volts, 0.9, 0.002, number=first + 7)


def meter(
    sysfs: Path, name: str, volts: float, amperes: float, shunt_ohm: float, *, number: int
) -> Path:
    """A single-channel chip: in0 is the shunt's voltage, in1 the bus's."""
    return hwmon(
        sysfs,
        number,
        name,
        in0_input=round(amperes * shunt_ohm * 1e3),
        in1_input=round(volts * 1e3),
        curr1_input=round(amperes * 1e3),
        power1_input=round(volts * amperes * 1e6),
        shunt_resistor=round(shunt_ohm * 1e6),
    )


def rapl(
    sysfs: Path, *, packages: int = 1, count_uj: int = 123, range_uj: int = 262_143_328_850
) -> Path:
    """Packages, with sub-zones that are parts of them and a psys zone that overlaps all."""
    root = sysfs / "class" / "powercap"
    zones = {"intel-rapl:9": "psys"}
    for number in range(packages):
        zones |= {f"intel-rapl:{number}": f"package-{number}", f"intel-rapl:{number}:0": "core"}
    for zone, name in zones.items():
        put(root / zone / "name", name)
        put(root / zone / "max_energy_range_uj", range_uj)
        put(root / zone / "energy_uj", count_uj)
    return root


def program(root: Path, name: str, text: str) -> Path:
    """A program of the board's image: a script that stands in for it."""
    path = put(root / "usr" / "bin" / name, text)
    path.chmod(0o755)
    return path
