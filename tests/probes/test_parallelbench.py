"""List tasks of ParallelBench: parallel decoders against closed forms and against enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from reference import parallelbench_decoding as closed
from reference.parallelbench_decoding import Array, Outcome
from reference.unmasking import Decoder, kl, law_of_decoder, mean_calls

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.networks.signatures import Calls
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import Target, from_spec
from capcheck.targets.categorical.sequence_law import SequenceLaw

ORDERS = ("random", "fixed", "top_probability", "margin", "entropy", "sampled_confidence")
TASKS = {
    "copy:4,symbols=3": closed.copy_table(4, 3),
    "copy:3,symbols=5": closed.copy_table(3, 5),
    "shuffle:4": closed.shuffle_table(4),
    "shuffle:5": closed.shuffle_table(5),
    "replacement:2": closed.replacement_table(2),
    "replacement:5": closed.replacement_table(5),
    "replacement:6": closed.replacement_table(6),
    "replacement:10": closed.replacement_table(10),
}

Rule = dict[str, Any]
CASES: list[tuple[str, Rule, Outcome]] = [
    # One call: shares of valid sequences V^(1-N), N! / N^N and (1 - 1/N)^(N-1).
    ("copy:4,symbols=3", {"steps": 1}, closed.copy_at_once(4, 3)),
    ("shuffle:4", {"steps": 1}, closed.shuffle_at_once(4)),
    ("shuffle:5", {"steps": 1}, closed.shuffle_at_once(5)),
    ("replacement:2", {"steps": 1}, closed.replacement_at_once(2)),
    ("replacement:5", {"steps": 1}, closed.replacement_at_once(5)),
    # Two and three steps of 4 or 5 tokens: floor(5 j / 3 + 1/2) = 2, 3, 5 tokens after each.
    ("shuffle:4", {"steps": 2}, closed.shuffle_in_steps(4, [2, 2])),
    ("shuffle:5", {"steps": 3}, closed.shuffle_in_steps(5, [2, 1, 2])),
    ("shuffle:5", {"tokens_per_step": 2, "steps": 1}, closed.shuffle_in_steps(5, [2, 2, 1])),
    # Thresholds.
    ("copy:4,symbols=3", {"threshold": 0.3}, closed.copy_by_threshold(4, 3, 0.3)),
    ("copy:4,symbols=3", {"threshold": 0.4}, closed.copy_by_threshold(4, 3, 0.4)),
    ("copy:3,symbols=5", {"threshold": 0.9}, closed.copy_by_threshold(3, 5, 0.9)),
    ("shuffle:4", {"threshold": 0.2}, closed.shuffle_by_threshold(4, 0.2)),
    ("shuffle:4", {"threshold": 0.3}, closed.shuffle_by_threshold(4, 0.3)),
    ("shuffle:4", {"threshold": 0.4}, closed.shuffle_by_threshold(4, 0.4)),
    ("shuffle:4", {"threshold": 0.9}, closed.shuffle_by_threshold(4, 0.9)),
    ("shuffle:5", {"threshold": 0.3}, closed.shuffle_by_threshold(5, 0.3)),
    ("replacement:2", {"threshold": 0.6}, closed.replacement_by_threshold(2, 0.6)),
    ("replacement:5", {"threshold": 0.79}, closed.replacement_by_threshold(5, 0.79)),
    ("replacement:5", {"threshold": 0.81}, closed.replacement_by_threshold(5, 0.81)),
    ("replacement:6", {"threshold": 0.9}, closed.replacement_by_threshold(6, 0.9)),
    # Entropy bounds: ln 5 = 1.61, ln 4 = 1.39, ln 3 = 1.10, ln 2 = 0.69.
    ("shuffle:5", {"entropy_bound": 0.5}, closed.shuffle_by_entropy_bound(5, 0.5)),
    ("shuffle:5", {"entropy_bound": 1.2}, closed.shuffle_by_entropy_bound(5, 1.2)),
    ("shuffle:5", {"entropy_bound": 1.7}, closed.shuffle_by_entropy_bound(5, 1.7)),
    ("copy:4,symbols=3", {"entropy_bound": 1.0}, closed.copy_by_entropy_bound(4, 3, 1.0)),
    ("copy:4,symbols=3", {"entropy_bound": 2.3}, closed.copy_by_entropy_bound(4, 3, 2.3)),
    # Factors: 3 (1 - 1/r) is 2.4, 2.25, 2, 1.5 for r = 5 .. 2.
    ("shuffle:5", {"factor": 1.4}, closed.shuffle_by_factor(5, 1.4)),
    ("shuffle:5", {"factor": 2.1}, closed.shuffle_by_factor(5, 2.1)),
    ("shuffle:5", {"factor": 2.3}, closed.shuffle_by_factor(5, 2.3)),
    ("copy:4,symbols=3", {"factor": 1.9}, closed.copy_by_factor(4, 3, 1.9)),
    ("copy:4,symbols=3", {"factor": 2.8}, closed.copy_by_factor(4, 3, 2.8)),
]


def decoded(target: Target, rule: Rule, order: str) -> tuple[Procedure[Any], Budget]:
    """The decoder, with as many steps as tokens unless the rule says otherwise."""
    options = {"order": order, **{key: value for key, value in rule.items() if key != "steps"}}
    N = target.spec.tokens
    procedure = Procedure.of(build_probe("parallel_decoder", options), target)
    return procedure, Budget(length=N, steps=rule.get("steps", N))


def law_of(spec: str, rule: Rule, order: str) -> Array:
    procedure, budget = decoded(from_spec(spec), rule, order)
    found = procedure.exact_law(budget, routes=("density",))
    assert isinstance(found, SequenceLaw), found
    law: Array = found.probabilities.numpy().reshape(TASKS[spec].shape)
    return law


def reference_of(spec: str, rule: Rule, order: str) -> Decoder:
    return Decoder(**{"order": order, "steps": TASKS[spec].ndim, **rule})


def orders_of(spec: str) -> tuple[str, ...]:
    """The orders in which all tokens tie: of drawn values only equally likely ones do."""
    return ORDERS[:-1] if spec.startswith("replacement") else ORDERS


@pytest.mark.parametrize("spec", TASKS)
def test_the_targets_are_the_tables(spec: str) -> None:
    p = TASKS[spec]
    x = torch.tensor(list(itertools.product(range(p.shape[0]), repeat=p.ndim)))
    found = from_spec(spec).log_prob(x).exp().numpy().reshape(p.shape)
    assert np.abs(found - p).max() < 1e-12
    assert p.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("spec", "rule", "outcome"), CASES)
def test_the_enumeration_agrees_with_the_closed_form(
    spec: str, rule: Rule, outcome: Outcome
) -> None:
    p, N = TASKS[spec], TASKS[spec].ndim
    for order in orders_of(spec) if p.size < 1000 else ("fixed", "margin"):
        decoder = reference_of(spec, rule, order)
        law = law_of_decoder(p, decoder, N)
        assert kl(p, law) == pytest.approx(outcome.kl, abs=1e-10)
        assert law[p > 0].sum() == pytest.approx(outcome.valid, abs=1e-10)
        if outcome.calls is not None:
            assert mean_calls(p, decoder, N) == pytest.approx(outcome.calls, abs=1e-10)


@pytest.mark.parametrize(("spec", "rule", "outcome"), CASES)
def test_the_family_agrees_with_the_closed_form(spec: str, rule: Rule, outcome: Outcome) -> None:
    p = TASKS[spec]
    for order in orders_of(spec) if p.size < 1000 else ("fixed", "entropy"):
        law = law_of(spec, rule, order)
        assert kl(p, law) == pytest.approx(outcome.kl, abs=1e-10)
        assert law[p > 0].sum() == pytest.approx(outcome.valid, abs=1e-10)


def test_closed_forms_in_numbers() -> None:
    # Copies of 3 symbols over 4 tokens: 3 of 81 sequences. Permutations of 4: 24 of 256.
    assert closed.copy_at_once(4, 3).valid == pytest.approx(1 / 27, abs=1e-15)
    assert closed.shuffle_at_once(4).valid == pytest.approx(24 / 256, abs=1e-15)
    assert closed.replacement_at_once(5).valid == pytest.approx(0.8**4, abs=1e-15)
    # One replacement hardly costs more than N -> infinity says: KL -> 1, valid share -> 1/e.
    many = closed.replacement_at_once(10_000)
    assert many.kl == pytest.approx(1, abs=1e-4)
    assert many.valid == pytest.approx(math.exp(-1), abs=1e-4)
    # t = 0.4: 1/2 >= 0.4 > 1/3, so that the third call draws two symbols, equal half the time.
    two = closed.shuffle_by_threshold(4, 0.4)
    assert (two.calls, two.valid) == (3, 0.5)
    assert two.kl == pytest.approx(math.log(2), abs=1e-12)
    # The 1 is found by calls 1 .. 5: 2, 3, 4, 5 and 5 calls.
    assert closed.replacement_by_threshold(5, 0.9).calls == pytest.approx(19 / 5, abs=1e-12)
    # ln 5 > 1.2 > ln 3: steps of 1, 1, 2 tokens and the last.
    assert closed.shuffle_sizes(5, lambda r: 1 + 1.2 / math.log(r) if r > 1 else 1) == [1, 1, 2, 1]
    # In one call all tasks are the threshold's with t below every probability.
    for once, low in [
        (closed.copy_at_once(4, 3), closed.copy_by_threshold(4, 3, 0.01)),
        (closed.shuffle_at_once(4), closed.shuffle_by_threshold(4, 0.01)),
        (closed.replacement_at_once(4), closed.replacement_by_threshold(4, 0.01)),
    ]:
        assert (low.calls, low.kl, low.valid) == pytest.approx((1, once.kl, once.valid), abs=1e-12)


@pytest.mark.parametrize(("spec", "rule", "outcome"), CASES)
def test_calls_are_those_of_the_closed_form(spec: str, rule: Rule, outcome: Outcome) -> None:
    if outcome.calls is None:
        return
    n = 2000
    procedure, budget = decoded(from_spec(spec), rule, "top_probability")
    calls = Calls()
    states = list(procedure.run(budget, n, CounterRandomness(0), calls=calls))
    of_rows = np.zeros(n)
    for before, after in itertools.pairwise(states):
        of_rows += (after.placed & ~before.placed).any(1).numpy()
    assert calls.sequential == int(of_rows.max())
    assert bool(states[-1].placed.all())
    error = of_rows.std() / math.sqrt(n)
    assert abs(of_rows.mean() - outcome.calls) <= 4 * error
    assert (error > 0) == (outcome.calls % 1 > 0)


@pytest.mark.parametrize("spec", ["copy:4,symbols=3", "shuffle:4", "replacement:5"])
def test_one_token_per_step_is_exact(spec: str) -> None:
    p = TASKS[spec]
    for order in orders_of(spec):
        law = law_of(spec, {"tokens_per_step": 1}, order)
        assert np.abs(law - p).max() < 1e-12


def test_sampled_confidence_delays_the_replacement() -> None:
    # A drawn 0 is more likely than a drawn 1 while r > 2 tokens are masked, so that a 1 is placed
    # early only if all r tokens draw it. Otherwise it is one of the last two placed:
    # P = prod_{r=3..N} (1 - r^-r). The left ones of the tokens that drew 0 are placed first.
    N, rule = 5, {"tokens_per_step": 1}
    law = law_of("replacement:5", rule, "sampled_confidence")
    expected = law_of_decoder(
        TASKS["replacement:5"], Decoder(order="sampled_confidence", steps=5), 5
    )
    assert np.abs(law - expected).max() < 1e-10
    procedure, budget = decoded(from_spec("replacement:5"), rule, "sampled_confidence")
    n = 20_000
    states = list(procedure.run(budget, n, CounterRandomness(2)))
    late = 1 - states[N - 2].tokens.sum(1).double()  # no 1 among the first N - 2 tokens
    share = math.prod(1 - r ** (-r) for r in range(3, N + 1))
    assert abs(float(late.mean()) - share) < 4 * math.sqrt(share * (1 - share) / n)
    assert kl(TASKS["replacement:5"], law) > 0.1
    assert law[TASKS["replacement:5"] > 0].sum() == pytest.approx(1, abs=1e-12)


GREEDY: list[tuple[str, Rule, tuple[int, ...], bool]] = [
    ("copy:4,symbols=3", {"steps": 1}, closed.greedy_copy(4), True),
    ("copy:4,symbols=3", {"threshold": 0.9}, closed.greedy_copy(4), True),
    ("shuffle:4", {"steps": 1}, closed.greedy_shuffle(4, 0.01), False),
    ("shuffle:4", {"threshold": 0.3}, closed.greedy_shuffle(4, 0.3), False),
    ("shuffle:4", {"threshold": 0.4}, closed.greedy_shuffle(4, 0.4), False),
    ("shuffle:4", {"threshold": 0.6}, closed.greedy_shuffle(4, 0.6), True),
    ("shuffle:4", {"tokens_per_step": 1}, closed.greedy_shuffle(4, 1), True),
    ("replacement:2", {"threshold": 0.6}, closed.greedy_replacement(2, 0.6), True),
    ("replacement:5", {"steps": 1}, closed.greedy_replacement(5, 0.01), False),
    ("replacement:5", {"threshold": 0.79}, closed.greedy_replacement(5, 0.79), False),
    ("replacement:5", {"threshold": 0.9}, closed.greedy_replacement(5, 0.9), True),
]


@pytest.mark.parametrize(("spec", "rule", "sequence", "valid"), GREEDY)
def test_a_greedy_decoder_returns_one_sequence(
    spec: str, rule: Rule, sequence: tuple[int, ...], valid: bool
) -> None:
    p = TASKS[spec]
    for order in ORDERS[1:]:
        greedy = {**rule, "greedy": True}
        law = law_of(spec, greedy, order)
        assert law[sequence] == pytest.approx(1, abs=1e-12)
        expected = law_of_decoder(p, reference_of(spec, greedy, order), p.ndim)
        assert expected[sequence] == pytest.approx(1, abs=1e-12)
        assert kl(p, law) == math.inf
        assert (p[sequence] > 0) == valid


@pytest.mark.parametrize(("spec", "t"), [("replacement:10", 0.9)])
def test_a_threshold_of_1_minus_1_over_n_places_all_tokens_at_once(spec: str, t: float) -> None:
    outcome = closed.replacement_by_threshold(TASKS[spec].ndim, t)
    assert outcome.calls == 1
    assert kl(TASKS[spec], law_of(spec, {"threshold": t}, "fixed")) == pytest.approx(outcome.kl)
