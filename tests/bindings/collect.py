"""Every name that a module uses of TensorRT, read from its source.

`trt` is the module; what a quoted annotation names is a class of it. A name that is asked for with
`hasattr` first need not be in all versions, only in some.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MODULE = "trt"


@dataclass(frozen=True, kw_only=True)
class Use:
    """A name by its path from the module, and how it is used."""

    path: tuple[str, ...]
    line: int
    optional: bool = False  # asked for with hasattr
    called: bool = False
    set: bool = False
    overrides: bool = False  # a method of a class that inherits
    positional: int = 0
    keywords: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass
class _Scope:
    """What names mean in a function: a path, or None where the source does not say what TensorRT gave it."""

    names: dict[str, tuple[str, ...] | None] = field(default_factory=dict)


class UndeclaredError(Exception):
    """A name of something that the source does not say what it is."""


def uses(source: Path) -> list[Use]:
    """All uses in a file, in its order.

    Raises:
        UndeclaredError: an attribute of a value that TensorRT gave, and whose class is not said.
    """
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = set(_imported(tree))
    found: list[Use] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            _Reader(classes, found).visit(node)
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names under `if TYPE_CHECKING: from tensorrt import ...`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "tensorrt":
            yield from (alias.name for alias in node.names)


class _Reader(ast.NodeVisitor):
    def __init__(self, classes: set[str], found: list[Use]) -> None:
        self.classes = classes
        self.found = found
        self.scopes: list[_Scope] = []
        self.asked: list[tuple[str, ...]] = []

    # --- what names mean -----------------------------------------------------------------------

    def _declared(self, annotation: ast.expr | None) -> tuple[str, ...] | None:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            path = tuple(annotation.value.split("."))
            if path[0] in self.classes:
                return path
        return None

    def _path(self, node: ast.expr) -> tuple[str, ...] | None:
        """The path of an expression; None where it is nothing of TensorRT."""
        if isinstance(node, ast.Name):
            if node.id == MODULE:
                return ()
            for scope in reversed(self.scopes):
                if node.id in scope.names:
                    known = scope.names[node.id]
                    if known is None:
                        raise UndeclaredError(f"line {node.lineno}: what is {node.id} to TensorRT?")
                    return known
            return None
        if isinstance(node, ast.Attribute):
            inner = self._path(node.value)
            return None if inner is None else (*inner, node.attr)
        if isinstance(node, ast.Call) and self._is_tensorrt(node.func):
            raise UndeclaredError(
                f"line {node.lineno}: an attribute of what a call gives; name it first"
            )
        return None

    def _is_tensorrt(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Attribute) and self._path(node) is not None

    # --- reading -------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope = _Scope()
        for argument in (*node.args.args, *node.args.kwonlyargs):
            declared = self._declared(argument.annotation)
            if declared is not None:
                scope.names[argument.arg] = declared
        self.scopes.append(scope)
        for statement in node.body:
            self.visit(statement)
        self.scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            path = self._path(base)
            if path is None:
                continue
            self._use(path, base.lineno)
            for statement in node.body:
                if isinstance(statement, ast.FunctionDef) and not statement.name.startswith("_"):
                    count = len(statement.args.args) - 1
                    names = tuple(each.arg for each in statement.args.args[1:])
                    self._use(
                        (*path, statement.name),
                        statement.lineno,
                        called=True,
                        overrides=True,
                        positional=count,
                        keywords=names,
                    )
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
        declared = self._declared(node.annotation)
        if isinstance(node.target, ast.Name) and declared is not None and self.scopes:
            self.scopes[-1].names[node.target.id] = declared
            self._use(declared, node.lineno)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        given = isinstance(node.value, ast.Call) and self._is_tensorrt(node.value.func)
        for target in node.targets:
            if isinstance(target, ast.Name) and given and self.scopes:
                self.scopes[-1].names[target.id] = None
            elif isinstance(target, ast.Attribute):
                path = self._path(target)
                if path is not None:
                    self._use(path, target.lineno, set=True)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        asked = list(_asked(node.test, self._path))
        self.asked += asked
        for statement in node.body:
            self.visit(statement)
        del self.asked[len(self.asked) - len(asked) :]
        for statement in node.orelse:
            self.visit(statement)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """`a and b`: b is only looked at where a holds."""
        asked: list[tuple[str, ...]] = []
        for value in node.values:
            self.visit(value)
            if isinstance(node.op, ast.And):
                new = list(_asked(value, self._path))
                self.asked += new
                asked += new
        del self.asked[len(self.asked) - len(asked) :]

    def visit_Call(self, node: ast.Call) -> None:
        for path in _asked(node, self._path):
            self._use(path, node.lineno, optional=True)
        called = self._path(node.func) if isinstance(node.func, ast.Attribute) else None
        if called:
            keywords = tuple(each.arg for each in node.keywords if each.arg)
            count = len(node.args) - (called[-1] == "__init__")  # which is given self
            self._use(called, node.lineno, called=True, positional=count, keywords=keywords)
        elif isinstance(node.func, ast.Attribute):
            self.visit(node.func)
        for argument in (*node.args, *(each.value for each in node.keywords)):
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self._path(node)
        if path is None:
            self.visit(node.value)
        else:
            self._use(path, node.lineno)

    def _use(self, path: tuple[str, ...], line: int, **how: object) -> None:
        if path and path[-1] == "__version__":
            return  # Python's, of every module
        guarded = any(path[: len(asked)] == asked for asked in self.asked)
        optional = bool(how.pop("optional", False)) or guarded
        self.found.append(Use(path=path, line=line, optional=optional, **how))  # type: ignore[arg-type]


def _asked(node: ast.expr, path_of) -> Iterator[tuple[str, ...]]:
    """Paths that `hasattr(X, "name")` asks for, alone or among what `and` joins."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _asked(value, path_of)
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "hasattr"
        and isinstance(node.args[1], ast.Constant)
    ):
        owner = path_of(node.args[0])
        if owner is not None:
            yield (*owner, str(node.args[1].value))
