"""Rows of results: CSVs that a benchmark appends to and that pages and tests read."""

import csv
from collections.abc import Mapping
from pathlib import Path


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """One more row; the first one writes the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
