"""What a power sensor would read of a known power, written from its datasheet.

Nothing here comes from `edgekd.bench.analysis.energy`, which is what is tried with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgekd.bench.agent.power_sampler import due_s

Array = NDArray[np.float64]

STEP_S: Final = 0.001  # of the grid that the truth is known on


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A power that is known everywhere."""

    watts: Array  # (n,), mean of each step of the grid
    joules: Array  # (n + 1,), until the start of each

    def energy_j(self, begin_s: Array | float, end_s: Array | float) -> Array:
        grid = np.arange(len(self.joules)) * STEP_S
        edges = [np.asarray(np.interp(each, grid, self.joules)) for each in (begin_s, end_s)]
        return edges[1] - edges[0]

    def mean_w(self, begin_s: Array, seconds: float) -> Array:
        return self.energy_j(begin_s, begin_s + seconds) / seconds

    @property
    def seconds(self) -> float:
        return len(self.watts) * STEP_S


def truth_of(watts: Array) -> Truth:
    return Truth(watts=watts, joules=np.concatenate([[0.0], np.cumsum(watts) * STEP_S]))


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Steps, and the largest offsets and gain errors; volts, and no unit."""

    shunt_step: float
    shunt_offset: float
    bus_step: float
    bus_offset: float
    gain: float
    conversion_s: float  # of one voltage
    cycle_s: float  # until the same one is converted again


INA3221: Final = Chip(
    shunt_step=40e-6, shunt_offset=80e-6, bus_step=8e-3, bus_offset=16e-3,
    gain=0.0025, conversion_s=1.1e-3, cycle_s=6.6e-3,
)  # fmt: skip
INA238: Final = Chip(
    shunt_step=5e-6, shunt_offset=5e-6, bus_step=3.125e-3, bus_offset=5e-3,
    gain=0.001, conversion_s=1.074e-3, cycle_s=3.2e-3,
)  # fmt: skip
INA226: Final = Chip(
    shunt_step=2.5e-6, shunt_offset=10e-6, bus_step=1.25e-3, bus_offset=7.5e-3,
    gain=0.001, conversion_s=1.1e-3, cycle_s=2.2e-3,
)  # fmt: skip
SHUNT_TOLERANCE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class RailErrors:
    """What one channel is wrong by, the same at every reading."""

    shunt_offset_v: float
    bus_offset_v: float
    gains: tuple[float, float, float]  # current, voltage, shunt


NO_ERRORS: Final = RailErrors(shunt_offset_v=0.0, bus_offset_v=0.0, gains=(0.0, 0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class Rail:
    chip: Chip
    shunt_ohm: float
    volts: float
    share: float  # of the power

    def draw(self, random: np.random.Generator) -> RailErrors:
        """Anywhere within the bounds: a datasheet says no more."""
        chip = self.chip
        return RailErrors(
            shunt_offset_v=random.uniform(-chip.shunt_offset, chip.shunt_offset),
            bus_offset_v=random.uniform(-chip.bus_offset, chip.bus_offset),
            gains=(
                random.uniform(-chip.gain, chip.gain),
                random.uniform(-chip.gain, chip.gain),
                random.uniform(-SHUNT_TOLERANCE, SHUNT_TOLERANCE),
            ),
        )

    def floor_w(self, watts: float) -> float:
        """The most that a reading of this power may be off by, from the datasheet."""
        chip, amperes = self.chip, watts * self.share / self.volts
        offset = (chip.shunt_offset + chip.shunt_step / 2) / self.shunt_ohm * self.volts
        bus = (chip.bus_offset + chip.bus_step / 2) * amperes
        return offset + bus + (2 * chip.gain + SHUNT_TOLERANCE) * amperes * self.volts

    def read(
        self, truth: Truth, at_s: Array, errors: RailErrors, random: np.random.Generator
    ) -> tuple[Array, Array]:
        """Millivolts and milliamperes at these times: (n,) each, the current read a cycle or two later."""
        chip = self.chip
        phase = random.uniform(0, chip.cycle_s)

        def converted(times: Array) -> Array:
            """The end of the newest conversion at each time."""
            return np.floor((times - phase) / chip.cycle_s) * chip.cycle_s + phase

        def power_w(ends: Array) -> Array:
            return self.share * truth.mean_w(ends - chip.conversion_s, chip.conversion_s)

        bus_at = converted(at_s)
        current_at = converted(at_s + random.uniform(0.5, 2.0, len(at_s)) * chip.cycle_s)
        # The rail sags by 1 % of its voltage at 20 W.
        volts = self.volts * (1 - 0.0005 * power_w(bus_at))
        amperes = power_w(current_at) / (self.volts * (1 - 0.0005 * power_w(current_at)))
        gain_i, gain_v, gain_shunt = errors.gains
        bus_v = volts * (1 + gain_v) + errors.bus_offset_v
        shunt_v = amperes * self.shunt_ohm * (1 + gain_i + gain_shunt) + errors.shunt_offset_v
        seen_v = np.round(bus_v / chip.bus_step) * chip.bus_step
        seen_a = np.round(shunt_v / chip.shunt_step) * chip.shunt_step / self.shunt_ohm
        return np.round(seen_v * 1e3), np.round(seen_a * 1e3)


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What an agent would hand over: times in seconds, a row for each channel."""

    begin_s: Array
    end_s: Array
    values: tuple[Array, ...]
    millivolts: tuple[Array | None, ...]

    def watts(self) -> Array:
        """All rails, for the baselines."""
        parts = [
            value * 1e-3 if volts is None else value * volts * 1e-6
            for value, volts in zip(self.values, self.millivolts, strict=True)
        ]
        total: Array = np.sum(parts, axis=0)
        return total

    def at(self, times: Array) -> Array:
        """The newest reading at each time, in watts."""
        place = np.searchsorted(self.end_s, times, side="right") - 1
        return self.watts()[np.clip(place, 0, len(self.end_s) - 1)]


Clock = Callable[[float, float, np.random.Generator], Array]


def schedule(
    seconds: float, period_s: float, random: np.random.Generator, *, even: bool = False
) -> Array:
    """Times of reads on the agent's schedule, or evenly: late by a millisecond or so, some of them lost."""
    slots = range(int((seconds - 0.1) / period_s))
    times = np.array([slot * period_s if even else due_s(slot, period_s) for slot in slots])
    late = np.abs(random.normal(0, 1e-3, len(times)))
    times = np.maximum.accumulate(times + late) + 1e-5 * np.arange(len(times))
    kept = random.uniform(size=len(times)) > 0.01
    kept[[0, -1]] = True
    taken: Array = times[kept]
    return taken


def read_rails(
    truth: Truth,
    rails: tuple[Rail, ...],
    errors: tuple[RailErrors, ...],
    period_s: float,
    random: np.random.Generator,
    *,
    printed: bool = False,
) -> Readings:
    """As the agent reads sysfs; `printed`: as tegrastats prints whole milliwatts, a little late."""
    begin_s = schedule(truth.seconds, period_s, random, even=printed)
    cost_s = random.uniform(0.2, 1.0, len(begin_s)) * 2 * rails[0].chip.cycle_s
    seen = [
        rail.read(truth, begin_s, error, random) for rail, error in zip(rails, errors, strict=True)
    ]
    if printed:
        arrived_s = begin_s + random.uniform(0.005, 0.02, len(begin_s))
        values = tuple(np.floor(volts * amperes / 1e3) for volts, amperes in seen)
        return Readings(
            begin_s=arrived_s,
            end_s=arrived_s + 1e-5,
            values=values,
            millivolts=(None,) * len(rails),
        )
    return Readings(
        begin_s=begin_s,
        end_s=np.minimum(begin_s + cost_s, np.append(begin_s[1:], np.inf)),
        values=tuple(amperes for _, amperes in seen),
        millivolts=tuple(volts for volts, _ in seen),
    )


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A counter of energy: its unit in joules, what it is updated after, where it starts again."""

    unit_j: float
    step_j: float
    update_s: float
    jitter: float  # of the update, as a share of it
    range_units: int | None
    gain: float  # bound

    def read(
        self, truth: Truth, gain: float, period_s: float, random: np.random.Generator
    ) -> Readings:
        begin_s = schedule(truth.seconds, period_s, random)
        updates = np.arange(-2, truth.seconds / self.update_s + 2) * self.update_s
        updates += random.uniform(-self.jitter, self.jitter, len(updates)) * self.update_s
        updates += random.uniform(0, self.update_s)
        newest = updates[np.searchsorted(updates, begin_s, side="right") - 1]
        joules = (1 + gain) * truth.energy_j(np.zeros_like(newest), np.maximum(newest, 0.0))
        # Starts close below the wrap, so that every trace has one.
        start_j = 0.0
        if self.range_units is not None:
            start_j = self.range_units * self.unit_j - random.uniform(1.0, 50.0)
        steps = np.floor((start_j + joules) / self.step_j) * self.step_j
        counts = np.round(steps / self.unit_j)
        if self.range_units is not None:
            counts = counts % self.range_units
        return Readings(begin_s=begin_s, end_s=begin_s + 5e-5, values=(counts,), millivolts=(None,))


RAPL: Final = Counter(
    unit_j=1e-6, step_j=61.03515625e-6, update_s=1e-3, jitter=0.1,
    range_units=262_143_328_850, gain=0.05,
)  # fmt: skip
NVML: Final = Counter(
    unit_j=1e-3, step_j=1e-3, update_s=0.1, jitter=0.02, range_units=None, gain=0.05
)


def clean(rail: Rail) -> Rail:
    """The same rail with a converter without steps: what is left is the way of integrating."""
    return replace(rail, chip=replace(rail.chip, shunt_step=1e-9, bus_step=1e-6))
