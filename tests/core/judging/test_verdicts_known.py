"""Verdicts on models whose true divergences are known: a part of tests/benchmarks/verdicts.py."""

from __future__ import annotations

import pytest
from benchmarks.verdicts import Verdict, summary, verdicts

from capcheck.results.measurement import Outcome


@pytest.mark.slow
def test_definite_verdicts_are_right_and_clear_cases_are_decided() -> None:
    certifying, others = ["density", "coupling"], ["draws", "everything"]
    found = [*verdicts(2000, (2, 64), certifying), *verdicts(1000, (64,), others)]
    found += verdicts(1000, (2,), ["draws and KL from below"])
    definite, wrong, clear, decided = summary(found)
    assert definite >= 100
    assert wrong <= 0.01 * definite
    assert decided >= 0.9 * clear


def test_a_wrong_verdict_would_be_counted() -> None:
    def said(ratio: float, outcome: Outcome) -> Verdict:
        return Verdict(name="", route="", ratio=ratio, certifiable=True, outcome=outcome)

    passed = said(2.0, Outcome.REPRESENTABLE)
    refused = said(0.5, Outcome.NOT_REPRESENTABLE)
    open_ = said(0.5, Outcome.INCONCLUSIVE)
    assert summary([passed, refused, open_]) == (2, 2, 3, 2)
