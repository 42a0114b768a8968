"""A verdict as JUnit XML, as GitHub annotations, and as Markdown."""

import re
import xml.etree.ElementTree as ET

from odegrad.gate.verdict import FAILING, GateState, GateVerdict

_UNPRINTABLE = re.compile("[^\\t\\n\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_MARKDOWN = {"\\": "\\\\", "&": "&amp;", "<": "&lt;", "|": "\\|", "*": "\\*", "_": "\\_", "`": "\\`", "\n": " "}


def junit(verdict: GateVerdict, suite: str) -> str:
    """Return the verdict as JUnit XML: a test case a run; what could not be judged is skipped, not passed."""
    names = sorted({*verdict.compared, *(finding.run for finding in verdict.findings)})
    cases, failures, errors, skipped = [], 0, 0, 0
    for name in names:
        case = ET.Element("testcase", classname=f"odegrad.gate.{suite}", name=_printable(name))
        findings = verdict.of_run(name)
        text = _printable("\n".join(finding.sentence() for finding in findings))
        states = {finding.state for finding in findings}
        kind = _kind(states)
        if kind:
            ET.SubElement(case, kind, message=text.split("\n", 1)[0]).text = text
        failures, errors = failures + (kind == "failure"), errors + (kind == "error")
        skipped += kind == "skipped"
        cases.append(case)
    counts = {"tests": len(names), "failures": failures, "errors": errors, "skipped": skipped}
    attributes = {key: str(value) for key, value in counts.items()}
    root = ET.Element("testsuites", attributes)
    inner = ET.SubElement(root, "testsuite", {"name": f"odegrad gate {suite}", **attributes})
    inner.extend(cases)
    ET.SubElement(inner, "system-out").text = _printable("\n".join(verdict.sentences()))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _kind(states: set[GateState]) -> str | None:
    """Return the element that tells of findings in these states."""
    if states & FAILING:
        return "failure"
    if GateState.MACHINE in states:
        return "error"
    return "skipped" if states - {GateState.FINE} else None


def _printable(text: str) -> str:
    """Return ``text`` without the control characters that XML 1.0 cannot hold, not even escaped."""
    return _UNPRINTABLE.sub("", text)


def github(verdict: GateVerdict, file: str) -> list[str]:
    """Return the verdict as GitHub's workflow commands, one annotation a finding, at the baseline ``file``."""
    level = dict.fromkeys((GateState.MACHINE, GateState.UNDECIDED), "warning")
    level |= dict.fromkeys((GateState.NEW, GateState.FINE), "notice")
    lines = []
    for finding in verdict.findings:
        title = _property(f"gate: {finding.run}")
        kind = level.get(finding.state, "error")
        lines.append(f"::{kind} file={_property(file)},title={title}::{_data(finding.sentence())}")
    last = "error" if verdict.code else "notice"
    lines.append(f"::{last} title=gate::{_data(chr(10).join(verdict.sentences()))}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def markdown(verdict: GateVerdict, suite: str) -> str:
    """Return the verdict as a Markdown summary."""
    lines = [f"## odegrad gate {_cell(suite)}", "", *(f"{_cell(line)}  " for line in verdict.sentences())]
    rows = [finding.row() for finding in verdict.findings]
    if rows:
        lines += ["", "| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
    return "\n".join((*lines, ""))


def _cell(text: str) -> str:
    """Return ``text`` so that Markdown and HTML show it as it is, in one cell of a table."""
    return "".join(_MARKDOWN.get(character, character) for character in text)
