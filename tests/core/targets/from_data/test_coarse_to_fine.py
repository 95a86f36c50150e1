"""Hidden Markov models of many symbols: fits of known sources, and a round of EM by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.from_data import coarse_to_fine, fitted_categorical
from capcheck.targets.from_data.baselines import independent_symbols
from capcheck.targets.from_data.fitted_categorical import (
    fit_hidden_markov,
    fit_latent_class,
    fit_markov_chain,
)
from capcheck.targets.from_data.maximisation import baum_welch

V = 5000


def source(tokens: int = 16) -> HiddenMarkov:
    """Four persistent states, each of which shows its own quarter of the symbols, as by Zipf."""
    rank = np.arange(V)
    shows = np.where(rank % 4 == np.arange(4)[:, None], 1.0, 0.02) / (rank + 5)
    stays = np.full((4, 4), 0.05) + 0.8 * np.eye(4)
    return HiddenMarkov(
        torch.full((4,), 0.25).double(),
        torch.from_numpy(stays),
        torch.from_numpy(shows / shows.sum(1, keepdims=True)),
        tokens=tokens,
    )


def rows(n: int = 500) -> np.ndarray:
    drawn: np.ndarray = source().sample(n, CounterRandomness(0)).numpy()
    return drawn


def test_a_fit_tells_more_than_independent_tokens_and_less_than_the_source() -> None:
    # EM keeps accidents of its start: of 0.6 nats that the states tell it finds a part.
    some, fresh = rows(2000), source().sample(400, CounterRandomness(1))
    target = fit_hidden_markov(some, 4, vocabulary=V)
    truth, found = (float(law.log_prob(fresh).mean()) / 16 for law in (source(), target))
    independent = float(independent_symbols(some, fresh.numpy(), V).mean()) / 16
    assert truth > found > independent + 0.2


def test_a_round_is_that_of_enumeration_with_witten_and_bells_pseudo_counts() -> None:
    x = np.array([[0, 1, 3], [3, 3, 1], [0, 0, 2]])
    law = np.array([0.3, 0.2, 0.1, 0.4])
    rng = np.random.default_rng(2)
    pi, T, E = (
        rng.dirichlet(np.ones(shape[-1]), size=shape[:-1]) for shape in [(2,), (2, 2), (2, 4)]
    )
    improve = baum_welch(torch.from_numpy(x), 2, torch.from_numpy(law), weight=2.0)
    _, log_p, after = improve((torch.from_numpy(pi), torch.from_numpy(T), torch.from_numpy(E)))
    start, steps, shown, total = (
        np.full(2, 0.5),
        np.full((2, 2), 0.5),
        2.0 * np.tile(law, (2, 1)),
        0.0,
    )
    for row in x:
        joint = {
            s: pi[s[0]] * E[s[0], row[0]]
            * math.prod(T[s[i - 1], s[i]] * E[s[i], row[i]] for i in (1, 2))
            for s in itertools.product(range(2), repeat=3)
        }  # fmt: skip
        whole = sum(joint.values())
        total += math.log(whole)
        for s, p in joint.items():
            start[s[0]] += p / whole
            for i in range(3):
                shown[s[i], row[i]] += p / whole
            for i in range(2):
                steps[s[i], s[i + 1]] += p / whole
    assert log_p == pytest.approx(total / 9)
    for got, counts in zip(after, (start, steps, shown), strict=True):
        assert got.numpy() == pytest.approx(counts / counts.sum(-1, keepdims=True))


@pytest.mark.parametrize("held", [1, 100, 1 << 20])
def test_counts_do_not_depend_on_how_many_rows_are_held(held: int) -> None:
    x = torch.from_numpy(rows(20))
    shown = torch.zeros(V, 4).double()
    log_p, begun, steps = source().expected_counts(x, shown, held)
    assert log_p == pytest.approx(float(source().log_prob(x).sum()))
    posterior = source().state_posterior(x, torch.ones_like(x, dtype=torch.bool))
    torch.testing.assert_close(begun, posterior[:, 0].sum(0))
    torch.testing.assert_close(shown[x[0, 0]], posterior[x == x[0, 0]].sum(0))
    torch.testing.assert_close(steps.sum(1), posterior[:, :-1].sum((0, 1)))
    torch.testing.assert_close(steps.sum(0), posterior[:, 1:].sum((0, 1)))


def test_symbols_are_merged_by_frequency_and_all_rare_ones_are_one() -> None:
    law = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.1, 0.05]).double()
    assert coarse_to_fine._merged(law, 3).tolist() == [2, 0, 3, 1, 3, 3]


def test_the_law_of_all_tokens_is_witten_and_bells_by_hand() -> None:
    # Five tokens of two kinds among four symbols: (count + 2 / 4) / (5 + 2).
    found = coarse_to_fine.pooled_law(torch.tensor([[1, 1, 3], [1, 1, 1]])[:, :].flatten()[:5], 4)
    assert found.tolist() == pytest.approx([0.5 / 7, 4.5 / 7, 0.5 / 7, 1.5 / 7])
    train, test = np.array([[1, 1], [1, 3]]), np.array([[1, 0], [3, 3]])
    p = coarse_to_fine.pooled_law(torch.from_numpy(train), V).numpy()
    expected = [math.log(p[1] * p[0]), 2 * math.log(p[3])]
    assert independent_symbols(train, test, V).tolist() == pytest.approx(expected)


def test_all_rows_are_fitted_from_the_law_of_the_held_in_ones() -> None:
    x = torch.from_numpy(rows())
    some = coarse_to_fine.coarse_to_fine(x[::2], 4, V, seed=0, grid=None)
    whole = coarse_to_fine.coarse_to_fine(x, 4, V, seed=0, grid=(4, 4), start=some)
    assert whole.spec.grid == (4, 4)
    assert float(whole.log_prob(x).mean()) > float(some.log_prob(x).mean())


def test_fits_of_many_symbols_repeat_themselves_and_leave_the_rows_alone() -> None:
    ids = rows(60)
    kept = ids.copy()
    first, second = (fit_hidden_markov(ids, 2, vocabulary=V) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert (ids == kept).all()
    unseen = int(np.setdiff1d(np.arange(V), ids)[0])
    strange = float(first.log_prob(torch.full((1, 16), unseen)))
    assert -math.inf < strange < float(first.log_prob(torch.from_numpy(ids)).mean())


def test_no_share_is_told_where_the_best_n_gram_has_independent_tokens() -> None:
    p = 1 / np.arange(1, V + 1)
    ids = np.random.default_rng(0).choice(V, p=p / p.sum(), size=(200, 16))
    held_out = fit_hidden_markov(ids, 2, vocabulary=V).provenance.held_out
    assert held_out is not None
    assert held_out.dependence is not None
    assert held_out.dependence.order == 0
    assert held_out.dependence.share is None
    assert "no n-gram clearly finds dependence" in held_out.dependence.sentence


@pytest.mark.parametrize("order", [None, 0, 1])
def test_chains_over_pairs_of_many_symbols_are_refused(order: int | None) -> None:
    with pytest.raises(InputError, match=r"at most 4096 symbols, .*, got 5000; use the law hmm"):
        fit_markov_chain(rows(60), order, vocabulary=V)


def test_tables_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.arange(3000).reshape(2, 1500)
    with pytest.raises(InputError, match=r"at most 1048576, got 10000 x 1500; use the law hmm, me"):
        fit_latent_class(ids, vocabulary=10_000)
    monkeypatch.setattr(fitted_categorical, "MOMENTS", 1 << 16)
    with pytest.raises(InputError, match="at most 65536, got 5000 x 16; merge rare symbols, or ch"):
        fit_hidden_markov(rows(60), 2, vocabulary=V)
