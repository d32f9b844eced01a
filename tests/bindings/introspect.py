"""Run in a process of its own, with the bindings on the path: which uses hold in this version.

Takes the name of their package. Reads a list of uses from stdin as JSON, and writes for each why it does not hold, or null.
"""

import importlib
import inspect
import json
import os
import re
import sys

# The stubs have no functions, and none is called before one of ours is.
sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)

_PARAMETER = re.compile(r"[\[(,]\s*\*?(\w+)\s*:")


def main():
    # This Python may have the libraries of another version, which would be loaded in place of the stubs.
    for name in ("tensorrt_libs", "tensorrt_rtx_libs"):
        sys.modules[name] = None  # type: ignore[assignment]
    trt = importlib.import_module(sys.argv[1])
    uses = json.load(sys.stdin)
    json.dump([problem(trt, use) for use in uses], sys.stdout)


def problem(trt, use):
    """Why a use does not hold; None where it does."""
    value, owner = trt, None
    for name in use["path"]:
        if not hasattr(value, name):
            return "missing"
        owner, value = value, getattr(value, name)
    if use["set"] and not (isinstance(value, property) and value.fset):
        return f"cannot be set: {type(value).__name__} of {getattr(owner, '__name__', owner)}"
    if use["called"] and not callable(value):
        return "cannot be called"
    return signature_problem(value, use) if use["called"] else None


def signature_problem(value, use):
    target = value.__init__ if inspect.isclass(value) else value
    signatures = list(signatures_of(target))
    if not signatures:
        return None  # Python's own, or without a word about it
    wanted = set(use["keywords"])
    for parameters in signatures:
        enough = use["positional"] + (0 if use["overrides"] else len(wanted)) <= len(parameters)
        if enough and wanted <= set(parameters):
            return None
    return f"takes {' or '.join(map(str, signatures))}"


def signatures_of(function):
    """Names of the parameters of each form, without self: pybind11 writes them into the docstring."""
    name = function.__name__
    for line in (function.__doc__ or "").splitlines():
        found = re.match(rf"(?:\d+\. )?{re.escape(name)}\((.*)\) -> ", line.strip())
        if found and not found[1].startswith("*args"):
            names = _PARAMETER.findall("(" + found[1])
            yield [each for each in names if each != "self"]


main()
