"""Looks for findings again, with another seed and other data, before they are called defects."""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.samplers.battery import cells_of
from capcheck.samplers.findings import Finding
from capcheck.samplers.subject import Subject

__all__ = ["beside_another_target", "in_structure"]


def in_structure(
    findings: Sequence[Finding], subject: Subject, steps: Sequence[int], seed: int
) -> list[Finding]:
    """The findings in a subject's structure, looked for beside another data point.

    Args:
        findings: What was found.
        subject: The subject.
        steps: The numbers of steps that were asked for.
        seed: Seed of the draws, another one than that of the findings.
    """
    if not findings:
        return []
    return _told(findings, subject.structure(steps, seed, other=True)[1])


def beside_another_target(
    findings: Sequence[Finding], subject: Subject, name: str, *, samples: int, seed: int
) -> list[Finding]:
    """The findings of one target, looked for beside another target of the same kind.

    Args:
        findings: What was found beside the target.
        subject: The subject.
        name: Name of the target.
        samples: Number of draws, where the law of the samples is not known exactly.
        seed: Seed of the draws, another one than that of the findings.
    """
    if not findings:
        return []
    steps = {k for finding in findings for k in finding.evidence.get("steps", finding.steps)}
    cells = cells_of(subject.probe, name, sorted(steps), samples=samples, seed=seed, other=True)
    return _told(findings, subject.beside(name, list(cells), other=True))


def _told(findings: Sequence[Finding], others: Sequence[Finding]) -> list[Finding]:
    """The findings, each confirmed if another of its kind shares a number of steps with it."""

    def confirmed(finding: Finding) -> bool:
        alike = [other for other in others if other.kind == finding.kind]
        return any(set(other.steps) & set(finding.steps) for other in alike)

    return [one.model_copy(update={"confirmed": confirmed(one)}) for one in findings]
