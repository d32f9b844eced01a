"""The JSON schemas of the files that edgekd writes, for `docs/schema/`."""

import json
import sys
from pathlib import Path
from typing import Final

from edgekd.bundle.diff import BundleDiff
from edgekd.doctor.findings import Doctor
from edgekd.gate.gates import Judgement
from edgekd.records import (
    SCHEMA_VERSION,
    Budget,
    CondensedSet,
    Cut,
    Measured,
    ModelEstimate,
    Plan,
    Student,
    SyntheticSet,
    json_schema,
)
from edgekd.records.manifest import Manifest, Report
from edgekd.search.search import Search
from edgekd.workflows.check_model import GraphCheck
from edgekd.workflows.check_teacher import TeacherCheck
from edgekd.workflows.describe_teacher import Description
from edgekd.workflows.evaluate import Comparison
from edgekd.workflows.measure.benchmark import Probes
from edgekd.workflows.measure.benchmark_output import Comparisons
from edgekd.workflows.show_recipes import RecipeDescription

# The name in a file's `schema` field, and the record it holds.
SCHEMAS: Final[dict[str, type[object]]] = {
    "bundle-diff": BundleDiff,
    "comparisons": Comparisons,
    "measurements": Measured,
    "model-estimate": ModelEstimate,
    "probes": Probes,
    "comparison": Comparison,
    "condensed-set": CondensedSet,
    "cut": Cut,
    "doctor": Doctor,
    "graph-check": GraphCheck,
    "judgement": Judgement,
    "budget": Budget,
    "manifest": Manifest,
    "report": Report,
    "plan": Plan,
    "recipe": RecipeDescription,
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
        (folder / f"{name}-{SCHEMA_VERSION}.schema.json").write_text(
            schema_text(name), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
