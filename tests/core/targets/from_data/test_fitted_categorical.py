"""Laws of token ids fitted to rows, against hand counts and brute-force enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from reference.splits import split

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.targets import HeldOut, HiddenMarkov, MarkovChain
from capcheck.targets.from_data import fitted_categorical, maximisation
from capcheck.targets.from_data.fitted_categorical import (
    fit_hidden_markov,
    fit_latent_class,
    fit_markov_chain,
)


def sequences(vocabulary: int, tokens: int) -> np.ndarray:
    return np.array(list(itertools.product(range(vocabulary), repeat=tokens)))


def noisy_copy(noise: float) -> np.ndarray:
    """p(x) over 3^4 sequences: a class, and every token equal to it but for the noise."""
    x = sequences(3, 4)
    weights = np.array([0.5, 0.3, 0.2])
    of_class = [np.where(x == c, 1 - noise, noise / 2).prod(1) for c in range(3)]
    p: np.ndarray = weights @ np.array(of_class)
    return p


def kl(p: np.ndarray, target: Any, x: np.ndarray) -> float:
    """KL of the law p over all sequences x, and a check that the target's law sums to 1."""
    log_q = target.log_prob(torch.from_numpy(x)).numpy()
    assert np.exp(log_q).sum() == pytest.approx(1)
    return float((p * (np.log(p) - log_q)).sum())


@pytest.mark.parametrize("classes", [3, None])
def test_latent_classes_recover_a_noisy_copy(classes: int | None) -> None:
    p, x = noisy_copy(0.15), sequences(3, 4)
    rows = x[np.random.default_rng(1).choice(len(x), size=5000, p=p)]
    target = fit_latent_class(rows, classes, vocabulary=3)
    # 2 weights and 24 probabilities cost 26 / (2 * 5000) = 0.003 nats on average.
    assert kl(p, target, x) < 0.01
    one_class = fit_latent_class(rows, 1, vocabulary=3)
    assert kl(p, one_class, x) > 0.5
    held_out = target.provenance.held_out
    assert held_out is not None
    assert not held_out.memorises
    assert held_out.log_likelihood == pytest.approx((p * np.log(p)).sum(), abs=0.1)


def test_one_class_is_independent_tokens_counted_by_hand() -> None:
    # Token 1: (3, 1, 0) of 4 rows, token 2: (0, 4, 0). Pooled: (3, 5, 0) + 1/3 each, over 9:
    # (10/27, 16/27, 1/27). A token's marginal is its counts and one row's worth of that, over 5;
    # the class is its counts and one row's worth of the marginal, over 5 again.
    ids = np.array([[0, 1], [0, 1], [0, 1], [1, 1]])
    target = fit_latent_class(ids, 1, vocabulary=3)
    first = (3 + (3 + 10 / 27) / 5) / 5
    second = (4 + (4 + 16 / 27) / 5) / 5
    expected = math.log(first) + math.log(second)
    assert float(target.log_prob(torch.tensor([[0, 1]]))) == pytest.approx(expected)


def test_many_classes_of_independent_tokens_memorise() -> None:
    ids = np.random.default_rng(0).integers(0, 4, (60, 6))
    held_out = fit_latent_class(ids, 30, vocabulary=4).provenance.held_out
    assert held_out is not None
    assert held_out.memorises
    assert held_out.in_sample > held_out.log_likelihood
    assert held_out.baseline_name == "independent tokens"


@pytest.mark.parametrize(
    ("score", "memorises"), [(-1.0, False), (-2.0, False), (-2.1, True), (math.nan, True)]
)
def test_memorising_is_to_predict_worse_than_the_baseline(score: float, memorises: bool) -> None:
    held_out = HeldOut(
        rows=1, log_likelihood=score, in_sample=0.0, baseline=-2.0, baseline_name="x"
    )
    assert held_out.memorises == memorises


def test_a_markov_chain_is_witten_bells_by_hand() -> None:
    # Symbols: 0 four times, 1 twice, two kinds: p(v) = (count + 2/3) / 8.
    # Pairs: 01, 10, 00, 01. After 0: 00 once, 01 twice, two kinds; after 1: 10 once, one kind.
    target = fit_markov_chain(np.array([[0, 1, 0], [0, 0, 1]]), 1, vocabulary=3)
    p = np.array([4 + 2 / 3, 2 + 2 / 3, 2 / 3]) / 8
    after_0 = (np.array([1, 2, 0]) + 2 * p) / 5
    after_1 = (np.array([1, 0, 0]) + p) / 2
    assert target.conditionals[0].tolist() == pytest.approx(p.tolist())
    expected = np.array([after_0, after_1, p])  # 2 was never seen: the shorter context stands
    assert target.conditionals[1].numpy() == pytest.approx(expected)
    log_prob = float(target.log_prob(torch.tensor([[1, 0, 1]])))
    assert log_prob == pytest.approx(math.log(p[1] * after_1[0] * after_0[1]))


def witten_bell(rows: np.ndarray, order: int, vocabulary: int) -> Any:
    """p(v | context) by recursion over shorter contexts, with counts in a dictionary."""
    counts: dict[tuple[int, ...], np.ndarray] = {}
    for row in rows.tolist():
        for j in range(order + 1):
            for i in range(j, len(row)):
                context = tuple(row[i - j : i])
                counts.setdefault(context, np.zeros(vocabulary))[row[i]] += 1

    def p(context: tuple[int, ...]) -> np.ndarray:
        lower = p(context[1:]) if context else np.full(vocabulary, 1 / vocabulary)
        if context not in counts:
            return lower
        seen = counts[context]
        kinds = (seen > 0).sum()
        law: np.ndarray = (seen + kinds * lower) / (seen.sum() + kinds)
        return law

    def log_prob(row: list[int]) -> float:
        laws = [p(tuple(row[max(0, i - order) : i])) for i in range(len(row))]
        return float(sum(math.log(law[v]) for law, v in zip(laws, row, strict=True)))

    return log_prob


def order_two(n: int, tokens: int = 10) -> np.ndarray:
    """x_i = x_{i-1} + x_{i-2} modulo 3, but for one in ten; any two tokens are independent."""
    rng = np.random.default_rng(4)
    x = rng.integers(0, 3, (n, tokens))
    for i in range(2, tokens):
        follows = rng.random(n) < 0.9
        x[:, i] = np.where(follows, (x[:, i - 1] + x[:, i - 2]) % 3, x[:, i])
    return x


def test_the_order_of_the_source_is_chosen_and_scored() -> None:
    rows = order_two(500)
    target = fit_markov_chain(rows, vocabulary=3)
    assert target.order == 2
    train, test = split(500)
    held_out = target.provenance.held_out
    assert held_out is not None
    by_hand = witten_bell(rows[train], 2, 3)
    expected = np.mean([by_hand(row) for row in rows[test].tolist()])
    assert held_out.log_likelihood == pytest.approx(expected)
    final = witten_bell(rows, 2, 3)
    x = rows[:20]
    expected_all = [final(row) for row in x.tolist()]
    assert target.log_prob(torch.from_numpy(x)).tolist() == pytest.approx(expected_all)
    assert not held_out.memorises
    # Without two tokens of the past there is nothing to know: ln 3 nats a token.
    assert held_out.baseline == pytest.approx(-10 * math.log(3), abs=0.2)


def test_the_best_order_is_chosen_even_where_the_one_before_it_does_not_help() -> None:
    # x_i is the parity of the last three: orders 1 and 2 predict nothing, and 2 a little worse.
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (400, 12))
    for i in range(3, 12):
        x[:, i] = np.where(rng.random(400) < 0.95, x[:, i - 3 : i].sum(1) % 2, x[:, i])
    scores = {}
    for order in (1, 2, 3):
        held_out = fit_markov_chain(x, order, vocabulary=2).provenance.held_out
        assert held_out is not None
        scores[order] = held_out.log_likelihood
    best = max(scores, key=lambda order: scores[order])
    assert best == 3
    assert fit_markov_chain(x, vocabulary=2).order == best


def test_orders_stop_where_the_table_is_too_large() -> None:
    ids = np.random.default_rng(0).integers(0, 600, (40, 4))
    assert fit_markov_chain(ids, vocabulary=600).order == 0  # 600^2 is above 2^18


def test_an_order_that_no_memory_holds_is_refused_before_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = torch.zeros

    def guarded(*shape: Any, **facts: Any) -> torch.Tensor:
        size = math.prod(shape[0] if isinstance(shape[0], tuple) else shape)
        assert size <= 1 << 25, f"asked for {size} numbers"
        return made(*shape, **facts)

    monkeypatch.setattr(torch, "zeros", guarded)
    ids = np.random.default_rng(0).integers(0, 500, (40, 6))
    with pytest.raises(InputError, match=r"order|conditionals"):
        fit_markov_chain(ids, 4, vocabulary=500)


@pytest.mark.parametrize("order", [4, 5, 20])
def test_an_order_beyond_the_sequence_is_refused(order: int) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (60, 4))
    with pytest.raises(InputError, match=f"got {order}"):
        fit_markov_chain(ids, order, vocabulary=3)


def fitted_after(
    rows: np.ndarray, rounds: int, monkeypatch: pytest.MonkeyPatch, *, prior: float = 1.0
) -> HiddenMarkov:
    """The model after `rounds` rounds of EM from the same start."""
    monkeypatch.setattr(maximisation, "STARTS", 1)
    monkeypatch.setattr(maximisation, "ROUNDS", rounds + 1)
    monkeypatch.setattr(maximisation, "CONVERGED", -math.inf)
    monkeypatch.setattr(maximisation, "PRIOR", prior)
    return fit_hidden_markov(rows, 2, vocabulary=2)


def parameters(model: HiddenMarkov) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return model._initial.numpy(), model._transition.numpy(), model._emission.numpy()


def marginal_law(rows: np.ndarray, vocabulary: int) -> np.ndarray:
    """Mean over tokens of their marginal laws, each with one row's worth of the pooled law."""
    n, N = rows.shape
    counts = np.stack([(rows == v).sum(0) for v in range(vocabulary)], 1)  # (N, V)
    pooled = (counts.sum(0) + 1 / vocabulary) / (n * N + 1)
    law: np.ndarray = ((counts + pooled) / (n + 1)).mean(0)
    return law


TINY = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]])


@pytest.mark.parametrize("prior", [1.0, 0.25])
def test_a_round_of_baum_and_welch_is_that_of_enumeration(
    monkeypatch: pytest.MonkeyPatch, prior: float
) -> None:
    pi, T, E = parameters(fitted_after(TINY, 0, monkeypatch, prior=prior))
    start, steps = np.full(2, prior / 2), np.full((2, 2), prior / 2)
    shown = prior * np.tile(marginal_law(TINY, 2), (2, 1))
    for x in TINY:
        paths = list(itertools.product(range(2), repeat=3))
        joint = np.array(
            [
                pi[s[0]] * T[s[0], s[1]] * T[s[1], s[2]] * E[s[0], x[0]] * E[s[1], x[1]]
                * E[s[2], x[2]]
                for s in paths
            ]
        )  # fmt: skip
        for s, share in zip(paths, joint / joint.sum(), strict=True):
            start[s[0]] += share
            for i in range(3):
                shown[s[i], x[i]] += share
            for i in range(2):
                steps[s[i], s[i + 1]] += share
    after = parameters(fitted_after(TINY, 1, monkeypatch, prior=prior))
    expected = (a / a.sum(-1, keepdims=True) for a in (start, steps, shown))
    for got, wanted in zip(after, expected, strict=True):
        assert got == pytest.approx(wanted)


@pytest.mark.parametrize("prior", [1.0, 1e-9])
def test_the_likelihood_with_its_pseudo_counts_never_falls(
    monkeypatch: pytest.MonkeyPatch, prior: float
) -> None:
    rng = np.random.default_rng(0)
    state = rng.integers(0, 2, (40, 1)) ^ (rng.random((40, 8)) < 0.2).cumsum(1) % 2
    rows = state ^ (rng.random((40, 8)) < 0.1)
    share = marginal_law(rows, 2)
    objective, likelihood = [], []
    for rounds in range(12):
        model = fitted_after(rows, rounds, monkeypatch, prior=prior)
        pi, T, E = parameters(model)
        likelihood.append(float(model.log_prob(torch.from_numpy(rows)).sum()))
        penalty = 0.5 * (np.log(pi).sum() + np.log(T).sum()) + (share * np.log(E)).sum()
        objective.append(likelihood[-1] + prior * penalty)
    assert (np.diff(objective) > -1e-6).all()
    assert likelihood[-1] > likelihood[0] + 0.3


def test_a_hidden_markov_model_finds_the_law_that_drew_its_rows() -> None:
    stay = torch.tensor([[0.95, 0.05], [0.1, 0.9]], dtype=torch.float64)
    shows = torch.tensor([[0.8, 0.15, 0.05], [0.05, 0.15, 0.8]], dtype=torch.float64)
    source = HiddenMarkov(torch.tensor([0.7, 0.3]).double(), stay, shows, tokens=12)
    rows = source.sample(3000, CounterRandomness(0)).numpy()
    target = fit_hidden_markov(rows, 2, vocabulary=3)
    fresh = source.sample(2000, CounterRandomness(1))
    gap = source.log_prob(fresh) - target.log_prob(fresh)
    assert abs(float(gap.mean())) < 0.01  # 7 parameters cost 7 / (2 * 3000) nats
    order = target._transition.diagonal().argsort(descending=True)
    assert target._transition[order][:, order].numpy() == pytest.approx(stay.numpy(), abs=0.03)
    assert target._emission[order].numpy() == pytest.approx(shows.numpy(), abs=0.03)
    held_out = target.provenance.held_out
    assert held_out is not None
    assert held_out.log_likelihood > held_out.baseline + 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_start_leaves_a_hidden_markov_model_at_independent_tokens(seed: int) -> None:
    # Two persistent states that show the lower or the upper half of four symbols: the tokens share
    # 1.4 nats, all of which are lost where EM stays at its start.
    stay = torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=torch.float64)
    shows = torch.tensor([[0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]], dtype=torch.float64)
    source = HiddenMarkov(torch.tensor([0.5, 0.5]).double(), stay, shows, tokens=16)
    rows = source.sample(1000, CounterRandomness(0)).numpy()
    target = fit_hidden_markov(rows, 2, vocabulary=4, seed=seed)
    fresh = source.sample(2000, CounterRandomness(1))
    assert float((source.log_prob(fresh) - target.log_prob(fresh)).mean()) < 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_start_leaves_latent_classes_at_too_few_of_them(seed: int) -> None:
    x = sequences(3, 6)
    of_class = [np.where(x == c, 0.85, 0.075).prod(1) for c in range(3)]
    p = np.mean(of_class, 0)
    rows = x[np.random.default_rng(1).choice(len(x), size=4000, p=p)]
    assert kl(p, fit_latent_class(rows, 3, vocabulary=3, seed=seed), x) < 0.1


@pytest.mark.parametrize("n", [2, 3, 19, 20])
@pytest.mark.parametrize("fit", [fit_latent_class, fit_markov_chain, fit_hidden_markov])
def test_few_rows_are_enough_for_some_size(fit: Any, n: int) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (n, 4))
    target = fit(ids, vocabulary=3)
    p = target.log_prob(torch.from_numpy(sequences(3, 4))).exp()
    assert float(p.sum()) == pytest.approx(1)
    # More than the uniform law gives to what was seen, and nothing is impossible.
    assert float(target.log_prob(torch.from_numpy(ids)).mean()) > -4 * math.log(3)
    assert float(p.min()) > 0


@pytest.mark.parametrize(
    "fit", [fit_latent_class, fit_markov_chain, fit_hidden_markov], ids=lambda fit: fit.__name__
)
def test_symbols_that_never_occur_stay_possible(fit: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 2, (60, 3))
    target = fit(ids, vocabulary=4)
    assert target.spec.dim == 4
    p = target.log_prob(torch.from_numpy(sequences(4, 3))).exp()
    assert float(p.sum()) == pytest.approx(1)
    strange, usual = target.log_prob(torch.tensor([[0, 3, 1], [0, 1, 1]])).exp().tolist()
    assert 0 < strange < 0.2 * usual


@pytest.mark.parametrize("fit", [fit_latent_class, fit_markov_chain, fit_hidden_markov])
def test_one_row_of_ids_is_too_few(fit: Any) -> None:
    with pytest.raises(InputError, match="at least 2 rows to fit a law to, got 1"):
        fit(np.zeros((1, 3), dtype=np.int64), vocabulary=2)


@pytest.mark.parametrize(
    ("fit", "symbols", "message"),
    [
        (fit_latent_class, 10_000, "symbols x tokens must be at most 1048576, got 10000 x"),
        (fit_markov_chain, 10_000, "at most 4096 symbols, .* got 10000; use the law hmm"),
        (fit_hidden_markov, 50_000, "symbols x tokens must be at most 67108864, got 50000 x 1500"),
    ],
)
def test_an_alphabet_that_no_memory_holds_is_refused(fit: Any, symbols: int, message: str) -> None:
    ids = np.arange(3000).reshape(2, 1500)
    with pytest.raises(InputError, match=message):
        fit(ids, vocabulary=symbols)
    with pytest.raises(InputError, match="from 0 to 4, got 5"):
        fit(np.array([[0, 5], [1, 2]]), vocabulary=5)
    with pytest.raises(InputError, match="integers of shape"):
        fit(np.zeros((3, 2)), vocabulary=5)


def test_orders_that_cannot_be_are_refused() -> None:
    ids = np.array([[0, 1, 2]] * 2)
    for order in (-1, 1.0, True):
        with pytest.raises(InputError, match=f"whole number of at least 0, got {order!r}"):
            fit_markov_chain(ids, order, vocabulary=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="below the 3 tokens of a sequence, got 3; choose a lower"):
        fit_markov_chain(ids, 3, vocabulary=3)
    assert fit_markov_chain(ids, 2, vocabulary=3).order == 2  # two rows are enough for any order
    with pytest.raises(InputError, match="below the 1 tokens"):
        fit_markov_chain(ids[:, :1], 1, vocabulary=3)
    assert fit_markov_chain(ids[:, :1], 0, vocabulary=3).order == 0


@pytest.mark.parametrize("fit", [fit_latent_class, fit_markov_chain, fit_hidden_markov])
def test_ids_of_any_integer_type_are_the_same_data(fit: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (20, 3))
    expected = fit(ids, vocabulary=3).fingerprint
    for dtype in (np.uint8, np.int16, np.uint64):
        assert fit(ids.astype(dtype), vocabulary=3).fingerprint == expected
    with pytest.raises(InputError, match="integers of shape"):
        fit(ids > 0, vocabulary=3)
    for vocabulary in (0, 3.0, True):
        with pytest.raises(InputError, match="vocabulary must be a whole number"):
            fit(ids, vocabulary=vocabulary)


def test_fits_repeat_themselves_and_leave_the_rows_alone() -> None:
    ids = np.random.default_rng(0).integers(0, 3, (60, 4))
    kept = ids.copy()
    for fit in (fit_latent_class, fit_hidden_markov):
        first, second = fit(ids, vocabulary=3), fit(ids, vocabulary=3)
        assert first.fingerprint == second.fingerprint
    assert isinstance(fit_markov_chain(ids, 1, vocabulary=3), MarkovChain)
    assert (ids == kept).all()


def test_chains_are_counted_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(3).integers(0, 3, size=(200, 7))
    whole = fit_markov_chain(ids, 2, vocabulary=3)
    monkeypatch.setattr(fitted_categorical, "BLOCK", 1)
    assert fit_markov_chain(ids, 2, vocabulary=3).fingerprint == whole.fingerprint
