"""Laws spelled out sequence by sequence, against brute force that shares no code with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import sequences as reference
from scipy import stats
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact import enumeration as module
from capcheck.exact.enumeration import Route
from capcheck.laws import Categorical, TokenLaw
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.probes.length import maskgit
from capcheck.probes.length.gpt import GPT
from capcheck.procedures.probe import Probe, State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.procedures.rows import Row
from capcheck.targets import CategoricalMixture, from_spec, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw, numbers, sequences, target_law
from capcheck.targets.target import Target

Array = NDArray[np.float64]
BRANCHING: tuple[Route, ...] = ("branching",)
DENSITY: tuple[Route, ...] = ("density",)
FOUR: Array = np.random.default_rng(5).random((2,) * 4) ** 2
THREE: Array = np.random.default_rng(6).random((3,) * 3) ** 2
THREE[0, 0], THREE[:, 1, 2] = 0, 0  # some sequences are impossible


def table(joint: Array) -> tuple[CategoricalMixture, reference.Sequences]:
    """One law twice: as a target, and as a list."""
    weights = {x: float(joint[x]) for x in itertools.product(range(len(joint)), repeat=joint.ndim)}
    return from_table(torch.tensor(joint)), reference.Sequences(weights, len(joint))


def law_by(
    probe: Probe[Any],
    target: Target,
    length: int,
    routes: tuple[Route, ...] = ("density", "branching"),
) -> SequenceLaw | Unavailable:
    law = Procedure.of(probe, target).exact_law(Budget(length=length, steps=1), routes=routes)
    assert isinstance(law, (SequenceLaw, Unavailable))
    return law


def law_of(
    family: str,
    target: Target,
    length: int,
    routes: tuple[Route, ...] = ("density", "branching"),
    **options: Any,
) -> SequenceLaw:
    return known(law_by(build_probe(family, options), target, length, routes))


def known(law: SequenceLaw | Unavailable) -> SequenceLaw:
    assert isinstance(law, SequenceLaw), law
    return law


def assert_refused(law: SequenceLaw | Unavailable, *because: str) -> None:
    assert isinstance(law, Unavailable), law
    for reason in because:
        assert reason in law.reason


def assert_law(law: SequenceLaw, expected: dict[tuple[int, ...], float]) -> None:
    """The law has these probabilities, and 0 elsewhere."""
    every = itertools.product(range(law.vocabulary), repeat=law.tokens)
    np.testing.assert_allclose(
        law.probabilities.numpy(), [expected.get(x, 0.0) for x in every], rtol=0, atol=1e-12
    )


def assert_routes_agree(probe: Probe[Any], target: Target, length: int) -> None:
    """What `run` samples is what `log_density` says, sequence by sequence."""
    stated, sampled = (known(law_by(probe, target, length, [r])) for r in ("density", "branching"))  # type: ignore[arg-type]
    np.testing.assert_allclose(
        sampled.probabilities.numpy(), stated.probabilities.numpy(), rtol=0, atol=1e-9
    )


def blocks_law(
    law: reference.Sequences, orders: Iterable[list[tuple[int, ...]]]
) -> dict[tuple[int, ...], float]:
    """Tokens of a block drawn independently given the blocks before it; a mean over orders."""
    each = list(orders)
    total: dict[tuple[int, ...], float] = {}
    for x in reference.every(law.tokens, law.vocabulary):
        for blocks in each:
            q, seen = 1.0, list[int]()
            for block in blocks:
                for i in block:
                    q *= law.given(np.array(x), seen, i)[x[i]]
                seen = [*seen, *block]
            total[x] = total.get(x, 0.0) + q / len(each)
    return total


# Sequences and their numbers


def test_sequences_come_in_the_order_of_their_numbers() -> None:
    expected = list(itertools.product(range(3), repeat=4))  # first token most significant
    for batch in (1, 7, 81, 1000):
        parts = list(sequences(3, 4, batch=batch))
        assert {len(part) for part in parts[:-1]} <= {batch}
        x = torch.cat(parts)
        assert [tuple(row) for row in x.tolist()] == expected
        assert numbers(x, 3).tolist() == list(range(81))
    assert torch.cat(list(sequences(1, 5))).tolist() == [[0] * 5]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("parity:5", reference.constrained(reference.has_even_parity, 5, 2)),
        ("copy:tokens=3,symbols=4", reference.constrained(reference.is_one_symbol, 3, 4)),
        ("copy:tokens=6,symbols=1", reference.constrained(reference.is_one_symbol, 6, 1)),
        ("ising:rows=2,columns=3", reference.ising(2, 3, 0.4, 0.0)),
    ],
)
def test_the_law_of_a_target_is_that_of_its_definition(
    spec: str, expected: reference.Sequences
) -> None:
    states = [tuple(state) for state in expected.states.tolist()]
    law = known(target_law(from_spec(spec)))
    assert_law(law, dict(zip(states, expected.probabilities.tolist(), strict=True)))


@pytest.mark.parametrize("tokens", [(0,), (2,), (1, 2), (0, 2), (0, 1, 2)])
def test_other_tokens_are_marginalised_out(tokens: tuple[int, ...]) -> None:
    law = known(target_law(table(THREE)[0])).onto(tokens)
    others = tuple(i for i in range(3) if i not in tokens)
    expected = (THREE / THREE.sum()).sum(others).ravel()
    assert law.tokens == len(tokens)
    assert law.probabilities.tolist() == pytest.approx(expected.tolist(), abs=1e-14)


@pytest.mark.parametrize("tokens", [(), (1, 0), (0, 0), (3,), (-1,)])
def test_tokens_that_a_law_does_not_have_are_refused(tokens: tuple[int, ...]) -> None:
    law = known(target_law(from_spec("parity:3")))
    with pytest.raises(InputError, match="rising order"):
        law.onto(tokens)


def test_a_law_needs_a_probability_for_every_sequence() -> None:
    with pytest.raises(InputError, match=r"must have shape \(8,\)"):
        SequenceLaw(log_probabilities=torch.zeros(9), vocabulary=2, tokens=3, method="none")


def test_auxiliary_tokens_can_be_left_out() -> None:
    # g1 p1 g2 p2 g3 p3 with p the running parity; p1 and p2 do not count.
    target = from_spec("chain-parity:3,scratch=yes")
    law = known(target_law(target))
    assert law.tokens == 6
    expected = {(*g, sum(g) % 2): 1 / 8 for g in itertools.product(range(2), repeat=3)}
    assert_law(law.onto(target.spec.counted), expected)


# Procedures by both routes


@pytest.mark.parametrize("routes", [DENSITY, BRANCHING])
@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_gpt_is_a_prefix_and_marginals_given_it(length: int, routes: tuple[Route, ...]) -> None:
    target, listed = table(THREE)
    blocks = [*[(i,) for i in range(length)], tuple(range(length, 3))]
    assert_law(law_of("gpt", target, length, routes), blocks_law(listed, [blocks]))


@pytest.mark.parametrize("routes", [DENSITY, BRANCHING])
def test_gpt_with_a_window_is_a_chain(routes: tuple[Route, ...]) -> None:
    # With a window of 1, q = p(x1) p(x2 | x1) p(x3 | x2) p(x4 | x3).
    p = FOUR / FOUR.sum()
    pairs = [p.sum((2, 3)), p.sum((0, 3)), p.sum((0, 1))]
    ones = [pair.sum(0) for pair in pairs[:-1]]
    q = np.einsum("ab,bc,cd,b,c->abcd", *pairs, *(1 / one for one in ones))
    law = law_of("gpt", table(FOUR)[0], 4, routes, window=1)
    np.testing.assert_allclose(law.probabilities.numpy(), q.ravel(), rtol=0, atol=1e-12)
    exact = law_of("gpt", table(FOUR)[0], 4, routes)
    assert np.abs(exact.probabilities.numpy() - q.ravel()).max() > 0.01


@pytest.mark.parametrize("routes", [DENSITY, BRANCHING])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_random_order_is_the_mixture_over_all_orders(
    length: int, routes: tuple[Route, ...]
) -> None:
    target, listed = table(FOUR)
    cuts = sorted({0, min(2, length), length, 4})
    orders = [
        [order[a:b] for a, b in itertools.pairwise(cuts)]
        for order in itertools.permutations(range(4))
    ]
    law = law_of("maskgit", target, length, routes, tokens_per_round=2)
    assert_law(law, blocks_law(listed, orders))


@pytest.mark.parametrize("spec", ["copy:tokens=3,symbols=3", "parity:4", "shuffle:3", "brackets:4"])
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt", {}),
        ("gpt", {"window": 1}),
        ("maskgit", {"order": "fixed", "rounds": 2}),
        ("maskgit", {"order": "random", "tokens_per_round": 2}),
        ("maskgit", {"order": "random", "tokens_per_round": 1}),
    ],
)
def test_run_samples_what_log_density_says(spec: str, family: str, options: dict[str, Any]) -> None:
    target = from_spec(spec)
    for length in (0, 2, target.spec.tokens):
        assert_routes_agree(build_probe(family, options), target, length)


def test_windowed_predictors_and_scratchpads_can_be_enumerated() -> None:
    target = from_spec("chain-parity:3,scratch=yes")
    for length in (0, 3, 6):
        assert_routes_agree(build_probe("gpt", {"window": 1}), target, length)


def test_one_precision_down_the_routes_still_agree() -> None:
    target = table(FOUR)[0].to(device="cpu", dtype=torch.float32)
    wide = law_of("maskgit", table(FOUR)[0], 4, rounds=2)
    for routes in (DENSITY, BRANCHING):
        law = law_of("maskgit", target, 4, routes, rounds=2)
        assert law.log_probabilities.dtype == torch.float64
        assert law.probabilities.tolist() == pytest.approx(wide.probabilities.tolist(), abs=1e-6)


class Exaggerating(GPT):
    """Says that it sees everything, and sees the last token."""

    def log_density(self, *arguments: Any) -> LogDensity:
        return GPT().log_density(*arguments)


def test_a_density_that_lies_about_the_draws_is_noticed() -> None:
    probe = Exaggerating(window=1)
    assert_routes_agree(GPT(window=1), table(FOUR)[0], 4)
    law_by(probe, table(FOUR)[0], 4, DENSITY)  # it sums to one, so alone it shows nothing
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_routes_agree(probe, table(FOUR)[0], 4)


class Inflated(GPT):
    """A density that is everywhere too large by a millionth and a half."""

    def log_density(self, *arguments: Any) -> LogDensity:
        found = super().log_density(*arguments)
        return LogDensity(values=found.values + 1.5e-6, method="inflated")


def test_a_density_that_does_not_sum_to_one_is_an_error() -> None:
    with pytest.raises(CapcheckError, match=r"must sum to 1, got 1\.0000015"):
        law_by(Inflated(), table(FOUR)[0], 4)


# Confidence order


def bernoulli(p: float) -> TokenPredictor:
    def predict(tokens: Tensor, known: Tensor) -> TokenLaw:
        fresh = torch.tensor([1 - p, p], dtype=torch.float64)
        as_known = torch.nn.functional.one_hot(tokens, 2).double()
        return Categorical(torch.where(known[..., None], as_known, fresh).log())

    return predict


@pytest.mark.parametrize(("p", "N"), [(0.3, 1), (0.3, 2), (0.3, 4), (0.45, 4), (0.1, 4)])
def test_confidence_order_is_biased_by_exactly_what_is_known(p: float, N: int) -> None:
    # i.i.d. Bernoulli(p), p < 1/2, one per round: zeros are the more confident, so the token that
    # is placed when m are masked is a one only if all m draws are ones, p^m.
    probe = build_probe("maskgit", {"order": "confidence", "tokens_per_round": 1})
    procedure = Procedure.of(probe, from_table(torch.full((2,) * N, 0.5**N).double()))
    law = procedure.with_trusted_network(bernoulli(p)).exact_law(
        Budget(length=N, steps=1), routes=BRANCHING
    )
    assert isinstance(law, SequenceLaw)
    ones = float(law.probabilities @ torch.cat(list(sequences(2, N))).sum(1).double())
    assert ones == pytest.approx(sum(p**m for m in range(1, N + 1)), abs=1e-12)
    if N > 1:
        assert abs(ones - N * p) > 0.1 * p  # what independent tokens would give


def confident(
    law: reference.Sequences, counts: list[int], seen: dict[int, int]
) -> dict[tuple[int, ...], float]:
    """All masked tokens are drawn, the likeliest `counts[0]` values stay, and so on."""
    masked = [i for i in range(law.tokens) if i not in seen]
    if not masked:
        return {tuple(seen[i] for i in range(law.tokens)): 1.0}
    x = np.array([seen.get(i, 0) for i in range(law.tokens)])
    given = {i: law.given(x, list(seen), i) for i in masked}
    total: dict[tuple[int, ...], float] = {}
    for values in itertools.product(range(law.vocabulary), repeat=len(masked)):
        q = {i: float(given[i][v]) for i, v in zip(masked, values, strict=True)}
        weight = math.prod(q.values())
        if weight == 0:
            continue
        kept = sorted(masked, key=lambda i: -q[i])[: counts[0]]
        drawn = dict(zip(masked, values, strict=True))
        after = confident(law, counts[1:], seen | {i: drawn[i] for i in kept})
        for y, of_y in after.items():
            total[y] = total.get(y, 0.0) + weight * of_y
    return total


@pytest.mark.parametrize(
    ("joint", "per_round", "counts"),
    [(FOUR, 2, [2, 2]), (FOUR, 3, [3, 1]), (THREE, 1, [1, 1, 1]), (FOUR, 1, [1, 1, 1, 1])],
)
def test_confidence_order_is_that_of_brute_force(
    joint: Array, per_round: int, counts: list[int]
) -> None:
    target, listed = table(joint)
    N = joint.ndim
    law = law_of("maskgit", target, N, order="confidence", tokens_per_round=per_round)
    assert "branching" in law.method
    expected = confident(listed, counts, {})
    assert sum(expected.values()) == pytest.approx(1)
    assert_law(law, expected)
    other = law_of("maskgit", target, N, tokens_per_round=per_round)
    assert (law.probabilities - other.probabilities).abs().max() > 1e-3


def test_real_draws_follow_the_branched_law() -> None:
    target = table(THREE)[0]
    probe = build_probe("maskgit", {"order": "confidence", "tokens_per_round": 2})
    n, budget = 20_000, Budget(length=2, steps=1)
    drawn = numbers(Procedure.of(probe, target).sample(budget, n, CounterRandomness(3)), 3)
    counts = np.bincount(drawn.numpy(), minlength=27)
    p = known(law_by(probe, target, 2)).probabilities.numpy()
    assert counts[p == 0].sum() == 0
    assert stats.chisquare(counts[p > 0], n * p[p > 0]).pvalue > 1e-3
    other = law_of("maskgit", target, 2, tokens_per_round=2).probabilities.numpy()  # random order
    assert stats.chisquare(counts[p > 0], n * other[p > 0] / other[p > 0].sum()).pvalue < 1e-6


# Branching itself


def test_a_point_mass_does_not_branch() -> None:
    law = law_of("gpt", from_spec("copy:tokens=6,symbols=5"), 4, BRANCHING)
    assert law.method.endswith(" 5 leaves")  # and not 5^6
    law = law_of("gpt", from_spec("shuffle:4"), 4, BRANCHING)
    assert law.method.endswith(" 24 leaves")


Habit = Literal[
    "order", "two orders", "normal", "uniform", "twice", "coupled", "more rows", "fewer rows",
    "broken", "far", "silent", "sometimes", "weights",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Peculiar(Probe[TokenPredictor]):
    """A procedure with one habit."""

    family: ClassVar[str] = "peculiar"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    signature: ClassVar[TokenPredictorSignature] = TokenPredictorSignature()

    habit: Habit

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        if self.habit != "silent":
            yield start
            yield start.write(self.tokens(spec, start.n, rng))

    def tokens(self, spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
        N, V = spec.tokens, spec.dim
        fair = torch.ones(V, dtype=torch.float64)
        if self.habit == "order":
            return rng.permutation(n, N)
        if self.habit == "two orders":
            return rng.permutation(n, N).gather(1, rng.permutation(n, N))
        if self.habit == "normal":
            return (rng.normal((n, N)) > 0).long()
        if self.habit == "uniform":
            return (rng.uniform((n, N)) > 0.5).long()
        if self.habit == "twice":
            return rng.stream("a").categorical(fair, (n, N)) - rng.stream("a").categorical(
                fair, (n, N)
            )
        if self.habit == "more rows":
            return rng.categorical(fair, (2 * n, N))[:n]
        if self.habit == "fewer rows":
            return rng.categorical(fair, (1, N)).expand(n, N)
        if self.habit == "broken":
            return rng.categorical(fair * torch.nan, (n, N))
        if self.habit == "far":
            return rng.categorical(fair, (n, N)) + 1
        if self.habit == "weights":  # not normalised, and for each token its own
            weights = torch.arange(1, N * V + 1).reshape(N, V).expand(n, N, V)
            return rng.categorical(weights, (n, N, 1)).squeeze(2)
        first = rng.categorical(fair, (n, N))
        if self.habit == "sometimes":  # a further draw in a batch whose rows begin alike
            return first if len(first[:, 0].unique()) > 1 else rng.categorical(fair, (n, N))
        share = first.double().mean() + 0.1
        return rng.categorical(torch.stack([share, 1.2 - share]), (n, N))


@pytest.mark.parametrize("habit", ["order", "two orders"])
def test_orders_are_equally_likely(habit: Habit) -> None:
    law = known(law_by(Peculiar(habit=habit), from_spec("shuffle:4"), 4))
    assert_law(law, dict.fromkeys(itertools.permutations(range(4)), 1 / 24))
    assert law.method.endswith(f" {24 if habit == 'order' else 24**2} leaves")


def test_weights_need_not_be_normalised() -> None:
    law = known(law_by(Peculiar(habit="weights"), from_spec("parity:2"), 2))
    # weights (1, 2) and (3, 4)
    expected: dict[tuple[int, ...], float]
    expected = {(0, 0): 3 / 21, (0, 1): 4 / 21, (1, 0): 6 / 21, (1, 1): 8 / 21}
    assert_law(law, expected)


@pytest.mark.parametrize(
    ("habit", "because"),
    [
        ("normal", "normal numbers are drawn"),
        ("uniform", "uniform numbers are drawn"),
        ("twice", "draw 0 of stream '/a' is used twice"),
        ("more rows", "is for 2 rows"),
        ("fewer rows", "is for 1 rows"),
        ("broken", "weights that are no law"),
        ("coupled", "depends on the other rows"),
        ("sometimes", "depends on the other rows"),
    ],
)
def test_what_cannot_be_branched_is_refused_with_the_reason(habit: Habit, because: str) -> None:
    assert_refused(law_by(Peculiar(habit=habit), from_spec("parity:3"), 3), because)


@pytest.mark.parametrize(
    ("habit", "message"), [("far", "outside 0..1"), ("silent", "yielded no state")]
)
def test_a_broken_contract_is_an_error(habit: Habit, message: str) -> None:
    with pytest.raises(CapcheckError, match=message):
        law_by(Peculiar(habit=habit), from_spec("parity:3"), 3)


# Limits


@pytest.mark.parametrize(
    ("spec", "because"),
    [
        ("gaussian", "continuous tokens"),
        ("parity:17", "2^17 sequences are more than the 65536"),
        ("parity:4096", "2^4096 sequences"),
        ("copy:tokens=2,symbols=257", "257^2 sequences"),
    ],
)
def test_sequences_that_cannot_be_enumerated_are_refused(spec: str, because: str) -> None:
    target = from_spec(spec)
    assert_refused(target_law(target), because)
    if target.spec.kind == "categorical":
        assert_refused(law_by(build_probe("gpt"), target, 1), because)


@pytest.mark.parametrize("spec", ["parity:16", "copy:tokens=2,symbols=256", "copy:tokens=1"])
def test_at_the_limit_they_are_enumerated(spec: str) -> None:
    target = from_spec(spec)
    law = law_of("gpt", target, target.spec.tokens)
    exact = known(target_law(target))
    assert (law.probabilities - exact.probabilities).abs().max() < 1e-12


def test_both_routes_say_why_they_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = build_probe("maskgit", {"order": "confidence", "temperature": 1, "rounds": 2})
    because = "depends on all that it drew", "uniform numbers are drawn"
    assert_refused(law_by(probe, from_spec("parity:4"), 4), *because)
    monkeypatch.setattr(maskgit, "ENUMERATED_CALLS", 0)
    monkeypatch.setattr(module, "LEAVES", 100)
    probe = build_probe("maskgit", {"tokens_per_round": 1})
    # 24 orders, and each of the first three rounds draws one value of two.
    because = "the log-density is only bounded (mean over orders", "at least 192 leaves"
    assert_refused(law_by(probe, from_spec("parity:4"), 4), *because)
    monkeypatch.setattr(module, "LEAVES", 100_000)
    monkeypatch.setattr(module, "NUMBERS", 192 * 8 - 1)
    assert_refused(law_by(probe, from_spec("parity:4"), 4), "192 leaves of 4 x 2 probabilities")
    monkeypatch.setattr(module, "NUMBERS", 1 << 20)
    assert isinstance(law_by(probe, from_spec("parity:4"), 4), SequenceLaw)
