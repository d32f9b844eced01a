"""Sensors of boards as the agent describes them, from fake trees, and what such boards take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import boards
from benchmarks.bench.sensing import INA226, INA238, INA3221, NVML, RAPL, Counter, Rail
from edgekd.bench.agent import sensor as sensor_types
from edgekd.bench.agent import (
    sensor_discovery,
    sensor_ina,
    sensor_nvml,
    sensor_rapl,
    sensor_tegrastats,
)
from edgekd.bench.protocol.responses import ChannelResponse, SensorResponse


@dataclass(frozen=True, kw_only=True)
class Case:
    """A sensor of a board, and the power that such a board takes."""

    sensor: SensorResponse
    idle_w: tuple[float, float]
    load_w: tuple[float, float]
    window_s: float
    rails: tuple[Rail, ...] = ()
    counter: Counter | None = None
    printed: bool = False


def describe_sensor(sensor: sensor_types.Sensor) -> SensorResponse:
    """A sensor of the agent as the host receives it."""
    told = sensor_types.describe_sensor(sensor)
    sensor.close()
    channels = tuple(
        ChannelResponse(**{**channel, "gains": tuple(channel["gains"])})
        for channel in told.pop("channels")
    )
    return SensorResponse(event="sensor", channels=channels, **told)


def _describe_found(found: sensor_types.Found) -> SensorResponse:
    sensor, reason = found
    if sensor is None:
        raise RuntimeError(reason)
    return describe_sensor(sensor)


def cases(folder: Path) -> dict[str, Case]:
    """By name; the trees go into the folder."""

    def place(name: str) -> sensor_types.Place:
        each = folder / name
        return sensor_types.Place(str(each / "sys"), str(each / "proc"), str(each))

    def jetson(name: str) -> SensorResponse:
        each = folder / name
        board = boards.JETSONS[name]
        boards.jetson(each / "sys", each / "proc", board, driver=board.drivers[-1], first=3)
        return _describe_found(sensor_discovery.find_sensor(place(name)))

    def rails(chip: Any, shunt_ohm: float, *parts: tuple[float, float]) -> tuple[Rail, ...]:  # noqa: ANN401
        return tuple(
            Rail(chip=chip, shunt_ohm=shunt_ohm, volts=volts, share=share) for volts, share in parts
        )

    boards.meter(folder / "meter" / "sys", "ina226", 5.0, 0.5, 0.01, number=2)
    boards.rapl(folder / "x86" / "sys")
    line = "RAM 1/2MB CPU [1%@100] cpu@40C VDD_IN 4654mW/4654mW VDD_SOC 1484mW/1484mW"
    boards.program(folder / "tegra", "tegrastats", f"#!/bin/sh\necho '{line}'\nexec sleep 10")
    card = sensor_types.sensor_of(
        "NVML energy counter",
        sensor_nvml.SCOPE,
        "counter",
        [sensor_types.Channel("GPU", "mJ", 0.0, [sensor_nvml.GAIN], 0.001, None)],
        interval_s=sensor_nvml.UPDATE_S,
        period_s=sensor_nvml.PERIOD_S,
        settle_s=2.0,
        read=list,
    )
    five = rails(INA3221, 0.005, (5.0, 1.0))
    small: dict[str, Any] = {"idle_w": (3.0, 6.0), "load_w": (6.0, 20.0)}
    large: dict[str, Any] = {"idle_w": (8.0, 15.0), "load_w": (15.0, 50.0)}
    return {
        "INA3221 Orin Nano": Case(
            sensor=jetson("orin-nano"), rails=five, window_s=10.0, **small
        ),
        "INA3221 Nano": Case(
            sensor=jetson("nano"), rails=five, window_s=10.0, idle_w=(1.0, 2.0), load_w=(2.5, 9.0)
        ),
        "INA3221 AGX Xavier": Case(
            sensor=jetson("agx-xavier"),
            rails=rails(
                INA3221, 0.005,
                (19.5, 0.3), (19.5, 0.15), (19.5, 0.2), (19.5, 0.05), (19.5, 0.1), (5.0, 0.2),
            ),
            window_s=10.0,
            **large,
        ),
        "INA3221 AGX Orin": Case(
            sensor=jetson("agx-orin"),
            rails=rails(INA3221, 0.002, (19.5, 0.5), (19.5, 0.2), (5.0, 0.3)),
            window_s=10.0,
            **large,
        ),
        "INA238 AGX Thor": Case(
            sensor=jetson("agx-thor"),
            rails=rails(INA238, 0.002, (19.6, 1.0)),
            window_s=10.0,
            idle_w=(20.0, 40.0),
            load_w=(40.0, 120.0),
        ),
        "INA226 meter": Case(
            sensor=_describe_found(sensor_ina.find_meter(place("meter"))),
            rails=rails(INA226, 0.01, (5.0, 1.0)),
            window_s=10.0,
            **small,
        ),
        "tegrastats Orin Nano": Case(
            sensor=_describe_found(sensor_tegrastats.find(place("tegra"))),
            rails=five,
            window_s=10.0,
            printed=True,
            **small,
        ),
        "RAPL": Case(
            sensor=_describe_found(sensor_rapl.find(place("x86"))), counter=RAPL, window_s=10.0,
            idle_w=(2.0, 10.0), load_w=(15.0, 120.0),
        ),
        "NVML counter": Case(
            sensor=describe_sensor(card), counter=NVML, window_s=10.0,
            idle_w=(10.0, 40.0), load_w=(60.0, 300.0),
        ),
    }  # fmt: skip
