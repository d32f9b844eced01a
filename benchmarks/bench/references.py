"""Published measurements that the estimator is fitted on, out of `shared/reference/jetson_reference.csv`."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgekd.files import digest_of
from edgekd.records import Precision

FILE: Final = Path("reference") / "jetson_reference.csv"

# By how the file names boards. Rows of other names are of unknown networks or loops.
BOARDS: Final = {
    "Jetson Nano 4GB": "jetson-nano",
    "Jetson Nano": "jetson-nano",
    "Jetson AGX Xavier": "jetson-agx-xavier",
    "Jetson AGX Orin": "jetson-agx-orin-64gb",
    "Jetson Orin Nano Super Developer Kit": "jetson-orin-nano-8gb",
    "Jetson Orin NX 16GB (reComputer J4012)": "jetson-orin-nx-16gb",
}
# What one architecture in several sizes is; a family is left out whole.
FAMILIES: Final = (
    "alexnet",
    "densenet",
    "efficientvit",
    "mnasnet",
    "mobilenet",
    "resnet",
    "shufflenet",
    "squeezenet",
    "vgg",
    "yolo11",
)
PRECISIONS: Final[dict[str, Precision]] = {"FP32": "fp32", "FP16": "fp16", "INT8": "int8"}


@dataclass(frozen=True, kw_only=True)
class Row:
    board: str
    precision: Precision
    model: str
    side: int  # pixels
    measured_s: float
    power_mode: str
    software: str
    source: str

    @property
    def network(self) -> str:
        return f"{self.model}@{self.side}"

    @property
    def family(self) -> str:
        return next(family for family in FAMILIES if self.model.startswith(family))

    @property
    def where(self) -> tuple[str, Precision]:
        return self.board, self.precision


def rows(shared: Path) -> list[Row]:
    """TensorRT, batch 1, one inference after another, of networks that can be built here.

    Left out are MLPerf's rows (one network a board and precision besides RetinaNet), throughputs with
    accelerators beside the GPU, pruned networks, and whatever names no precision.
    """
    with (shared / FILE).open(newline="", encoding="utf-8") as stream:
        return list(_parse_rows(csv.DictReader(stream)))


def rows_digest(shared: Path) -> str:
    return digest_of(shared / FILE)


def _parse_rows(lines: Iterator[dict[str, str]]) -> Iterator[Row]:
    for line in lines:
        model = line["model"].lower().replace("-", "_")
        usable = (
            line["board"] in BOARDS
            and line["precision"] in PRECISIONS
            and line["latency_ms"]
            and line["batch"] == "1"
            and "LoadGen" not in line["runtime"]
            and model.startswith(FAMILIES)
        )
        if usable:
            yield Row(
                board=BOARDS[line["board"]],
                precision=PRECISIONS[line["precision"]],
                model=model,
                side=int(line["input"].split("x")[1]),
                measured_s=float(line["latency_ms"]) / 1e3,
                power_mode=line["power_mode"],
                software=f"{line['runtime']}, {line['software'] or 'version not stated'}",
                source=line["source"] or "not stated in the row",
            )
