"""The probabilities of remasking schedules, in numbers and against the published formulas."""

from __future__ import annotations

import itertools

import pytest
from reference.remasking import sigma_of

from capcheck.procedures.remasking import Remasking

RULES = [
    Remasking(rule="none"),
    Remasking(rule="full"),
    Remasking(rule="max"),
    Remasking(rule="cap", eta=0.3),
    Remasking(rule="cap", eta=0.0),
    Remasking(rule="rescale", eta=0.4),
    Remasking(rule="rescale", eta=1.0),
]


def sigmas(remasking: Remasking, k: int) -> list[float]:
    return [1 - remasking.chances(j, k).keep for j in range(k)]


def test_four_steps_in_numbers() -> None:
    # alpha = 0, 1/4, 1/2, 3/4, 1, so that sigma_max = 1, min(1, 1/2 : 1/4), 1/4 : 1/2 and 0.
    assert sigmas(Remasking(rule="max"), 4) == [1, 1, 0.5, 0]
    assert sigmas(Remasking(rule="cap", eta=0.75), 4) == [0.75, 0.75, 0.5, 0]
    assert sigmas(Remasking(rule="rescale", eta=0.5), 4) == [0.5, 0.5, 0.25, 0]
    assert sigmas(Remasking(rule="full"), 4) == [0.75, 0.5, 0.25, 0]
    # (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t): 1/4 : 1, 1/2 : 3/4, 1/2 : 1/2 and 1/4 : 1/4.
    reveal = [Remasking(rule="max").chances(j, 4).reveal for j in range(4)]
    assert reveal == pytest.approx([1 / 4, 2 / 3, 1, 1], abs=1e-15)


@pytest.mark.parametrize("remasking", RULES, ids=str)
def test_every_rule_is_the_published_one_and_keeps_the_share_of_known_tokens(
    remasking: Remasking,
) -> None:
    for k in (1, 2, 3, 7, 64):
        share = 0.0
        for j in range(k):
            step = remasking.chances(j, k)
            assert 0 <= step.keep <= 1
            assert 0 < step.reveal <= 1
            if j:
                sigma = sigma_of(remasking.rule, j / k, (j + 1) / k, remasking.eta)
                assert 1 - step.keep == pytest.approx(sigma, abs=1e-14)
            share = share * step.keep + (1 - share) * step.reveal
            assert share == pytest.approx((j + 1) / k, abs=1e-12)
        assert remasking.chances(k - 1, k).reveal == 1  # every token is known at the end


def test_the_loop_holds_its_share_and_masks_again_only_there() -> None:
    looped = Remasking(rule="loop", eta=0.02)
    for k in (1, 2, 3, 20, 128):
        share = 0.0
        for j in range(k):
            t, s, step = 1 - j / k, 1 - (j + 1) / k, looped.chances(j, k)
            share = share * step.keep + (1 - share) * step.reveal
            inside = s >= 0.05 - 1e-9 and t <= 0.55 + 1e-9
            if inside:
                assert share == pytest.approx(0.9, abs=1e-12)
            assert step.keep == pytest.approx(0.98 if inside else 1)
        assert share == pytest.approx(1, abs=1e-12)
    # 20 steps: alpha rises by 0.1 in each of nine, and by 0.1 in the last.
    assert looped.chances(0, 20).reveal == pytest.approx(0.1)
    assert looped.chances(19, 20).reveal == 1
    # While it is held, what is masked again is revealed: 0.9 sigma / 0.1.
    assert looped.chances(12, 20).reveal == pytest.approx(0.18)


def test_rules_that_are_equal_and_rules_that_differ() -> None:
    def steps(remasking: Remasking, k: int) -> list[float]:
        return [p for j in range(1, k) for p in vars(remasking.chances(j, k)).values()]

    largest = steps(Remasking(rule="max"), 9)
    assert steps(Remasking(rule="cap", eta=1.0), 9) == largest
    assert steps(Remasking(rule="rescale", eta=1.0), 9) == largest
    never = pytest.approx(steps(Remasking(rule="none"), 9), abs=1e-14)
    assert steps(Remasking(rule="cap", eta=0.0), 9) == never
    assert steps(Remasking(rule="rescale", eta=0.0), 9) == never
    for one, other in itertools.combinations(RULES[:4] + RULES[5:6], 2):
        assert steps(one, 9) != pytest.approx(steps(other, 9), abs=1e-3)
        assert steps(one, 2) == pytest.approx(steps(other, 2), abs=1e-15)  # none masks in two steps
