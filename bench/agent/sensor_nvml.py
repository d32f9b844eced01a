"""NVIDIA's management library through ctypes: energy or power of a graphics card.

On a Jetson it loads, counts one device, and then supports none of this. So it is chosen by a read
that worked, never by its presence.
"""

import ctypes
from typing import Any, Callable, List, Optional, Tuple

from edgekd.bench.agent.sensor import (
    Channel,
    Found,
    Place,
    Reading,
    sensor_of,
)

NAME = "libnvidia-ml.so.1"
# nvmlReturn_t, nvmlClockType_t, nvmlTemperatureSensors_t, field numbers of nvml.h.
NOT_SUPPORTED = 3
GRAPHICS_CLOCK = 0
GPU_SENSOR = 0
POWER_INSTANT = 186
# "Accurate to within +/- 5 %", nvml.h.
GAIN = 0.05
# Of the counter and of the power readings
UPDATE_S = 0.1
# Often enough to see the counter move
PERIOD_S = 0.02
# Since Ampere but GA100 the plain power reading is an average over the last second.
AVERAGED_S = 1.0
# Bits of nvmlClocksThrottleReasons that are no choice of the user's.
REASONS = (
    (0x4, "GPU at its power cap"),
    (0x8, "GPU hardware slowdown"),
    (0x20, "GPU software thermal slowdown"),
    (0x40, "GPU hardware thermal slowdown"),
    (0x80, "GPU power brake"),
)
SCOPE = "graphics card {} ({}); processor, host memory and power supply are not included"


class _Field(ctypes.Structure):
    """`nvmlFieldValue_t`, whose value is a union of 8 bytes."""

    _fields_ = (
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency", ctypes.c_longlong),
        ("type", ctypes.c_uint),
        ("code", ctypes.c_uint),
        ("value", ctypes.c_ulonglong),
    )


class Card:
    """One graphics card. Its library is shut down by `close`."""

    def __init__(self, number: int) -> None:
        """Raises OSError where there is no library, no such card, or no answer."""
        self._library = ctypes.CDLL(NAME)
        self._check(self._library.nvmlInit_v2(), "nvmlInit")
        self._handle = ctypes.c_void_p()
        try:
            code = self._library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(self._handle))
            self._check(code, "card {}".format(number))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        self._library.nvmlShutdown()

    def name(self) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._check(self._library.nvmlDeviceGetName(self._handle, buffer, 96), "name")
        return buffer.value.decode("ascii", "replace")

    def energy_mj(self) -> int:
        value = ctypes.c_ulonglong()
        return self._number("nvmlDeviceGetTotalEnergyConsumption", value)

    def power_mw(self) -> int:
        return self._number("nvmlDeviceGetPowerUsage", ctypes.c_uint())

    def instant_mw(self) -> int:
        field = _Field(field=POWER_INSTANT)
        code = self._library.nvmlDeviceGetFieldValues(self._handle, 1, ctypes.byref(field))
        self._check(code or field.code, "instant power")
        return int(field.value) & 0xFFFFFFFF

    def temperature_c(self) -> int:
        return self._number("nvmlDeviceGetTemperature", ctypes.c_uint(), GPU_SENSOR)

    def clock_mhz(self) -> int:
        return self._number("nvmlDeviceGetClockInfo", ctypes.c_uint(), GRAPHICS_CLOCK)

    def read_throttling(self) -> List[str]:
        name = "nvmlDeviceGetCurrentClocksThrottleReasons"
        bits = self._number(name, ctypes.c_ulonglong())
        return [reason for bit, reason in REASONS if bits & bit]

    def _number(self, function: str, value: Any, *arguments: int) -> int:
        asked = getattr(self._library, function, None)
        if asked is None:
            raise OSError("{} is not in this library".format(function))
        self._check(asked(self._handle, *arguments, ctypes.byref(value)), function)
        return int(value.value)

    def _check(self, code: int, what: str) -> None:
        if code == NOT_SUPPORTED:
            raise OSError("{}: not supported".format(what))
        if code:
            raise OSError("{}: NVML error {}".format(what, code))


def find(place: Place, number: int = 0) -> Found:
    """The counter of a card, else its power of the moment, else its average of a second."""
    # The library lies where the loader finds it
    del place
    try:
        card = Card(number)
    except (OSError, AttributeError) as error:
        return None, "NVML: {}".format(error)
    problems = []
    for name, unit, interval_s, settle_s, ask in (
        # A counter needs no settling; the card's clocks and fans do.
        ("NVML energy counter", "mJ", UPDATE_S, 2 * AVERAGED_S, card.energy_mj),
        ("NVML power", "mW", UPDATE_S, UPDATE_S, card.instant_mw),
        ("NVML power (average of a second)", "mW", AVERAGED_S, 2 * AVERAGED_S, card.power_mw),
    ):
        try:
            ask()
            scope = SCOPE.format(number, card.name())
        except (OSError, AttributeError) as error:
            problems.append(str(error))
            continue
        sensor = sensor_of(
            name,
            scope,
            "counter" if unit == "mJ" else "power",
            [Channel("GPU", unit, 0.0, [GAIN], 0.001, None)],
            interval_s=interval_s,
            period_s=PERIOD_S,
            settle_s=settle_s,
            read=_reader(ask),
            close=card.close,
        )
        return sensor, ""
    card.close()
    return None, "NVML: " + ", ".join(problems)


def _reader(ask: Callable[[], int]) -> Callable[[], Reading]:
    return lambda: [(None, ask())]


def card_or_none(number: int) -> Optional[Card]:
    """A card that is kept open until the process ends: to open it takes longer than to ask it."""
    try:
        return Card(number)
    except (OSError, AttributeError):
        return None


def state_of(card: Card) -> Tuple[Optional[float], Optional[float], List[str]]:
    """Temperature in Celsius, clock in MHz, and what slows the card now. None where it does not say."""
    return (
        _answer(card.temperature_c),
        _answer(card.clock_mhz),
        _answer(card.read_throttling) or [],
    )


def _answer(question: Callable[[], Any]) -> Any:
    """None where the card does not say. Nothing else is caught: a misspelt question would pass for silence."""
    try:
        return question()
    except OSError:
        return None
