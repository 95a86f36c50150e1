"""When a published number counts as matched: by its digits, its interval, its bound, its reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from capcheck.core.errors import InputError
from capcheck.published import Claim
from capcheck.published.claim import digits


def claim(printed: str, value: Any, **more: Any) -> Claim:
    fixed = {"source": "ppca", "place": "table 1", "quantity": "number", "by": "check"}
    return Claim(printed=printed, value=value, **{**fixed, **more})


@pytest.mark.parametrize(
    ("printed", "value", "matched"),
    [
        ("1.53", 1.5306, True),
        ("1.53", 1.5349999, True),
        ("1.53", 1.535, True),  # a tie rounds either way
        ("1.53", 1.53501, False),
        ("1.53", 1.5249, False),
        ("1.60", 1.603, True),
        ("1.60", 1.606, False),  # the 0 is a digit
        ("4.035993e-05", 4.0359932e-05, True),
        ("4.035993e-05", 4.0359936e-05, False),
        ("0", 0.0, True),
        ("0", 1e-12, True),
        ("0", 0.01, False),  # a whole number is exact
        ("1000", 999.6, False),
        ("-0.5", -0.52, True),
        ("-0.5", 0.52, False),
        ("1.5", float("nan"), False),
        ("1.5", float("inf"), False),
        ("1 101 201", (1.0, 101.0, 201.0), True),
        ("1 101 201", (1.0, 101.0, 202.0), False),
    ],
)
def test_a_number_matches_if_it_rounds_to_the_printed_digits(
    printed: str, value: float, matched: bool
) -> None:
    assert (claim(printed, value).status == "matched") == matched
    assert claim(printed, value).status in ("matched", "contradicted")


def test_an_interval_has_to_reach_a_number_that_rounds_to_the_digits() -> None:
    for low, high, status in (
        (0.30, 0.32, "matched"),
        (0.3126, 0.32, "contradicted"),
        (0.30, 0.3124, "contradicted"),
        (0.31254, 0.32, "matched"),  # 0.31254 rounds to 0.3125
    ):
        assert claim("0.3125", 0.31, low=low, high=high).status == status


def test_a_stated_agreement_takes_the_place_of_digits() -> None:
    assert claim("2", 2.19, within=0.2).status == "matched"
    assert claim("2", 2.21, within=0.2).status == "contradicted"
    assert claim("2", 2.019, within=0.2).shown == "2.019"


def test_a_bound_has_to_be_reached_by_the_whole_interval() -> None:
    assert claim("0.25", 3.0, at_least=True).status == "matched"
    assert claim("0.25", 0.24, at_least=True).status == "contradicted"
    assert claim("0.25", 0.3, low=0.2, high=0.4, at_least=True).status == "contradicted"


def test_only_a_reason_explains_and_its_number_has_to_match() -> None:
    off = claim("0.5", 0.0)
    assert off.status == "contradicted"
    assert dataclasses.replace(off, reason="ties").status == "explained"
    assert dataclasses.replace(off, reason="ties", instead=0.5).status == "explained"
    assert dataclasses.replace(off, reason="ties", instead=0.4).status == "contradicted"
    assert dataclasses.replace(off, instead=0.5).status == "contradicted"
    assert claim("0.5", None).status == "contradicted"
    assert claim("0.5", None, reason="not measured").status == "explained"
    assert claim("", None, reason="needs a package").status == "unavailable"


@pytest.mark.parametrize(
    ("printed", "value", "more", "shown"),
    [
        ("1.53", 1.5306, {}, "1.531"),
        ("0.004682", 0.00468191, {}, "0.0046819"),
        ("2.428735e-09", 2.42873499e-09, {}, "2.4287350e-09"),
        ("0.250000000", 0.25, {"side": "closed form"}, "0.250000000"),
        ("3", 3.0, {}, "3"),
        ("0", 4e-33, {}, "0"),
        ("1 2", (1, 2), {}, "1 2"),
        ("1.5", None, {"reason": "why"}, "-"),
    ],
)
def test_one_digit_more_than_is_printed_is_shown(
    printed: str, value: Any, more: dict[str, Any], shown: str
) -> None:
    assert claim(printed, value, **more).shown == shown


def test_a_closed_form_keeps_its_last_zeros() -> None:
    assert (digits(0.25), digits(1.5, 2)) == ("0.250000000", "1.50")


@pytest.mark.parametrize(
    ("printed", "value", "more"),
    [
        ("1.53X", 1.53, {}),
        ("1.5", (1.5, 1.6), {}),
        ("1.5 1.6", 1.5, {}),
        ("1.5", 1.5, {"low": 1.4}),
        ("1 2", (1, 2), {"low": 1.0, "high": 2.0}),
        ("1.5", 1.4, {"instead": (1.5, 1.5)}),
    ],
)
def test_what_is_no_claim_is_refused(printed: str, value: Any, more: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        claim(printed, value, **more)
