"""The JSON schemas of the files that edgekd writes, for `docs/schema/`."""

import json
import sys
from pathlib import Path
from typing import Final

from edgekd.bench_output import Comparisons
from edgekd.benching import Probes
from edgekd.bundle_diff import BundleDiff
from edgekd.checking import TeacherCheck
from edgekd.cookery import Shown
from edgekd.describing import Description
from edgekd.evaluation import Comparison
from edgekd.findings import Doctor
from edgekd.gate import Judgement
from edgekd.judging import GraphCheck
from edgekd.manifest import Manifest, Report
from edgekd.records import (
    Budget,
    CondensedSet,
    Measured,
    ModelEstimate,
    Plan,
    Student,
    SyntheticSet,
    json_schema,
)
from edgekd.search import Search

# The name in a file's `schema` field, and the record it holds.
SCHEMAS: Final[dict[str, type[object]]] = {
    "bundle-diff": BundleDiff,
    "comparisons": Comparisons,
    "measurements": Measured,
    "model-estimate": ModelEstimate,
    "probes": Probes,
    "comparison": Comparison,
    "condensed-set": CondensedSet,
    "doctor": Doctor,
    "graph-check": GraphCheck,
    "judgement": Judgement,
    "budget": Budget,
    "manifest": Manifest,
    "report": Report,
    "plan": Plan,
    "recipe": Shown,
    "search": Search,
    "student": Student,
    "synthetic-set": SyntheticSet,
    "teacher-check": TeacherCheck,
    "teacher-description": Description,
}


def schema_text(name: str) -> str:
    """The published text of one schema."""
    return json.dumps(json_schema(SCHEMAS[name], schema=name), indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Write all of them into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCHEMAS:
        (folder / f"{name}-1.schema.json").write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    main()
