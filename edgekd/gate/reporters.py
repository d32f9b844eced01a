"""Verdicts for people and for pipelines: text, JUnit XML, GitHub's annotations, Markdown."""

from xml.etree import ElementTree as ET

from edgekd import __version__
from edgekd.gate import gates
from edgekd.gate.gates import Judgement
from edgekd.records import GateResult, printable


def format_judgement(found: Judgement) -> str:
    """Lines for a terminal: one a gate."""
    about = " ".join(
        [found.subject or "the bundle", *([f"on {found.target}"] if found.target else [])]
    )
    lines = [printable(about)]
    width = max((len(result.name) for result in found.results), default=0)
    lines += [verdict(each, width=width) for each in found.results]
    failed = sum(not each.passed for each in found.results)
    marked = sum(each.passed and each.mark != "measured" for each in found.results)
    last = "passed" if found.passed else f"failed: {failed} of {len(found.results)} gates"
    if marked:
        last += f"; {marked} without a figure of the board"
    return "\n".join([*lines, last, ""])


def verdict(result: GateResult, *, width: int = 0) -> str:
    """One gate in a line."""
    said = gates.format_result(result).removeprefix(f"{result.name}: ")
    return f"{_word(result):7} {result.name:{width}}  {said}"


def junit(found: Judgement) -> str:
    """JUnit XML, one case a gate; a gate that passed unchecked is skipped there."""
    results = found.results
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(not each.passed for each in results)),
        "skipped": str(sum(_is_unchecked(each) for each in results)),
        "errors": "0",
    }
    root = ET.Element("testsuites", {"name": "edgekd gate", **counts})
    suite = ET.SubElement(
        root, "testsuite", {"name": printable(found.subject or "bundle"), **counts}
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (("edgekd", __version__), ("target", found.target or "")):
        ET.SubElement(properties, "property", {"name": name, "value": value})
    for each in results:
        case = ET.SubElement(
            suite, "testcase", {"classname": "edgekd.gate", "name": printable(each.name)}
        )
        line = gates.format_result(each)
        if not each.passed:
            failure = ET.SubElement(case, "failure", {"message": line, "type": _kind(each)})
            failure.text = line
        elif _is_unchecked(each):
            ET.SubElement(case, "skipped", {"message": line})
        ET.SubElement(case, "system-out").text = line
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def annotations(found: Judgement) -> str:
    """Workflow commands that GitHub Actions shows beside the job: errors, and warnings for what is marked."""
    lines = []
    for each in found.results:
        if not each.passed or each.mark != "measured":
            level = "warning" if each.passed else "error"
            lines.append(
                f"::{level} title={_property(f'edgekd {each.name}')}::{_data(gates.format_result(each))}"
            )
    return "".join(f"{line}\n" for line in lines)


def markdown(found: Judgement) -> str:
    """A table for a job's summary."""
    head = f"### edgekd gate: {'passed' if found.passed else 'failed'}"
    about = f"{_cell(found.subject or 'the bundle')}" + (
        f", `{found.target}`" if found.target else ""
    )
    rows = [
        f"| {_word(each)} | {_cell(each.name)} | {_value(each)} | {_format_limit(each)} "
        f"| {_cell(each.reason)} |"
        for each in found.results
    ]
    table = ["| | gate | found | asked | |", "| --- | --- | --- | --- | --- |", *rows]
    return "\n".join([head, "", about, "", *table, ""])


def _word(result: GateResult) -> str:
    if not result.passed:
        return "FAILED"
    return {"measured": "passed", "estimate": "passed*", "not checked": "allowed"}[result.mark]


def _value(result: GateResult) -> str:
    return "-" if result.value is None else gates.format_value(result.value, result.unit)


def _format_limit(result: GateResult) -> str:
    if result.limit is None:
        return "not known"
    return f"{result.bound} {gates.format_value(result.limit, result.unit)}"


def _is_unchecked(result: GateResult) -> bool:
    return result.passed and result.mark == "not checked"


def _kind(result: GateResult) -> str:
    if result.value is None:
        return "unmeasured"
    return "quality" if result.kind == "quality" else "over-budget"


def _cell(value: str) -> str:
    return value.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _data(value: str) -> str:
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
