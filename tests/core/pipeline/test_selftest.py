"""The self-test passes here, and notices what it is for."""

from __future__ import annotations

import pytest

from capcheck import InputError
from capcheck.pipeline import selftest as module
from capcheck.pipeline.selftest import selftest


@pytest.mark.slow
def test_every_test_passes() -> None:
    found = list(selftest("cpu"))
    assert [one.name for one in found if not one.passed] == []
    assert len(found) == len(module.TESTS)


@pytest.mark.parametrize("wrong", [0.6930, None, float("nan"), float("inf")])
def test_a_wrong_number_fails(wrong: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TESTS", {"ln 2": module.TESTS["KL of parity's marginals: ln 2"]})
    monkeypatch.setattr(module, "check", lambda *given, **keywords: None)
    monkeypatch.setattr(module, "_value", lambda result, divergence: wrong)
    [one] = selftest("cpu")
    assert not one.passed
    assert one.expected == "0.693147"


def test_a_test_that_breaks_fails_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str, exact: float) -> module.Found:
        raise RuntimeError("no such kernel")

    def fine(device: str, exact: float) -> module.Found:
        return "1", "1", True

    monkeypatch.setattr(module, "TESTS", {"a": broken, "b": fine})
    first, second = selftest("cpu")
    assert (first.passed, second.passed) == (False, True)
    assert first.found == "RuntimeError: no such kernel"


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(InputError, match="device"):
        list(selftest("tpu"))
