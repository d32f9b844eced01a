"""The plan, enforced: layers, folders, what is imported when, what is packaged."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgekd
from edgekd import errors

REPOSITORY = Path(__file__).parents[1]
STAGES = ("distill", "export", "bench", "targets")

# A module may import only from groups further down.
LAYERS = (
    {"edgekd.__main__"},
    {"edgekd.cli", "edgekd.schemas"},
    {"edgekd.api"},
    {"edgekd.pipeline"},
    {"edgekd.search"},
    {"edgekd.workflows"},
    {"edgekd.report"},
    {"edgekd.gate"},
    {"edgekd.bundle", "edgekd.doctor"},
    {"edgekd.distill", "edgekd.export", "edgekd.bench"},
    {"edgekd.targets"},
    {"edgekd.progress", "edgekd.templating"},
    {"edgekd.records"},
    {"edgekd.files", "edgekd.interrupts", "edgekd.options", "edgekd.toml_text"},
    {"edgekd.sole_writer"},
    {"edgekd.errors"},
)


def group_of(module):
    parts = module.split(".")
    return ".".join(parts[:2])


def level_of(module):
    return next(level for level, groups in enumerate(LAYERS) if group_of(module) in groups)


def modules():
    for path in sorted((REPOSITORY / "edgekd").rglob("*.py")):
        part = path.relative_to(REPOSITORY / "edgekd")
        if part.parts[0] not in STAGES and part.as_posix() != "__init__.py":
            yield f"edgekd.{part.with_suffix('').as_posix().replace('/', '.')}", path
    for stage in STAGES:
        for path in sorted((REPOSITORY / stage).rglob("*.py")):
            name = path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
            yield f"edgekd.{name}", path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "edgekd" else node.module


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: str(value)[-30:])
def test_modules_import_only_to_their_right(name, path):
    for imported in imports(path):
        if not imported.startswith("edgekd.") or imported == "edgekd.__version__":
            continue
        same = group_of(imported) == group_of(name)
        assert same or level_of(imported) > level_of(name), f"{name} imports {imported}"


def test_only_the_command_line_calls_what_import_edgekd_offers():
    for name, path in modules():
        tree = ast.parse(path.read_text())
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "edgekd"
        }
        if group_of(name) != "edgekd.cli":
            assert used <= {"__version__"}, f"{name} uses {used}"


MOST_ARGUMENTS = 10


def test_no_function_takes_more_arguments_than_a_reader_can_hold():
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                named = [each for each in given if each.arg not in {"self", "cls"}]
                assert len(named) <= MOST_ARGUMENTS, f"{name}.{node.name}"


def test_stages_do_not_import_one_another():
    stages = {"edgekd.distill", "edgekd.export", "edgekd.bench"}
    assert stages in LAYERS
    for name, path in modules():
        for imported in imports(path):
            for stage in ("distill", "export", "bench"):
                if imported.startswith(f"edgekd.{stage}") and group_of(name) in stages:
                    assert group_of(name) == f"edgekd.{stage}", f"{name} imports {imported}"


def test_the_agent_imports_nothing_of_the_host():
    for path in (REPOSITORY / "bench" / "agent").glob("*.py"):
        for imported in imports(path):
            assert not imported.startswith("edgekd") or imported.startswith("edgekd.bench.agent")


def test_help_brings_no_framework():
    script = "import sys; import edgekd.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "onnx", "onnxruntime", "timm", "torchvision", "accelerate", "PIL"}
    heavy |= {"jinja2", "matplotlib", "cryptography", "backports", "oras", "requests", "pkcs11"}
    assert heavy.isdisjoint(found.stdout.split())


def test_links_and_packages_are_those_on_the_disk():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    for stage in STAGES:
        link = REPOSITORY / "edgekd" / stage
        assert link.is_symlink()
        assert link.readlink() == Path("..") / stage
    own = {path.parent for path in (REPOSITORY / "edgekd").rglob("__init__.py")}
    own = {
        path
        for path in own
        if path.relative_to(REPOSITORY).parts[1:2] not in {(s,) for s in STAGES}
    }
    staged = {path.parent for stage in STAGES for path in (REPOSITORY / stage).rglob("__init__.py")}

    def dotted(folder):
        return ".".join(folder.relative_to(REPOSITORY).parts)

    assert set(settings["packages"]) == {dotted(p) for p in own} | {
        f"edgekd.{dotted(p)}" for p in staged
    }
    assert set(settings["package-dir"]) == {f"edgekd.{dotted(p)}" for p in staged}


def test_the_table_of_exit_codes_is_that_of_the_errors():
    text = (REPOSITORY / "docs" / "exit-codes.md").read_text()
    documented: dict[str, int] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].isdigit():
            documented |= dict.fromkeys(re.findall(r"`(\w+Error)`", cells[2]), int(cells[0]))
    there = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EdgekdError)
    }
    assert documented == there


def test_the_changelog_starts_with_this_version():
    found = re.search(r"^## \[([^\]]+)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found is not None
    assert found[1] == edgekd.__version__
