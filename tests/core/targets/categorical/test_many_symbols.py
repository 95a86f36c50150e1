"""Hidden Markov models of thousands of symbols, against a forward-backward recursion in NumPy."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import capcheck
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import Categorical, TokenLaw
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets.categorical import emissions
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.categorical.markov_chain import MarkovChain

S, V, N = 4, 5000, 16


def tables(*, impossible: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Laws of the first state, the next state and the symbol, which most states show rarely."""
    rng = np.random.default_rng(0)
    emission = rng.dirichlet(np.full(V, 0.05), size=S) + 1e-3 / V
    if impossible:
        emission[:, 7] = 0
        emission[1:, 8] = 0
    emission /= emission.sum(1, keepdims=True)
    return rng.dirichlet(np.ones(S)), rng.dirichlet(np.full(S, 0.5), size=S), emission


def chain(tokens: int = N, *, impossible: bool = False) -> HiddenMarkov:
    return HiddenMarkov(*map(torch.from_numpy, tables(impossible=impossible)), tokens=tokens)


def drawn(rows: int) -> tuple[HiddenMarkov, Tensor, Tensor]:
    """The chain, some draws of it, and which of their tokens are known."""
    target = chain()
    x = target.sample(rows, CounterRandomness(0))
    return target, x, torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5


def by_recursion(x: np.ndarray, known: np.ndarray) -> tuple[float, np.ndarray]:
    """Log-probability of the known tokens of a row, and the laws of the others given them, (N, V).

    alpha_i(s) = P(known x_<i, s_i = s) and beta_i(s) = P(known x_>i | s_i = s), token by token.
    """
    initial, transition, emission = tables()
    evidence = [emission[:, x[i]] if known[i] else np.ones(S) for i in range(N)]
    alpha, beta = [initial], [np.ones(S)]
    for i in range(1, N):
        alpha.append((alpha[-1] * evidence[i - 1]) @ transition)
        beta.insert(0, transition @ (evidence[N - i] * beta[0]))
    laws = np.stack([(a * b) @ emission for a, b in zip(alpha, beta, strict=True)])
    return float(np.log(alpha[-1] @ evidence[-1])), laws / laws.sum(1, keepdims=True)


def laws_of(x: Tensor, known: Tensor) -> Tensor:
    """The laws of all tokens by the recursion, point masses where they are known, (n, N, V)."""
    laws = [by_recursion(*row)[1] for row in zip(x.numpy(), known.numpy(), strict=True)]
    certain = torch.nn.functional.one_hot(x, V).double()
    return torch.where(known[..., None], certain, torch.from_numpy(np.stack(laws)))


def test_the_log_probability_is_that_of_the_forward_recursion() -> None:
    target, x, _ = drawn(20)
    whole = np.ones(N, dtype=bool)
    expected = [by_recursion(row, whole)[0] for row in x.numpy()]
    assert target.log_prob(x).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("pattern", ["some", "none", "prefix", "all but one"])
def test_conditionals_are_those_of_the_recursion(pattern: str) -> None:
    target, x, known = drawn(12)
    place = torch.arange(N).expand_as(x)
    known = {
        "some": known,
        "none": place < 0,
        "prefix": place < 5,
        "all but one": place != 9,
    }[pattern]
    expected = laws_of(x, known)
    of_values = expected.gather(-1, x[..., None])[..., 0]
    law = target.marginals(x, (~known).double())
    torch.testing.assert_close(law.log_prob(x).exp(), of_values)
    torch.testing.assert_close(law.probabilities_where(~known), expected[~known])
    peaks = law.peaks_where(~known, most=N, least=0.0)
    torch.testing.assert_close(peaks, torch.where(known, 0, expected.amax(-1)))
    for tokens in ([9], [9, 6], list(range(5, N))):
        some = law.select(tokens)
        torch.testing.assert_close(some.log_prob(x[:, tokens]).exp(), of_values[:, tokens])
        torch.testing.assert_close(some.mean(), expected[:, tokens])


def test_causal_laws_are_those_given_the_tokens_before() -> None:
    target, x, _ = drawn(4)
    place = torch.arange(N).expand_as(x)
    expected = torch.stack([laws_of(x, place < i)[:, i] for i in range(N)], 1)
    law = target.marginals(x, torch.zeros(x.shape).double(), causal=True)
    torch.testing.assert_close(law.mean(), expected)
    of_values = expected.gather(-1, x[..., None])[..., 0]
    torch.testing.assert_close(law.log_prob(x).exp(), of_values)
    one_by_one = [each.log_prob(x[:, [i]])[:, 0] for i, each in enumerate(target.one_by_one(x))]
    torch.testing.assert_close(torch.stack(one_by_one, 1).exp(), of_values)


@pytest.mark.parametrize("prefix", [False, True])
def test_draws_are_the_inverse_distribution_function_at_the_same_numbers(prefix: bool) -> None:
    target, x, known = drawn(12)
    known = (torch.arange(N) < 4).expand_as(known) if prefix else known
    cumulative = laws_of(x, known).numpy().cumsum(-1)
    u = CounterRandomness(5).uniform((12, N)).numpy()
    expected = np.array(
        [[np.searchsorted(cumulative[r, i], u[r, i]) for i in range(N)] for r in range(12)]
    )
    law = target.marginals(x, (~known).double())
    assert law.sample(CounterRandomness(5)).tolist() == expected.tolist()
    some = law.sample_where(CounterRandomness(5), ~known)
    assert some[~known].tolist() == expected[~known.numpy()].tolist()
    assert law.icdf(torch.from_numpy(u)).tolist() == expected.tolist()
    up_to = np.take_along_axis(cumulative, x.numpy()[..., None], 2)[..., 0]
    up_to = np.where(known, 1.0, up_to)  # x is the value of a known token
    torch.testing.assert_close(law.cdf(x), torch.from_numpy(up_to))
    below = (x - 1).clamp(min=0)
    assert bool((law.cdf(below)[known & (x > 0)] == 0).all())


def test_numbers_next_to_one_find_a_symbol_that_is_possible() -> None:
    target = chain(impossible=True)
    x, u = torch.zeros(3, N, dtype=torch.int64), torch.full((3, N), 1 - 2.0**-53).double()
    law = target.marginals(x, torch.ones(3, N).double())
    last = law.icdf(u)
    assert bool((law.log_prob(last) > -torch.inf).all())
    assert bool((law.log_prob(torch.full_like(x, 7)) == -torch.inf).all())
    few = law.icdf(torch.linspace(0, 1, 3 * N + 2).double()[1:-1].reshape(3, N))
    assert 7 not in few.flatten().tolist()


def test_impossible_known_tokens_give_the_marginals() -> None:
    target = chain(impossible=True)
    x = torch.full((1, N), 7)
    known = (torch.arange(N) == 3)[None]
    for later in (known, (torch.arange(N) < 3)[None]):
        law = target.marginals(x, (~later).double())
        torch.testing.assert_close(law.mean()[0, 9], target.spec.mean[9])
        assert float(law.peaks_where(~later, most=1, least=0.0)[0, 9]) == pytest.approx(
            float(target.spec.mean[9].max())
        )
        of_value = law.log_prob(torch.full_like(x, 8))[0, 9].exp()
        torch.testing.assert_close(of_value, target.spec.mean[9, 8])


def test_every_value_of_a_token_has_the_joint_probability_of_the_sequence_with_it() -> None:
    target, x, _ = drawn(2)
    found = target.log_prob_of_values(x, 6)
    assert found is not None
    changed = x[:, None].repeat(1, V, 1)
    changed[:, :, 6] = torch.arange(V)
    torch.testing.assert_close(found, target.log_prob(changed.flatten(0, 1)).reshape(2, V))
    x[0, 2] = 7  # which no state shows
    found = chain(impossible=True).log_prob_of_values(x, 6)
    assert found is not None
    assert bool((found[0] == -torch.inf).all())


@pytest.mark.parametrize("looks", [0, emissions.LOOKS, 1])
def test_the_largest_probability_is_found_whatever_groups_are_looked_at(
    looks: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emissions, "LOOKS", looks)
    target, x, known = drawn(12)
    peaks = target.marginals(x, (~known).double()).peaks_where(~known, most=N, least=0.0)
    expected = torch.where(known, 0, laws_of(x, known).amax(-1))
    torch.testing.assert_close(peaks, expected)


def test_a_posterior_that_tells_the_state_needs_one_group_and_one_that_tells_nothing_many() -> None:
    table = torch.from_numpy(tables()[2])
    held = emissions.Emissions(table)
    assert sorted(torch.cat([*held.groups], 1).sum(1).tolist()) == pytest.approx([1.0] * S)
    certain, nothing = torch.eye(S).double(), torch.full((1, S), 1 / S).double()
    first = (certain @ held.bounds).argmax(1)
    own = [held.groups[g][s].max() for s, g in enumerate(first.tolist())]
    assert torch.equal(torch.stack(own), table.amax(1))
    assert torch.equal(held.largest(certain), table.amax(1))
    torch.testing.assert_close(held.largest(nothing), (nothing @ table).amax(1))
    # The group of the largest bound need not hold the largest probability of a mixed posterior.
    assert float((nothing @ held.bounds).max()) > float((nothing @ table).max())


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt", {}),
        ("multi_token", {"heads": 4}),
        ("maskgit", {"order": "random"}),
        ("parallel_decoder", {"order": "top_probability"}),
    ],
)
def test_decoders_of_many_symbols_make_no_table_of_all_tokens(
    family: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Categorical.__init__

    def guarded(self: Categorical, logits: Tensor) -> None:
        assert logits.numel() <= 1 << 21, "a table of all tokens of many rows"
        made(self, logits)

    monkeypatch.setattr(Categorical, "__init__", guarded)
    target = chain()
    found = capcheck.check(
        family, target, options=options, samples=200, lengths=[N], steps=[2], seconds_per_cell=0.5
    )
    kl = found.cells[-1].estimates["kl"]
    assert found.outcome != "not_measured"
    assert kl.value is not None
    if family == "gpt":
        assert kl.value == 0
    if family == "multi_token":  # what the blocks of four lose, by the recursion
        x, place = target.sample(100, CounterRandomness(9)), np.arange(N)
        lost = []
        for row in x.numpy():
            laws = [by_recursion(row, place < i)[1][i : i + 4] for i in range(0, N, 4)]
            drawn_at_once = np.log(np.concatenate(laws)[place, row]).sum()
            lost.append(by_recursion(row, place < N)[0] - drawn_at_once)
        error = 4 * np.std(lost) * np.sqrt(1 / 100 + 1 / 200)
        assert kl.value == pytest.approx(np.mean(lost), abs=error)


@pytest.mark.parametrize("symbols", [V, 40])
def test_laws_given_noisy_tokens_are_those_of_two_state_sums(symbols: int) -> None:
    """p(x_i = v | noisy y) is proportional to f + (1 - f) [v = y_i], times alpha beta emission."""
    initial, transition, emission = tables()
    emission = emission[:, :symbols] / emission[:, :symbols].sum(1, keepdims=True)
    target = HiddenMarkov(*map(torch.from_numpy, (initial, transition, emission)), tokens=N)
    rng = np.random.default_rng(3)
    y, keep = rng.integers(0, symbols, (2, N)), rng.random((2, N))
    keep[:, [2, 5]] = [0, 1]
    expected = np.empty((2, N, symbols))
    for r in range(2):
        likelihood = (1 - keep[r, :, None]) / symbols + keep[r, :, None] * np.eye(symbols)[y[r]]
        seen = likelihood @ emission.T  # (N, S)
        alpha, beta = [initial], [np.ones(S)]
        for i in range(1, N):
            alpha.append((alpha[-1] * seen[i - 1]) @ transition)
            beta.insert(0, transition @ (seen[N - i] * beta[0]))
        joint = (np.array(alpha) * np.array(beta)) @ emission * likelihood
        expected[r] = joint / joint.sum(1, keepdims=True)
    law = target.noisy_marginals(torch.from_numpy(y), torch.from_numpy(keep))
    np.testing.assert_allclose(law.mean(), expected, atol=1e-12)
    values = rng.integers(0, symbols, (2, N))
    values[0] = y[0]
    of_values = np.take_along_axis(expected, values[..., None], -1)[..., 0]
    np.testing.assert_allclose(law.log_prob(torch.from_numpy(values)).exp(), of_values, atol=1e-12)
    up_to = np.take_along_axis(expected.cumsum(-1), values[..., None], -1)[..., 0]
    np.testing.assert_allclose(law.cdf(torch.from_numpy(values)), up_to, atol=1e-12)
    chosen = torch.ones(2, N, dtype=torch.bool)
    peaks = law.peaks_where(chosen, most=1, least=0.0)
    np.testing.assert_allclose(peaks, expected.max(-1))
    u = CounterRandomness(4).uniform((2, N))
    by_table = [[np.searchsorted(p.cumsum(), v) for p, v in zip(*row, strict=True)]
                for row in zip(expected, u.numpy(), strict=True)]  # fmt: skip
    assert law.sample(CounterRandomness(4)).tolist() == by_table
    for number in (2.0**-60, 1 - 2.0**-53):
        assert bool((law.log_prob(law.icdf(torch.full((2, N), number).double())) > -60).all())


def test_one_token_of_many_symbols_is_enumerated() -> None:
    found = capcheck.check("gpt", chain(1), samples=200, lengths=[1], steps=[1])
    assert found.outcome == "representable"


def test_copies_leave_the_moments_behind() -> None:
    target = chain()
    size = len(pickle.dumps(target))
    x = target.sample(3, CounterRandomness(1))
    law: TokenLaw = target.marginals(x, torch.ones(3, N).double())
    law.sample(CounterRandomness(2))
    law.peaks_where(torch.ones_like(x, dtype=torch.bool), most=1, least=1.0)
    assert len(pickle.dumps(target)) <= size + 1000
    twin = pickle.loads(pickle.dumps(target))
    assert torch.equal(twin.spec.mean, target.spec.mean)
    assert twin.fingerprint == target.fingerprint


def test_chains_over_pairs_of_many_symbols_are_refused() -> None:
    with pytest.raises(capcheck.InputError, match=r"for 5000 symbols and order 0; use .* a hidden"):
        MarkovChain([torch.full((V,), 1 / V).double()], tokens=N)


def test_few_symbols_keep_the_laws_they_had() -> None:
    # A chain of few symbols draws states before symbols, so that its draws stay what they were.
    few = HiddenMarkov(
        torch.full((2,), 0.5).double(), torch.full((2, 2), 0.5).double(),
        torch.full((2, 4), 0.25).double(), tokens=3,
    )  # fmt: skip
    assert few.log_prob_of_values(torch.zeros(1, 3, dtype=torch.int64), 0) is None
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    assert float(few.log_prob(every).exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize("family", ["vae", "blockwise"])
def test_no_table_of_every_token_is_made(family: str) -> None:
    """A table of the laws of all tokens of all draws would hold 2.1 GB."""
    symbols, tokens = 40_000, 64
    emission = torch.rand(2, symbols, generator=torch.Generator().manual_seed(0)).double()
    even = torch.full((2, 2), 0.5).double()
    target = HiddenMarkov(even[0], even, emission / emission.sum(1, keepdim=True), tokens=tokens)
    whole = len(x := target.sample(100, CounterRandomness(0))) * tokens * symbols
    held = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            held.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    procedure = Procedure.of(build_probe(family), target)
    budget = Budget(length=tokens, steps=1)
    with Watched():  # type: ignore[no-untyped-call]
        procedure.sample(budget, len(x), CounterRandomness(1))
        found = procedure.log_density(budget, x, CounterRandomness(2))
    assert isinstance(found, LogDensity)
    assert max(held) <= whole / tokens
