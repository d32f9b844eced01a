"""Find a power sensor that answers. It is chosen by a read that worked, never by its presence."""

from typing import Any, Callable, Dict, List, Optional, Tuple

from edgekd.bench.agent import (
    sensor_ina,
    sensor_nvml,
    sensor_rapl,
    sensor_rpi_pmic,
    sensor_tegrastats,
)
from edgekd.bench.agent.errors import RefusedError
from edgekd.bench.agent.sensor import Found, Place, Sensor

# Every sensor that is known, in the order tried.
FINDERS: Dict[str, Callable[[Place], Found]] = {
    "INA3221": sensor_ina.find_jetson,
    "NVML": sensor_nvml.find,
    "RAPL": sensor_rapl.find,
    "PMIC": sensor_rpi_pmic.find,
    "tegrastats": sensor_tegrastats.find,
    "INA226": sensor_ina.find_meter,
}
# What a meter on some wire sees, nobody but the user knows.
ONLY_IF_ASKED = ("INA226",)
NONE = "none"


def find_sensor(
    place: Place, wanted: str = "auto", on_gpu: bool = False, gpu: int = 0
) -> Tuple[Optional[Sensor], str]:
    """The first sensor that was read with success, or None and what was looked at.

    Args:
        place: where the machine's trees are.
        wanted: a name of `FINDERS`, or "auto".
        on_gpu: whether the model runs on a graphics card; that of a model on the processor is not its sensor.
        gpu: the number of that card.

    Raises:
        RefusedError: no sensor has that name.
    """
    if wanted != "auto" and wanted not in FINDERS:
        raise RefusedError("inputs", "no sensor {!r}; there are {}".format(wanted, list(FINDERS)))
    if wanted != "auto":
        names: List[str] = [wanted]
    else:
        names = [name for name in FINDERS if name not in ONLY_IF_ASKED]
        names.remove("RAPL" if on_gpu else "NVML")
    reasons = []
    for name in names:
        found: Any = sensor_nvml.find(place, gpu) if name == "NVML" else FINDERS[name](place)
        sensor, reason = found
        if sensor is not None:
            return sensor, ""
        reasons.append(reason)
    return None, "; ".join(reasons)
