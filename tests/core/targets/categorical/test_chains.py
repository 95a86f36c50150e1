"""Chains: products over the few transitions that are possible, and tables that are no law."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from capcheck.core.errors import InputError
from capcheck.targets import HiddenMarkov, MarkovChain, from_spec
from capcheck.targets.categorical.messages import SparseSteps, sparse_steps


def banded(seed: int, *shape: int) -> np.ndarray:
    """Laws of the next state of which only the state itself and its two neighbours are possible."""
    S = shape[-1]
    near = np.abs(np.arange(S) - np.arange(S)[:, None]) <= 1
    p: np.ndarray = np.random.default_rng(seed).uniform(0.1, 1, size=shape) * near
    p /= p.sum(-1, keepdims=True)
    return p


def ballots(length: int, depth: int) -> int:
    """Strings of brackets that close `depth` open ones: reflection at -1."""
    up, odd = divmod(length - depth, 2)
    if odd or up < 0:
        return 0
    return math.comb(length, up) - (math.comb(length, up - 1) if up else 0)


def check_products(steps: SparseSteps, tables: np.ndarray, message: np.ndarray) -> None:
    """Products as numpy's, at every step, to the last digits."""
    per_step = tables if tables.ndim == 3 else tables[None]
    for i, table in enumerate(per_step):
        found = steps.product(torch.tensor(message).log(), i).exp().numpy()
        assert found == pytest.approx(message @ table, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("shape", [(7, 7), (4, 7, 7)])
def test_sparse_products_are_matrix_products_both_ways(shape: tuple[int, ...]) -> None:
    tables = banded(0, *shape)
    tables[..., 2, 3] = 0  # one more that is impossible, so that places are filled up
    message = np.random.default_rng(1).uniform(size=(5, 7))
    message[:, 3] = 0
    pair = sparse_steps(torch.tensor(tables))
    assert pair is not None
    onward, back = pair
    assert onward.degree == back.degree == 3
    check_products(onward, tables, message)
    check_products(back, tables.swapaxes(-1, -2), message)
    with pytest.raises(AssertionError):
        check_products(onward, tables.swapaxes(-1, -2), message)


def test_transitions_that_are_mostly_possible_are_left_to_a_matrix() -> None:
    assert sparse_steps(torch.ones(5, 5)) is None
    one_way = torch.eye(6)
    one_way[:, 0] = 1  # few ways out of each state, but all of them lead into one
    assert sparse_steps(one_way) is None
    assert sparse_steps(torch.eye(2)) is not None


@pytest.mark.parametrize("tokens", [2, 12, 60])
def test_the_next_bracket_is_as_likely_as_counting_ballots_says(tokens: int) -> None:
    # Of depth d with r tokens left, ballots(r - 1, d + 1) strings open next, of ballots(r, d).
    target = from_spec(f"brackets:{tokens}")
    rng = np.random.default_rng(2)
    x, expected = np.zeros((40, tokens), dtype=np.int64), np.zeros((40, tokens))
    for row in range(40):
        depth = 0
        for i in range(tokens):
            ways = ballots(tokens - i, depth)
            opens = Fraction(ballots(tokens - i - 1, depth + 1), ways)
            expected[row, i] = float(opens)
            x[row, i] = int(rng.uniform() >= opens)
            depth += 1 - 2 * int(x[row, i])
        assert depth == 0
    law = target.marginals(torch.tensor(x), torch.zeros(40, tokens), causal=True)
    assert law.mean()[..., 0].numpy() == pytest.approx(expected, abs=1e-10)
    found = target.log_prob(torch.tensor(x)).numpy()
    assert found == pytest.approx(-math.log(ballots(tokens, 0)))
    # Both sides of a gap in the middle: depths before and after say how many strings fill it.
    if tokens == 12:
        blank = torch.zeros(40, tokens)
        blank[:, 5:7] = 1
        two = target.marginals(torch.tensor(x), blank).mean()[:, 5, 0].numpy()
        before, after = (1 - 2 * x[:, :5]).sum(1), -(1 - 2 * x[:, 7:]).sum(1)
        rise = after - before  # 2: both open, -2: both close, 0: either, unless nothing is open
        either = np.where(before == 0, 1.0, 0.5)
        floor = (np.cumsum(1 - 2 * x[:, 7:], 1) + after[:, None]).min(1)
        assert (floor >= 0).all()
        assert two == pytest.approx(np.where(rise == 2, 1, np.where(rise == -2, 0, either)))


def test_a_state_of_vanishing_mass_comes_back_with_its_evidence() -> None:
    # Two states that never meet; one explains a token 1e-9 as well, for 60 tokens, until the last
    # token rules the other one out. Probabilities of 1e-540 are 0 in float64, logarithms are not.
    a = torch.full((4,), 0.25, dtype=torch.float64)
    A = torch.eye(4, dtype=torch.float64)
    B = torch.tensor([[1e-9, 1 - 1e-9, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    last = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    chain = HiddenMarkov(a, A, torch.stack([B] * 60 + [last]), tokens=61)
    x = torch.zeros(1, 61, dtype=torch.int64)
    x[0, 60] = 2
    assert chain.log_prob(x).item() == pytest.approx(math.log(0.25) + 60 * math.log(1e-9))
    levels = torch.zeros(1, 61)
    levels[0, 0] = 1
    law = chain.marginals(x, levels).select([0]).mean()[0, 0]
    assert law.tolist() == pytest.approx([1e-9, 1 - 1e-9, 0])


ONES = torch.ones(1, dtype=torch.float64)
HALF = torch.full((2,), 0.5, dtype=torch.float64)
FAIR = torch.full((2, 2), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([torch.tensor([0, 1])], r"conditionals\[0\] must hold floating-point .* torch.int64"),
        ([HALF, FAIR.to(torch.complex128)], r"conditionals\[1\] must be real numbers"),
        ([HALF, FAIR.float()], r"conditionals\[1\] .* type and device of conditionals\[0\]"),
        ([torch.ones(0)], "the law of the first token"),
        ([], "the law of the first token"),
        ([HALF, FAIR * torch.tensor([1, math.nan])], "finite and not negative"),
    ],
)
def test_conditionals_that_are_no_laws_are_refused(tables: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MarkovChain(tables, tokens=3)


@pytest.mark.parametrize(
    ("initial", "transition", "emission", "message"),
    [
        (torch.tensor([1, 0]), FAIR, FAIR, "initial must hold floating-point .* torch.int64"),
        (HALF, torch.eye(2, dtype=torch.int64), FAIR, "transition must hold floating-point"),
        (HALF, FAIR, FAIR.float(), "emission must have the type and device of initial"),
        (HALF, FAIR, HALF, r"emission must have shape .*, got \(2,\)"),
        (HALF, FAIR, torch.zeros(2, 0).double(), r"vocabulary of at least 1, got \(2, 0\)"),
        (HALF, FAIR, FAIR[None, None], r"emission must have shape .*, got \(1, 1, 2, 2\)"),
        (HALF, FAIR.to(torch.complex128), FAIR, "transition must be real numbers"),
        (ONES[:0], FAIR, FAIR, r"initial must have shape \(states,\)"),
    ],
)
def test_hidden_markov_models_that_are_no_laws_are_refused(
    initial: Any, transition: Any, emission: Any, message: str
) -> None:
    for build in (HiddenMarkov, HiddenMarkov.from_potentials):
        with pytest.raises(InputError, match=message):
            build(initial, transition, emission, tokens=3)


@pytest.mark.parametrize("tokens", [0, -1, 2.5, True])
def test_numbers_of_tokens_that_cannot_be_are_refused(tokens: Any) -> None:
    with pytest.raises(InputError, match=f"tokens must be a whole number .*, got {tokens}"):
        MarkovChain([HALF, FAIR], tokens=tokens)
    with pytest.raises(InputError, match=f"tokens must be a whole number .*, got {tokens}"):
        HiddenMarkov(HALF, FAIR, FAIR, tokens=tokens)


def test_parameters_that_have_a_gradient_are_read_as_numbers() -> None:
    x = torch.tensor([[0, 1, 1]])
    half, fair = HALF.clone().requires_grad_(), FAIR.clone().requires_grad_()
    for chain in (
        MarkovChain([half, fair], tokens=3),
        HiddenMarkov(half, fair, fair, tokens=3),
        HiddenMarkov.from_potentials(half, fair, fair, tokens=3),
    ):
        assert chain.log_prob(x).item() == pytest.approx(-3 * math.log(2))
        assert not chain.marginals(x, torch.ones(1, 3)).mean().requires_grad
        assert len(chain.fingerprint) == 64
