"""Names of the power sensors, for what must not import the agent that reads them: options and their help.

`bench/agent/sensor_discovery.py` finds them; a test holds its names, and the table in docs/measuring.md, to these.
"""

from typing import Final

# In the order tried.
SENSORS: Final = ("INA3221", "NVML", "RAPL", "PMIC", "tegrastats", "INA226")
# These measure a graphics card alone, or what somebody wired: no machine has its energy from them unasked.
NOT_OF_THE_MACHINE: Final = frozenset({"NVML", "INA226"})
# The first that answers
AUTO: Final = "auto"
# Windows for an external meter
NONE: Final = "none"
