"""Mean conditional entropies of listed laws: brute force over all sets of tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.information import Array, information_curve, of_table, remembered

from capcheck.targets import CategoricalMixture, from_spec, from_table
from capcheck.targets.categorical.subset_entropies import subset_entropies


def table(seed: int, shape: tuple[int, ...]) -> Array:
    """A random law, half of whose sequences are impossible."""
    rng = np.random.default_rng(seed)
    p = rng.random(shape) ** 2 * (rng.random(shape) < 0.5)
    p.flat[0] += 0.1  # not all of them are
    law: Array = p / p.sum()
    return law


def check_curve(found: Array, p: Array) -> None:
    """The curve is the mean over all sets, to 1e-10 nats."""
    expected = information_curve(remembered(of_table(p)), p.ndim)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("symbols", [2, 3])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6])
def test_a_list_tells_what_all_sets_of_its_tokens_tell(tokens: int, symbols: int) -> None:
    p = table(tokens, (symbols,) * tokens)
    x = np.argwhere(p > 0)
    check_curve(subset_entropies(x, p[p > 0]), p)
    turned = np.random.default_rng(0).permutation(len(x))
    check_curve(subset_entropies(x[turned], p[p > 0][turned]), p)


def test_tokens_may_differ_in_their_symbols() -> None:
    p = table(7, (2, 5, 1, 3))
    x = np.argwhere(p > 0)
    names = np.array([0, 2047, 7, 1, 30])  # ids need not be the first numbers
    check_curve(subset_entropies(names[x], p[p > 0]), p)


def test_sequences_of_probability_0_change_nothing() -> None:
    p = table(8, (3,) * 4)
    assert (p == 0).any()
    check_curve(subset_entropies(np.argwhere(p >= 0), p.ravel()), p)


def test_the_curve_of_another_law_is_noticed() -> None:
    p = table(9, (2,) * 4)
    with pytest.raises(AssertionError):
        check_curve(subset_entropies(np.argwhere(p > 0), p[p > 0][::-1]), p)


def test_a_table_lists_its_support_and_a_law_that_is_no_list_says_so() -> None:
    p = table(10, (3,) * 3)
    listed = from_table(torch.tensor(p)).support()
    assert listed is not None
    x, log_p = listed
    assert x.tolist() == np.argwhere(p > 0).tolist()
    assert log_p.exp().tolist() == pytest.approx(p[p > 0].tolist(), abs=1e-14)
    rows = torch.tensor([[0, 1], [1, 0], [1, 1]])
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    weighed = CategoricalMixture.of_rows(rows, weights=weights).support()
    assert weighed is not None
    assert weighed[0].tolist() == [[0, 1], [1, 1]]
    assert CategoricalMixture.of_rows(rows, smoothing=0.1).support() is None
    assert from_spec("parity:4").support() is None  # type: ignore[attr-defined]
