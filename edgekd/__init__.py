"""edgekd: compress an image classifier for an edge board without its training data.

    import edgekd

    student = edgekd.distill("teacher.pt", out="student", steps=2600)

Names are imported when they are first used, so that `import edgekd` is quick and brings no framework.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekd import errors as errors
from edgekd.api.homes import HOMES

if TYPE_CHECKING:
    from edgekd.api.bundles import gate, verify_bundle
    from edgekd.api.catalogues import list_recipes, list_students, list_targets
    from edgekd.api.events import Event
    from edgekd.api.models import (
        benchmark,
        check_model,
        estimate_latency,
        evaluate,
        export,
    )
    from edgekd.api.pipelines import CompressOptions, compress, search
    from edgekd.api.teachers import LoadedTeacher, TeacherFile, load_teacher
    from edgekd.api.training import (
        condense,
        distill,
        plan_distillation,
        synthesize,
    )
    from edgekd.bundle.verification import VerifiedBundle
    from edgekd.distill.teachers.metadata import TeacherOptions
    from edgekd.gate.gates import Judgement
    from edgekd.options import (
        BenchOptions,
        BudgetOptions,
        BuildOptions,
        BundleOptions,
        CondenseOptions,
        ConnectionOptions,
        DataOptions,
        EstimateOptions,
        ExportOptions,
        RunOptions,
        SearchOptions,
        SynthesisOptions,
        TrainingOptions,
    )
    from edgekd.records import (
        Architecture,
        Board,
        CondensedSet,
        GateResult,
        HistoryPoint,
        InputSpec,
        Measured,
        Measurements,
        ModelEstimate,
        OnnxModel,
        Plan,
        Student,
        SyntheticSet,
        Target,
        TeacherInfo,
    )
    from edgekd.records.manifest import Manifest, Report
    from edgekd.search.search import Search
    from edgekd.workflows.check_model import GraphCheck
    from edgekd.workflows.evaluate import Comparison
    from edgekd.workflows.fill_bundle import Outcome
    from edgekd.workflows.model_files import Exported
    from edgekd.workflows.show_recipes import RecipeSummary

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "BenchOptions",
    "Board",
    "BudgetOptions",
    "BuildOptions",
    "BundleOptions",
    "Comparison",
    "CompressOptions",
    "CondenseOptions",
    "CondensedSet",
    "ConnectionOptions",
    "DataOptions",
    "EstimateOptions",
    "Event",
    "ExportOptions",
    "Exported",
    "GateResult",
    "GraphCheck",
    "HistoryPoint",
    "InputSpec",
    "Judgement",
    "LoadedTeacher",
    "Manifest",
    "Measured",
    "Measurements",
    "ModelEstimate",
    "OnnxModel",
    "Outcome",
    "Plan",
    "RecipeSummary",
    "Report",
    "RunOptions",
    "Search",
    "SearchOptions",
    "Student",
    "SynthesisOptions",
    "SyntheticSet",
    "Target",
    "TeacherFile",
    "TeacherInfo",
    "TeacherOptions",
    "TrainingOptions",
    "VerifiedBundle",
    "__version__",
    "benchmark",
    "check_model",
    "compress",
    "condense",
    "distill",
    "errors",
    "estimate_latency",
    "evaluate",
    "export",
    "gate",
    "list_recipes",
    "list_students",
    "list_targets",
    "load_teacher",
    "plan_distillation",
    "search",
    "synthesize",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # of what it is looked up, as PEP 562 has it
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """A sub-package that shares its name with a function: `edgekd.distill(...)` and `edgekd.distill.losses` both work."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # those of the function
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(HOMES[name]), name)(*args, **kwargs)


# Importing any module of such a package binds it to this attribute, over any function. So the package itself is made
# callable, before anybody can import from it; it holds nothing but a docstring, and costs a fraction of a millisecond.
for _name in ("distill", "export", "gate", "search"):
    import_module(f"{__name__}.{_name}").__class__ = _CallablePackage
