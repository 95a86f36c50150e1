"""Parallel decoders against an enumeration of partly masked sequences, rule by rule."""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from networks import law_of_run
from reference.unmasking import Array, Decoder, kl, law_of_decoder, mean_calls, schedule
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.enumeration import ROUTES, Route
from capcheck.probes.length import parallel_decoder as module
from capcheck.probes.length.parallel_decoder import ParallelDecoder
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import MarkovChain, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw

Options = dict[str, Any]

BY_SCORE = ("top_probability", "margin", "entropy")
KNOWN_ORDERS = ("fixed", *BY_SCORE)
ORDERS = ("random", *KNOWN_ORDERS, "sampled_confidence")
ADAPTIVE: list[Options] = [
    {"threshold": 0.55},
    {"threshold": 0.7},
    {"threshold": 1.0},
    {"factor": 1.0},
    {"factor": 1.6},
    {"factor": 0.55},
    {"entropy_bound": 0.0},
    {"entropy_bound": 0.5},
    {"entropy_bound": 1.0},
]
RULES: list[Options] = [
    {},
    {"schedule": "cosine"},
    {"tokens_per_step": 1},
    {"tokens_per_step": 2},
    *ADAPTIVE,
]
SHAPES: list[Options] = [
    {},
    {},
    {"temperature": 0.5},
    {"top_p": 0.7},
    {"temperature": 2.0, "top_p": 0.9},
    {"greedy": True},
]


def normalised(p: Array) -> Array:
    """A table that sums to 1."""
    table: Array = p / p.sum()
    return table


def positive(N: int, V: int, seed: int) -> Array:
    """A table of dependent tokens, all of whose entries are positive."""
    weights: Array = np.random.default_rng(seed).exponential(size=(V,) * N) ** 2
    return normalised(weights)


def holes(N: int, V: int, seed: int) -> Array:
    """A table about 0.4 of whose entries are zero."""
    p = positive(N, V, seed)
    p = np.where(np.random.default_rng(seed + 100).random(p.shape) < 0.6, p, 0)
    return normalised(p)


def parity(N: int) -> Array:
    """Bits an even number of which is 1: all tokens tie in every order until the last."""
    return normalised(1.0 - np.indices((2,) * N).sum(0) % 2)


def copy(law: list[float], N: int) -> Array:
    """One symbol, N times: all tokens tie in every order."""
    p = np.zeros((len(law),) * N)
    for v, probability in enumerate(law):
        p[(v,) * N] = probability
    return p


def rough(seed: int) -> Array:
    """Four dependent bits, whose probabilities differ by large factors."""
    p: Array = np.exp(2 * np.random.default_rng(seed).normal(size=(2,) * 4))
    return normalised(p)


def leaning() -> Array:
    """Four dependent bits, two of which are nearly certain: what fits depends on the order."""
    e, rng = np.einsum, np.random.default_rng(135)
    p = e("a,b,c,d->abcd", [0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.55, 0.45])
    return normalised(p * np.exp(1.5 * rng.normal(size=p.shape)))


TABLES = {
    "positive3": positive(3, 2, 1),
    "holes3": holes(3, 2, 5),
    "holes4": holes(4, 2, 2),
    "parity4": parity(4),
    "copy4": copy([0.5, 0.5], 4),
    "leaning4": leaning(),
    "ternary4": holes(4, 3, 3),
    "holes5": holes(5, 2, 4),
    "positive6": positive(6, 2, 5),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A decoder at a budget."""

    options: Options
    length: int
    steps: int

    def expected(self, p: Array, given: tuple[int, ...] = ()) -> Array:
        return law_of_decoder(p, self.decoder, self.length, given)

    @property
    def decoder(self) -> Decoder:
        return Decoder(steps=self.steps, **self.options)

    @property
    def budget(self) -> Budget:
        return Budget(length=self.length, steps=self.steps)

    def procedure(self, p: Array, given: tuple[int, ...] = ()) -> Procedure[Any]:
        probe = build_probe("parallel_decoder", self.options)
        return Procedure.of(probe, from_table(torch.tensor(p)), given=given)

    def law(self, p: Array, *routes: Route, given: tuple[int, ...] = ()) -> Array:
        found = self.procedure(p, given).exact_law(self.budget, routes=routes or ROUTES)
        assert isinstance(found, SequenceLaw), (self, found)
        law: Array = found.probabilities.numpy().reshape(p.shape)
        return law


def whole(order: str, p: Array, **options: Any) -> Case:
    """A decoder that may place all tokens, in as many steps as there are tokens."""
    return Case(options={"order": order, **options}, length=p.ndim, steps=p.ndim)


def cases(name: str, order: str) -> Iterator[Case]:
    """Every rule with a draw of all other options and of the budget, the same at every call.

    The full length is drawn half the time. With blocks, adaptive rules and a smaller length there
    are as many steps as tokens: see `test_length_is_not_lost_where_a_block_stays_incomplete`.
    """
    N, rng = TABLES[name].ndim, np.random.default_rng(zlib.crc32(f"{name} {order}".encode()))
    for k, rule in enumerate(RULES):
        shape = SHAPES[rng.integers(len(SHAPES))]
        block = [{}, {"block": 2}, {"block": 3}][rng.integers(3)]
        length = [N, N, N, 0, 1, N // 2, N - 1][rng.integers(7)]
        steps = [1, 2, 3, N][rng.integers(4)]
        if rule in ADAPTIVE and block and length < N:
            steps = N
        if N < 6 or k % 3 == ORDERS.index(order) % 3:  # of the largest table a third
            options = {"order": order, **rule, **shape, **block}
            yield Case(options=options, length=length, steps=steps)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", TABLES)
def test_the_law_of_every_rule_is_that_of_the_enumeration(name: str, order: str) -> None:
    p = TABLES[name]
    for case in cases(name, order):
        expected = case.expected(p)
        assert expected.sum() == pytest.approx(1, abs=1e-12)
        assert np.abs(case.law(p, "density") - expected).max() < 1e-10, case


def test_the_rules_are_told_apart() -> None:
    # The twin of the test above: a wrong rule makes another law.
    p = TABLES["leaning4"]
    two = [Case(options={"order": order}, length=4, steps=2).expected(p) for order in ORDERS]
    for (a, one), (b, other) in itertools.combinations(zip(ORDERS, two, strict=True), 2):
        alike = {a, b} <= {"top_probability", "margin", "entropy"}  # of bits they are one order
        assert (np.abs(one - other).max() < 1e-12) == alike
    rules = [RULES[k] for k in (0, 2, 5, 7, 11)]
    many = [Case(options={"order": "random", **rule}, length=4, steps=2) for rule in rules]
    shapes = [Case(options={"order": "random", **shape}, length=4, steps=2) for shape in SHAPES[1:]]
    for one_of in (many, shapes):
        laws = [case.expected(p) for case in one_of]
        for one, other in itertools.combinations(laws, 2):
            assert np.abs(one - other).max() > 1e-4
    three = positive(4, 3, 26)  # of three values the three scores are three orders
    laws = [Case(options={"order": each}, length=4, steps=2).expected(three) for each in BY_SCORE]
    for one, other in itertools.combinations(laws, 2):
        assert np.abs(one - other).max() > 1e-3


# The sampler, run on branching draws.


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("rule", "length", "steps"),
    [
        ({}, 3, 3),
        ({"schedule": "cosine", "temperature": 2.0}, 3, 2),
        ({"tokens_per_step": 2, "block": 2}, 2, 1),
        ({"threshold": 0.7}, 3, 2),
        ({"factor": 0.55}, 3, 3),
        ({"entropy_bound": 0.0, "top_p": 0.9}, 2, 3),
    ],
)
def test_what_is_sampled_has_the_law_of_the_enumeration(
    order: str, rule: Options, length: int, steps: int
) -> None:
    p, case = (
        TABLES["positive3"],
        Case(options={"order": order, **rule}, length=length, steps=steps),
    )
    assert np.abs(case.law(p, "branching") - case.expected(p)).max() < 1e-10


@pytest.mark.parametrize("order", KNOWN_ORDERS)
def test_what_is_sampled_among_ties_has_the_law_of_the_enumeration(order: str) -> None:
    rules = [*RULES[1::4], {"factor": 1.6}, {"entropy_bound": 1.0}]
    for name, rule in itertools.product(("parity4", "copy4"), rules):
        case = whole(order, TABLES[name], **rule)
        found = case.law(TABLES[name], "branching")
        assert np.abs(found - case.expected(TABLES[name])).max() < 1e-10, case


def test_branching_refuses_a_rule_by_which_rows_end_at_different_steps() -> None:
    # A step in which no row of the batch has a free token is left out, with its draws.
    p = TABLES["holes4"]
    case = whole("fixed", p, threshold=0.7)
    found = case.procedure(p).exact_law(case.budget, routes=("branching",))
    assert isinstance(found, Unavailable)
    assert "depends on the other rows" in found.reason


def counts_of(case: Case, p: Array, n: int) -> Array:
    """The number of samples that equal each sequence, (V^N,)."""
    x = case.procedure(p).sample(case.budget, n, CounterRandomness(7)).numpy()
    number = np.ravel_multi_index(tuple(x.T), p.shape)
    return np.bincount(number, minlength=p.size).astype(float)


def pvalue_of(counts: Array, law: Array) -> float:
    """The p-value of a chi-square test; sequences of expected number below 5 are taken together."""
    expected = law.flatten() * counts.sum()
    assert counts[expected == 0].sum() == 0
    rare = expected < 5
    observed, of_law = ([*each[~rare], each[rare].sum()] for each in (counts, expected))
    if of_law[-1] == 0:
        observed, of_law = observed[:-1], of_law[:-1]
    return float(stats.chisquare(observed, of_law).pvalue)


@pytest.mark.parametrize(
    ("name", "options", "length", "steps"),
    [
        ("ternary4", {"order": "random"}, 4, 2),
        ("holes5", {"order": "random", "threshold": 0.7, "block": 3}, 5, 2),
        ("holes5", {"order": "fixed", "factor": 1.0, "temperature": 2.0}, 5, 5),
        ("ternary4", {"order": "top_probability", "threshold": 0.5}, 4, 4),
        ("positive6", {"order": "margin", "schedule": "cosine", "top_p": 0.9}, 4, 3),
        ("ternary4", {"order": "entropy", "entropy_bound": 0.7}, 3, 4),
        ("ternary4", {"order": "sampled_confidence", "factor": 1.5, "temperature": 0.7}, 4, 4),
        ("holes5", {"order": "sampled_confidence", "tokens_per_step": 2}, 5, 1),
    ],
)
def test_frequencies_of_samples_agree(name: str, options: Options, length: int, steps: int) -> None:
    p, case = TABLES[name], Case(options=options, length=length, steps=steps)
    counts, law = counts_of(case, p, 20_000), case.expected(p)
    assert pvalue_of(counts, law) > 1e-3
    tilted = law * (1 + 0.2 * np.indices(p.shape)[0])  # the twin that must fail
    assert pvalue_of(counts, tilted / tilted.sum()) < 1e-6


@pytest.mark.parametrize(("rule", "seed"), [({"factor": 0.8}, 518), ({"entropy_bound": 0.4}, 62)])
def test_a_random_order_is_drawn_anew_for_every_step(rule: Options, seed: int) -> None:
    # In an order that is drawn once, that a rule stopped after c tokens tells which token is next.
    p = rough(seed)
    case = whole("random", p, **rule)
    expected = case.expected(p)
    assert np.abs(case.law(p, "density") - expected).max() < 1e-10
    assert pvalue_of(counts_of(case, p, 40_000), expected) > 1e-3


# Facts.


@pytest.mark.parametrize("name", ["positive3", "holes4", "parity4", "copy4", "ternary4"])
@pytest.mark.parametrize("order", ORDERS)
def test_one_token_per_step_is_exact_unless_drawn_values_decide(name: str, order: str) -> None:
    p = TABLES[name]
    for options in ({"tokens_per_step": 1}, {}, {"schedule": "cosine"}, {"block": 2}):
        case = whole(order, p, **options)
        found = kl(p, case.law(p, "density"))
        if order != "sampled_confidence":
            assert found == pytest.approx(0, abs=1e-12)
        elif name in ("positive3", "holes4", "ternary4"):
            assert found > 1e-3
        else:  # every value is as likely as the others, so that the left token is always the first
            assert found == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rule", [{"threshold": 1.0}, {"entropy_bound": 0.0}, {"factor": 1e-6}])
@pytest.mark.parametrize("name", ["holes4", "parity4", "copy4"])
def test_tokens_that_are_certain_cost_nothing_together(name: str, rule: Options) -> None:
    p = TABLES[name]
    for order in ("random", *KNOWN_ORDERS):
        case = whole(order, p, **rule)
        assert kl(p, case.law(p, "density")) == pytest.approx(0, abs=1e-12)
        assert order == "random" or mean_calls(p, case.decoder, p.ndim) < p.ndim or name != "copy4"


@pytest.mark.parametrize("p", [0.1, 0.3, 0.49])
@pytest.mark.parametrize("N", [1, 2, 3, 4])
def test_sampled_confidence_is_biased_even_for_independent_tokens(p: float, N: int) -> None:
    # One token per step keeps a one only where all m masked tokens were drawn as ones, m = N .. 1,
    # so that the expected number of ones is sum_{m=1..N} p^m, and not N p.
    joint = functools.reduce(np.multiply.outer, [np.array([1 - p, p])] * N)
    ones = np.indices(joint.shape).sum(0)
    expected = sum(p**m for m in range(1, N + 1))
    case = whole("sampled_confidence", joint, tokens_per_step=1)
    assert float((case.expected(joint) * ones).sum()) == pytest.approx(expected, abs=1e-12)
    for route in ROUTES:
        assert float((case.law(joint, route) * ones).sum()) == pytest.approx(expected, abs=1e-12)
    assert (abs(expected - N * p) > 0.005) == (N > 1)


@pytest.mark.parametrize("name", ["holes4", "parity4", "copy4", "ternary4"])
def test_a_greedy_decoder_returns_one_sequence(name: str) -> None:
    p = TABLES[name]
    for order, steps in itertools.product((*KNOWN_ORDERS, "sampled_confidence"), (1, 2, 4)):
        case = Case(options={"order": order, "greedy": True}, length=4, steps=steps)
        law = case.law(p, "density")
        assert np.sort(law.flatten())[-2:].tolist() == pytest.approx([0, 1], abs=1e-12)
        assert kl(p, law) == math.inf


def test_a_greedy_decoder_in_random_order_returns_several_sequences() -> None:
    # Of two different fair bits the first to be placed is 0, the smaller of two equally likely
    # values, and the other one is then 1: (0, 1) from the left, (1, 0) from the right.
    p = np.array([[0.0, 0.5], [0.5, 0.0]])
    case = whole("random", p, greedy=True)
    assert case.expected(p).tolist() == [[0, 0.5], [0.5, 0]]
    assert np.abs(case.law(p, "density") - p).max() < 1e-12
    assert np.abs(case.law(p, "branching") - p).max() < 1e-12


def test_a_check_reports_the_kl_of_the_enumeration() -> None:
    p = TABLES["ternary4"]
    case = Case(options={"order": "sampled_confidence"}, length=4, steps=2)
    found = check(
        "parallel_decoder", from_table(torch.tensor(p)), options=case.options, lengths=[4],
        steps=[2], samples=200, divergences=["kl"],
    )  # fmt: skip
    expected = kl(p, case.expected(p))
    assert found.cells[0].estimates["kl"].value == pytest.approx(expected, abs=1e-9)
    assert found.cells[0].model_calls == 2


@pytest.mark.parametrize("order", ["random", "fixed"])
@pytest.mark.parametrize("maskgit", [{"rounds": 2}, {"rounds": 4}, {"tokens_per_round": 2}])
def test_maskgit_is_this_decoder_with_its_schedule(order: str, maskgit: Options) -> None:
    target = from_table(torch.from_numpy(rough(3)))
    steps = maskgit.get("rounds", 1)
    same = {
        "order": order,
        "tokens_per_step": maskgit.get("tokens_per_round"),
        "schedule": "cosine",
    }
    for length in (2, target.spec.tokens):
        found = []
        for family, options in (
            ("maskgit", {"order": order, **maskgit}),
            ("parallel_decoder", same),
        ):
            procedure = Procedure.of(build_probe(family, options), target)
            law = procedure.exact_law(Budget(length=length, steps=steps))
            assert isinstance(law, SequenceLaw)
            found.append(law.probabilities)
        torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)


def test_schedules_in_numbers() -> None:
    probe = ParallelDecoder()
    assert probe._sizes(8, 3) == [0, 3, 5, 8]  # 8/3 = 2.67, 16/3 = 5.33
    assert probe._sizes(6, 4) == [0, 2, 3, 5, 6]  # 1.5, 3, 4.5: halves are rounded up
    cosine = ParallelDecoder(schedule="cosine")
    assert cosine._sizes(8, 4) == [0, 1, 3, 5, 8]  # floor(8 cos(pi r / 8)) = 7, 5, 3, 0 are left
    assert ParallelDecoder(tokens_per_step=3)._sizes(8, 2) == [0, 3, 6, 8]
    for name, tokens in itertools.product(("uniform", "cosine"), range(1, 9)):
        for steps in range(1, tokens + 1):
            each = schedule(Decoder(order="fixed", schedule=name, steps=steps), tokens)
            sizes = build_probe("parallel_decoder", {"schedule": name})
            assert isinstance(sizes, ParallelDecoder)
            assert np.diff(sizes._sizes(tokens, steps)).tolist() == each


# Bookkeeping.


@pytest.mark.parametrize("rule", RULES[::2])
def test_known_tokens_are_never_rewritten_and_the_length_is_kept(rule: Options) -> None:
    p = TABLES["holes5"]
    budgets: list[tuple[int, Options, tuple[int, ...]]] = [(5, {}, ()), (3, {"block": 2}, (1,))]
    for order, (length, block, given) in itertools.product(ORDERS, budgets):
        case = Case(options={"order": order, **rule, **block}, length=length, steps=3)
        procedure = case.procedure(p, given)
        states = list(procedure.run(case.budget, 50, CounterRandomness(3)))
        for before, after in itertools.pairwise(states):
            assert bool((after.placed | ~before.placed).all())
            assert bool((after.tokens == before.tokens)[before.placed].all())
            assert int((after.placed & ~before.placed).sum(1).max()) >= 1
        assert int(states[-1].placed.sum(1).max()) <= length + len(given)


@pytest.mark.parametrize("rule", [{}, {"threshold": 0.7}, {"factor": 1.0}, {"entropy_bound": 0.5}])
@pytest.mark.parametrize("order", ORDERS)
def test_rows_do_not_depend_on_their_batch(order: str, rule: Options) -> None:
    for name in ("holes5", "ternary4"):
        case = whole(order, TABLES[name], **rule)
        procedure = case.procedure(TABLES[name])
        together = procedure.sample(case.budget, 64, CounterRandomness(11))
        halves = [
            procedure.sample(case.budget, 32, CounterRandomness(11, first_row=first))
            for first in (0, 32)
        ]
        assert torch.equal(together, torch.cat(halves))


@pytest.mark.parametrize("given", [(1,), (0, 3)])
@pytest.mark.parametrize("order", ORDERS)
def test_beside_given_tokens_the_law_is_that_of_the_enumeration(
    given: tuple[int, ...], order: str
) -> None:
    p = TABLES["leaning4"]
    rules: list[Options] = [{}, {"tokens_per_step": 2}, {"block": 2, "schedule": "cosine"}]
    for k, rule in enumerate(rules):
        length, steps = [(4 - len(given), 2), (1, 1), (2, 3)][k]
        case = Case(options={"order": order, **rule}, length=length, steps=steps)
        run = law_of_run(case.procedure(p, given), case.budget, p)
        assert np.abs(run - case.expected(p, given)).max() < 1e-10, case
    if order in KNOWN_ORDERS:
        for rule in [*rules, *ADAPTIVE[1::2]]:
            case = Case(options={"order": order, **rule}, length=4 - len(given), steps=2)
            density = case.law(p, "density", given=given)
            assert np.abs(density - case.expected(p, given)).max() < 1e-10, case


@pytest.mark.parametrize("order", ORDERS)
def test_given_tokens_stay(order: str) -> None:
    p = TABLES["holes5"]
    case = whole(order, p, threshold=0.7, temperature=3.0)
    procedure = case.procedure(p, (1,))
    first, *_, last = procedure.run(case.budget, 300, CounterRandomness(5))
    assert bool(first.placed[:, 1].all())
    assert torch.equal(first.tokens[:, 1], last.tokens[:, 1])
    sampled = procedure.sample(case.budget, 300, CounterRandomness(5))
    assert torch.equal(sampled[:, 1], first.tokens[:, 1])
    assert 0 < int(sampled[:, 1].sum()) < 300


@pytest.mark.parametrize("rule", [{}, {"threshold": 0.9}, {"tokens_per_step": 2, "block": 3}])
def test_where_states_are_too_many_two_bounds_hold_the_log_density_in_random_order(
    rule: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATES", 0)
    p, n = TABLES["leaning4"], 4000
    case = Case(options={"order": "random", **rule}, length=4, steps=2)
    procedure = case.procedure(p)
    x = from_table(torch.tensor(p)).sample(n, CounterRandomness(0))
    found = procedure.log_density(case.budget, x, CounterRandomness(1))
    assert isinstance(found, LogDensity)
    assert found.bound
    exact = np.log(case.expected(p)[tuple(x.numpy().T)])
    below = exact - found.values.numpy()
    assert below.mean() > -4 * below.std() / math.sqrt(n) - 1e-12
    assert found.above is not None  # the hidden orders of a row are independent
    above = found.above.numpy() - exact
    assert above.mean() > -4 * above.std() / math.sqrt(n) - 1e-12


@pytest.mark.parametrize(
    "pair",
    list(
        itertools.combinations(
            [("tokens_per_step", 2), ("threshold", 0.9), ("factor", 1.0), ("entropy_bound", 0.1)], 2
        )
    ),
)
def test_two_rules_for_how_many_are_refused(pair: tuple[tuple[str, float], ...]) -> None:
    with pytest.raises(InputError, match="at most one of"):
        build_probe("parallel_decoder", dict(pair))


# Boundaries and ties.


def test_length_is_not_lost_where_a_block_stays_incomplete() -> None:
    # One step places one of two tokens in each block: with no more than two tokens in all, the
    # second is placed in the second block.
    p = TABLES["positive3"]
    options = {"order": "fixed", "threshold": 1.0, "block": 2}
    case = Case(options=options, length=3, steps=1)
    assert np.abs(case.law(p, "density") - case.expected(p)).max() < 1e-10
    last = list(case.procedure(p).run(case.budget, 10, CounterRandomness(0)))[-1]
    assert last.placed.tolist() == [[True, False, True]] * 10


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", [{"threshold": 1.0}, {"entropy_bound": 0.0}])
def test_a_smaller_length_reaches_the_same_blocks(order: str, rule: Options) -> None:
    p = TABLES["positive3"]
    case = Case(options={"order": order, **rule, "block": 2}, length=2, steps=1)
    last = list(case.procedure(p).run(case.budget, 10, CounterRandomness(0)))[-1]
    assert last.placed.sum(1).tolist() == [2] * 10
    assert np.abs(case.law(p, "density") - case.expected(p)).max() < 1e-10


@pytest.mark.parametrize("order", KNOWN_ORDERS)
def test_a_bound_that_is_not_quite_reached_or_just_reached(order: str) -> None:
    # All tokens of a copied bit with P(0) = w have max_v p(v) = w. The factor rule of two tokens
    # compares 3 (1 - w), the entropy bound H(w).
    w = 0.8
    H = -w * math.log(w) - (1 - w) * math.log(1 - w)
    p = copy([w, 1 - w], 3)
    for rule, together in [
        ({"threshold": w - 1e-6}, True),
        ({"threshold": w + 1e-6}, False),
        ({"factor": 4 * (1 - w) + 1e-6}, True),
        ({"factor": 3 * (1 - w) - 1e-6}, False),
        ({"entropy_bound": 2 * H}, True),
        ({"entropy_bound": 2 * H + 1e-6}, True),
        ({"entropy_bound": H - 1e-6}, False),
    ]:
        case = whole(order, p, **rule)
        calls = 1 if together else 2
        assert mean_calls(p, case.decoder, 3) == pytest.approx(calls, abs=1e-12)
        law = case.law(p, "density")
        assert np.abs(law - case.expected(p)).max() < 1e-10
        assert (kl(p, law) == pytest.approx(0, abs=1e-9)) == (not together)


@pytest.mark.parametrize("w", [0.75, 0.9])
def test_a_threshold_that_is_reached_up_to_rounding_is_reached(w: float) -> None:
    p = copy([w, 1 - w], 3)
    case = whole("top_probability", p, threshold=w)
    assert mean_calls(p, case.decoder, 3) == 1
    assert np.abs(case.law(p, "density") - case.expected(p)).max() < 1e-10


@pytest.mark.parametrize(("w", "factor"), [(0.8, 0.6), (5 / 6, 0.5)])
def test_a_factor_that_is_met_up_to_rounding_does_not_fit(w: float, factor: float) -> None:
    # 3 (1 - 0.8) = 0.6 is not below 0.6, but is 0.5999999999999999 in float64.
    p = copy([w, 1 - w], 3)
    case = whole("fixed", p, factor=factor)
    assert mean_calls(p, case.decoder, 3) == pytest.approx(2, abs=1e-12)
    assert np.abs(case.law(p, "density") - case.expected(p)).max() < 1e-10


def symmetric(N: int, V: int, seed: int) -> Array:
    """A table that stays the same if all symbols are counted on: uniform tokens, up to rounding."""
    p = np.random.default_rng(seed).random((V,) * N)
    return normalised(np.sum([np.roll(p, (k,) * N, tuple(range(N))) for k in range(V)], axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_of_equally_likely_values_the_greedy_one_is_the_smallest(seed: int) -> None:
    for N, V in ((3, 3), (4, 2)):
        p = symmetric(N, V, seed)
        for order in KNOWN_ORDERS:
            case = whole(order, p, greedy=True)
            assert np.abs(case.law(p, "density") - case.expected(p)).max() < 1e-10


def test_of_equally_likely_values_top_p_keeps_the_smallest() -> None:
    for seed in range(5):
        for N, V in ((3, 3), (4, 2)):
            p = symmetric(N, V, seed)
            for order, top_p in itertools.product(KNOWN_ORDERS, (1 / V, 0.5)):
                case = whole(order, p, top_p=top_p)
                assert np.abs(case.law(p, "density") - case.expected(p)).max() < 1e-10


@pytest.mark.parametrize("order", ORDERS)
def test_long_sequences_have_a_density_or_a_reason(order: str) -> None:
    # 28^1024 partly masked sequences are no float64.
    even = torch.full((27, 27), 1 / 27).double()
    target = MarkovChain([even[0], even], tokens=1024)
    procedure = Procedure.of(build_probe("parallel_decoder", {"order": order}), target)
    x = target.sample(3, CounterRandomness(0))
    found = procedure.log_density(Budget(length=1024, steps=2), x, CounterRandomness(1))
    if order == "sampled_confidence":
        assert isinstance(found, Unavailable)
    else:
        assert isinstance(found, LogDensity)
        np.testing.assert_allclose(found.values.numpy(), -1024 * math.log(27))


@pytest.mark.parametrize("order", ["random", "sampled_confidence"])
def test_one_step_of_all_tokens_is_exact_at_any_length(order: str) -> None:
    N = 40
    law = torch.tensor([0.2, 0.3, 0.5]).double()
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.0, 0.9]]).double()
    target = MarkovChain([law, transition], tokens=N)
    x, rng = target.sample(20, CounterRandomness(0)), CounterRandomness(1)
    marginal = target.spec.mean.log()
    expected = marginal[torch.arange(N), x].sum(1)
    for family, options in (
        ("parallel_decoder", {"order": order}),
        ("maskgit", {"order": "random", "rounds": 1}),
        ("masked_diffusion", {"remask": order == "random"}),
    ):
        procedure = Procedure.of(build_probe(family, options), target)
        found = procedure.log_density(Budget(length=N, steps=1), x, rng)
        assert isinstance(found, LogDensity)
        assert not found.bound
        torch.testing.assert_close(found.values, expected)
        others = Budget(length=N // 2, steps=1)
        if family != "masked_diffusion":  # which tokens are placed by then does matter
            found = procedure.log_density(others, x, rng)
            assert isinstance(found, Unavailable) or found.bound
        nothing = procedure.log_density(Budget(length=0, steps=1), x, rng)
        assert isinstance(nothing, LogDensity)
        torch.testing.assert_close(nothing.values, expected)
