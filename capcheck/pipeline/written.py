"""The result of a spec as JUnit XML and as Markdown, for what reads them after a pipeline."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from capcheck.pipeline.markdown import inline
from capcheck.pipeline.spec_report import CheckReport, SpecReport

__all__ = ["MARKS", "as_junit", "as_markdown"]

MARKS = {"passed": "✅", "failed": "❌", "undecided": "❔", "error": "⚠️"}
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: SpecReport) -> str:
    """JUnit XML: one test case per check; what is undecided counts as skipped."""
    suite = ElementTree.Element(
        "testsuite",
        name=_plain(report.spec),
        tests=str(len(report.checks)),
        failures=str(sum(check.status == "failed" for check in report.checks)),
        errors=str(sum(check.status == "error" for check in report.checks)),
        skipped=str(sum(check.status == "undecided" for check in report.checks)),
        time=f"{sum(check.seconds for check in report.checks):.3f}",
    )
    for check in report.checks:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_plain(check.subject),
            name=_plain(check.name),
            time=f"{check.seconds:.3f}",
        )
        tags = {"failed": "failure", "error": "error", "undecided": "skipped"}
        text = _plain("\n".join(_said(check)))
        if check.status in tags:
            first = _plain(check.reasons[0])
            ElementTree.SubElement(case, tags[check.status], message=first).text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def as_markdown(report: SpecReport) -> str:
    """A Markdown table of all checks, and what is not well in words below it."""
    passed = sum(check.status == "passed" for check in report.checks)
    lines = [
        f"### capcheck: {passed} of {len(report.checks)} checks pass",
        "",
        "| | check | of | verdict | smallest budget |",
        "|---|---|---|---|---|",
    ]
    for check in report.checks:
        cells = (check.name, check.subject, check.outcome, check.smallest)
        lines.append(f"| {MARKS[check.status]} | {' | '.join(map(inline, cells))} |")
    for check in report.checks:
        if check.status != "passed":
            lines += ["", f"**{inline(check.name)}**: {inline(check.reasons[0])}"]
            lines += [f"- {inline(one)}" for one in _said(check)[1:]]
    return "\n".join(lines) + "\n"


def _said(check: CheckReport) -> list[str]:
    """The sentences about a check: its reasons, and why it matters."""
    return [*check.reasons, *([f"why it matters: {check.why}"] if check.why else [])]


def _plain(text: str) -> str:
    """Text without the characters that XML does not allow."""
    return NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
