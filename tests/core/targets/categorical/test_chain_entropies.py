"""Mean conditional entropies of chains: brute force over all sets of tokens, and the chain rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from reference.information import Array, information_curve, of_table, remembered
from scipy.special import entr

from capcheck.targets import MarkovChain

CYCLE: Array = np.eye(3)[[1, 2, 0]]  # 0, 1, 2, 0, ..: a law of period 3, whose powers do not settle
RING: Array = np.array([[0.7, 0.3, 0], [0, 0.6, 0.4], [1, 0, 0]])


def laws(seed: int, *shape: int) -> Array:
    """Random probabilities along the last axis."""
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def stationary(A: Array) -> Array:
    """The law p with p A = p, by its linear equations."""
    V = len(A)
    equations = np.vstack([A.T - np.eye(V), np.ones(V)])
    p: Array = np.linalg.lstsq(equations, np.eye(V + 1)[V], rcond=None)[0]
    return p


def tables_of(name: str, N: int) -> list[Array]:
    """The conditionals of a chain of N tokens over 3 symbols."""
    A = laws(1, 3, 3)
    return {
        "stationary": [stationary(A), A],
        "not stationary": [laws(2, 3), A],
        "impossible transitions": [np.array([0.5, 0.5, 0]), RING],
        "a cycle": [laws(3, 3), CYCLE],
        "one symbol throughout": [laws(3, 3), np.eye(3)],
        "one table per token": [laws(4, 3), *laws(5, 4, 3, 3), RING, CYCLE][:N],
        "order 0": [laws(6, 3)],
        "order 0, one table per token": [*laws(7, N, 3)],
    }[name]


def chain(tables: Sequence[Array], tokens: int) -> MarkovChain:
    return MarkovChain([torch.tensor(table) for table in tables], tokens=tokens)


def joint(tables: Sequence[Array], tokens: int) -> Array:
    """The table p(x_1, .., x_N), (V,) * N: each conditional is read along the last two axes."""
    p: Array = tables[0]
    for i in range(1, tokens):
        p = p[..., None] * tables[min(i, len(tables) - 1)]
    return p


def check_curve(target: MarkovChain, p: Array) -> None:
    """The closed form is the mean over all sets, to 1e-10 nats."""
    found = target.mean_conditional_entropies()
    assert found is not None
    expected = information_curve(remembered(of_table(p)), p.ndim)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    "name",
    [
        "stationary",
        "not stationary",
        "impossible transitions",
        "a cycle",
        "one symbol throughout",
        "one table per token",
        "order 0",
        "order 0, one table per token",
    ],
)
def test_a_chain_tells_what_all_sets_of_tokens_tell(name: str, tokens: int) -> None:
    tables = tables_of(name, tokens)
    check_curve(chain(tables, tokens), joint(tables, tokens))


def test_ten_tokens_have_long_gaps_too() -> None:
    tables = [laws(8, 2), laws(9, 2, 2)]
    check_curve(chain(tables, 10), joint(tables, 10))


@pytest.mark.parametrize("other", ["stationary", "impossible transitions", "order 0"])
def test_the_curve_of_another_chain_is_noticed(other: str) -> None:
    with pytest.raises(AssertionError):
        check_curve(chain(tables_of("not stationary", 4), 4), joint(tables_of(other, 4), 4))


def test_one_noisy_copy_is_known_in_closed_form() -> None:
    # Two tokens, the second a copy that is wrong with probability 1/4: h(0) = ln 2, and
    # h(1) = -(1/4) ln(1/4) - (3/4) ln(3/4) = ln 4 - (3/4) ln 3 from either side.
    tables = [np.array([0.5, 0.5]), np.array([[0.75, 0.25], [0.25, 0.75]])]
    found = chain(tables, 2).mean_conditional_entropies()
    assert found is not None
    expected = [math.log(2), math.log(4) - 0.75 * math.log(3)]
    assert found.tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("tokens", "tables"),
    [
        (64, [laws(10, 27), laws(11, 27, 27)]),
        (64, [laws(12, 3), *laws(13, 63, 3, 3)]),
        (1024, [laws(14, 4), laws(15, 4, 4)]),
        (1024, [np.array([1.0, 0, 0]), RING]),
        (1024, [laws(16, 3), CYCLE]),
    ],
    ids=["27 symbols", "one table per token", "1024 tokens", "impossible", "cycle"],
)
def test_the_sum_of_a_curve_is_the_entropy_by_the_chain_rule(
    tokens: int, tables: list[Array]
) -> None:
    p, entropy = tables[0], float(entr(tables[0]).sum())
    for i in range(1, tokens):
        table = tables[min(i, len(tables) - 1)]
        entropy += float(p @ entr(table).sum(1))  # H(X_i | X_{i-1})
        p = p @ table
    found = chain(tables, tokens).mean_conditional_entropies()
    assert found is not None
    assert float(found.sum()) == pytest.approx(entropy, abs=1e-9)
    assert (np.diff(found.numpy()) <= 1e-12).all()  # to know more tokens never adds entropy


@pytest.mark.parametrize("tokens", [3, 8])
def test_a_chain_of_order_2_has_no_closed_form(tokens: int) -> None:
    target = chain([laws(17, 2), laws(18, 2, 2), laws(19, 2, 2, 2)], tokens)
    assert target.mean_conditional_entropies() is None
