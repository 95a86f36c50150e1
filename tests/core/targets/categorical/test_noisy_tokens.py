"""Posteriors of tokens with uniform noise, against sums over all sequences that are written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import sequences
from reference.sequences import Sequences
from torch import Tensor

from capcheck.core.errors import InputError, UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import NoisyPredictorSignature
from capcheck.targets import (
    CategoricalMixture,
    CategoricalTarget,
    HiddenMarkov,
    MarkovChain,
    from_spec,
    from_table,
)
from capcheck.targets.conditional import conditional

Array = NDArray[np.float64]
Pair = tuple[CategoricalTarget, Sequences]
N, V, ROWS = 4, 3, 12


def simplex(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def chain(order: int, *, impossible: bool = False) -> Pair:
    tables = [simplex(m, *(V,) * (m + 1)) for m in range(order + 1)]
    if impossible:  # no symbol follows itself, so that messages are logarithms
        tables[1] = (1 - np.eye(V)) / (V - 1)
    target = MarkovChain([torch.tensor(t) for t in tables], tokens=N)
    return target, sequences.markov(tables, N)


def hidden(*, varied: bool) -> Pair:
    shape = ((N - 1, 2, 2), (N, 2, V)) if varied else ((2, 2), (2, V))
    parts = simplex(0, 2), simplex(1, *shape[0]), simplex(2, *shape[1])
    target = HiddenMarkov(*(torch.tensor(p) for p in parts), tokens=N)
    return target, sequences.hidden_markov(*parts, N)


def classes() -> Pair:
    p, w = simplex(0, 5, N, V), simplex(1, 5)
    return CategoricalMixture(torch.tensor(p), torch.tensor(w)), sequences.product_mixture(p, w)


def rows(smoothing: float, symbols: int) -> Pair:
    """Distinct rows of ids; with 4 symbols one of them never occurs."""
    ids = np.array([[0, 1, 2, 2], [1, 1, 0, 2], [2, 0, 1, 1], [0, 0, 2, 0], [1, 2, 2, 1]])
    w = simplex(3, 5)
    target = CategoricalMixture.of_rows(
        torch.tensor(ids), vocabulary=symbols, smoothing=smoothing, weights=torch.tensor(w)
    )
    return target, sequences.smoothed_rows(ids, symbols, smoothing, w)


def listed() -> Pair:
    p = simplex(4, V**N).reshape((V,) * N)
    return from_table(torch.tensor(p)), sequences.weighed(lambda x: float(p[x]), N, V)


def rule(spec: str, holds: Callable[[tuple[int, ...]], bool], symbols: int) -> Pair:
    target = from_spec(spec)
    assert isinstance(target, CategoricalTarget)
    return target, sequences.constrained(holds, N, symbols)


PAIRS: dict[str, Pair] = {
    "independent": chain(0),
    "order 1": chain(1),
    "order 2": chain(2),
    "no symbol after itself": chain(1, impossible=True),
    "hidden Markov": hidden(varied=False),
    "hidden Markov of many tables": hidden(varied=True),
    "classes": classes(),
    "sparse rows": rows(0.2, 3),
    "rows with a missing symbol": rows(0.2, 4),
    "rows as they are": rows(0.0, 3),
    "table": listed(),
    "copy": rule("copy:tokens=4,symbols=3", sequences.is_one_symbol, 3),
    "parity": rule("parity:4", sequences.has_even_parity, 2),
}


def questions(pair: Pair) -> tuple[Tensor, Tensor]:
    """Noisy tokens with keep-probabilities of all kinds: equal, different, 0 and 1."""
    rng = np.random.default_rng(0)
    symbols = pair[1].vocabulary
    x, keep = pair[1].draw(ROWS, rng), rng.uniform(size=(ROWS, N))
    keep[0], keep[1], keep[2], keep[3, 1], keep[4, :2], keep[5] = 0, 0.5, 1, 1, 0, 1e-9
    keep[6] = 1 - 1e-9
    noisy = rng.uniform(size=x.shape) >= keep
    noisy[7] = keep[7] < 1  # a row of noise alone
    x = np.where(noisy, rng.integers(symbols, size=x.shape), x)
    return torch.tensor(x), torch.tensor(keep)


def summed(law: Sequences, x: Array, keep: Array) -> Array:
    """The posterior of every clean token, (N, V): a sum over all sequences, by Bayes' rule."""
    found = np.zeros((law.tokens, law.vocabulary))
    for state, probability in zip(law.states, law.probabilities, strict=True):
        weight = probability
        for i in range(law.tokens):
            weight *= keep[i] * (state[i] == x[i]) + (1 - keep[i]) / law.vocabulary
        found[range(law.tokens), state] += weight
    found /= found.sum(1, keepdims=True)
    return found


def check_posteriors(found: TokenLaw | None, law: Sequences, x: Tensor, keep: Tensor) -> None:
    assert found is not None
    expected = np.stack([summed(law, *row) for row in zip(x.numpy(), keep.numpy(), strict=True)])
    assert np.abs(found.mean().numpy() - expected).max() < 1e-12
    assert np.abs(found.select([2, 1]).mean().numpy() - expected[:, [2, 1]]).max() < 1e-12


@pytest.mark.parametrize("name", PAIRS)
def test_posteriors_are_sums_over_all_sequences(name: str) -> None:
    target, law = PAIRS[name]
    x, keep = questions((target, law))
    check_posteriors(target.noisy_marginals(x, keep), law, x, keep)
    tilted = 1 + 0.1 * law.states[:, 0]
    listed = zip(law.states.tolist(), law.probabilities * tilted, strict=True)
    other = Sequences({tuple(state): p for state, p in listed}, law.vocabulary)
    with pytest.raises(AssertionError):
        check_posteriors(target.noisy_marginals(x, keep), other, x, keep)
    with pytest.raises(AssertionError):
        check_posteriors(target.noisy_marginals(x, 0.9 * keep), law, x, keep)


@pytest.mark.parametrize("name", PAIRS)
def test_without_noise_they_are_the_conditional_marginals(name: str) -> None:
    target = PAIRS[name][0]
    x = target.sample(6, CounterRandomness(0))
    known = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    known[0], known[1] = True, False
    # What stands in the place of an unseen token is not read, whether a symbol or not.
    found = target.noisy_marginals(torch.where(known, x, -1), known.double())
    assert found is not None
    expected = target.marginals(x, (~known).double())
    torch.testing.assert_close(found.mean(), expected.mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mean()[1], target.spec.mean, rtol=0, atol=1e-12)
    blurred = target.noisy_marginals(x, known.double().clamp(0.05, 0.95))
    assert blurred is not None
    assert (blurred.mean() - expected.mean()).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["order 1", "order 2", "hidden Markov", "sparse rows", "table"])
def test_tiles_of_rows_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, law = PAIRS[name]
    x, keep = questions((target, law))
    whole = target.noisy_marginals(x, keep)
    assert whole is not None
    expected = whole.mean()
    for module in ("chain", "categorical_mixture"):
        monkeypatch.setattr(f"capcheck.targets.categorical.{module}.TILE", 40)
    tiled = target.noisy_marginals(x, keep)
    assert tiled is not None
    torch.testing.assert_close(tiled.mean(), expected, rtol=0, atol=1e-14)


def test_long_chains_neither_underflow_nor_forget() -> None:
    # Of 800 tokens that copy each other with probability 0.9 all are shown with the same noise. In
    # the middle only near tokens matter, so that a short chain around one has the same posterior.
    step = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double()
    even = torch.tensor([0.5, 0.5]).double()
    chains = {n: MarkovChain([even, step], tokens=n) for n in (800, 301, 3)}
    x = chains[800].sample(2, CounterRandomness(0))

    def middle(n: int) -> Tensor:
        part = x[:, 400 - n // 2 : 400 - n // 2 + n]
        law = chains[n].noisy_marginals(part, torch.full(part.shape, 0.3).double())
        return law.select([n // 2]).mean()

    torch.testing.assert_close(middle(800), middle(301), rtol=0, atol=1e-12)
    assert (middle(800) - middle(3)).abs().max() > 1e-4


@pytest.mark.parametrize("keep", [-0.1, 1.1, float("nan")])
def test_no_other_numbers_are_keep_probabilities(keep: float) -> None:
    target = PAIRS["order 1"][0]
    x = torch.zeros(2, N, dtype=torch.int64)
    with pytest.raises(InputError, match="keep must be probabilities"):
        target.noisy_marginals(x, torch.full((2, N), keep).double())
    with pytest.raises(InputError, match="keep must be probabilities"):
        target.noisy_marginals(x, torch.full((2,), 0.5).double())
    with pytest.raises(InputError, match="x must hold integers"):
        target.noisy_marginals(x - 1, torch.full((2, N), 0.5).double())


def test_a_target_without_posteriors_says_so() -> None:
    given = conditional(PAIRS["order 1"][0], [0], torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(UnfitError, match=r"posteriors of noisy tokens.*noisy_marginals"):
        NoisyPredictorSignature().oracle(given)
    with pytest.raises(UnfitError, match="uniform noise needs token ids"):
        NoisyPredictorSignature().oracle(from_spec("modes:tokens=3,modes=2,gap=3"))
    assert NoisyPredictorSignature().oracle(PAIRS["order 1"][0]) is not None
