from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from reference.ngrams import KneserNey

from capcheck.core.errors import InputError
from capcheck.targets.from_data import gram_counts
from capcheck.targets.from_data.ngrams import USUAL_DISCOUNTS, discounts, fit_ngrams

Ids = NDArray[np.int64]


def rows(n: int, N: int, V: int, seed: int = 0) -> Ids:
    """Rows whose tokens depend on the last two, and whose symbols differ in frequency."""
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.full(V, 0.3), size=(V, V))
    x = rng.integers(0, V, size=(n, N))
    for i in range(2, N):
        x[:, i] = [rng.choice(V, p=law[a, b]) for a, b in x[:, i - 2 : i]]
    return x


def by_paper(train: Ids, test: Ids, order: int, V: int) -> NDArray[np.float64]:
    """Log-probabilities of one order by the paper's formulas, (n, N)."""
    model = KneserNey(train.tolist(), V)
    return np.array(
        [
            [
                math.log(model.probability(tuple(row[max(0, i - order) : i]), row[i]))
                for i in range(len(row))
            ]
            for row in test.tolist()
        ]
    )


@pytest.mark.parametrize(("n", "V"), [(40, 3), (300, 5), (60, 12)])
def test_every_order_is_the_papers(n: int, V: int) -> None:
    train, test = rows(n, 7, V), rows(8, 7, V, seed=1)
    test[0] = (V - 1, 0) * 3 + (V - 1,)
    found = list(fit_ngrams(train, 3, vocabulary=V).log_probs(test))
    for order in range(4):
        np.testing.assert_allclose(found[order], by_paper(train, test, order, V), rtol=1e-12)
    changed = train.copy()
    changed[0, 3] = (changed[0, 3] + 1) % V
    other = list(fit_ngrams(changed, 3, vocabulary=V).log_probs(test))
    assert not np.allclose(found[3], other[3], rtol=1e-6)


@pytest.mark.parametrize(("bits", "block"), [(63, 10), (7, 1 << 22), (3, 33), (1, 50)])
def test_keys_and_blocks_of_any_size_count_the_same(
    bits: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = rows(50, 9, 4), rows(20, 9, 4, seed=1)
    whole = list(fit_ngrams(train, 5, vocabulary=4).log_probs(test))
    monkeypatch.setattr(gram_counts, "BITS", bits)
    monkeypatch.setattr(gram_counts, "BLOCK", block)
    parts = list(fit_ngrams(train, 5, vocabulary=4).log_probs(test))
    np.testing.assert_array_equal(parts, whole)


def test_a_row_longer_than_a_block_is_counted_across_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, test = rows(3, 100, 3), rows(5, 12, 3, seed=1)
    whole = list(fit_ngrams(train, 4, vocabulary=3).log_probs(test))
    monkeypatch.setattr(gram_counts, "BLOCK", 17)
    parts = list(fit_ngrams(train, 4, vocabulary=3).log_probs(test))
    np.testing.assert_array_equal(parts, whole)


def test_a_large_vocabulary_and_a_high_order_need_more_than_63_bits() -> None:
    small = rows(40, 12, 4)
    wide = small * 250_000 + 7  # 1,000,000^8 is far above 2^63
    assert gram_counts.packed(9, 1_000_000) == 3
    found = fit_ngrams(wide, 8, vocabulary=1_000_000)
    narrow = fit_ngrams(small, 8, vocabulary=4)
    for a, b in zip(found.grams, narrow.grams, strict=True):
        np.testing.assert_array_equal(a.counts, b.counts)
    wide_rows = rows(5, 12, 4, seed=1) * 250_000 + 7
    expected = by_paper(wide[:10], wide_rows[:1, :4], 3, 1_000_000)
    model = fit_ngrams(wide[:10], 8, vocabulary=1_000_000)
    assert list(model.log_probs(wide_rows[:1, :4]))[-1] == pytest.approx(expected, rel=1e-12)


def test_probabilities_of_all_tokens_sum_to_one() -> None:
    V, model = 6, fit_ngrams(rows(200, 8, 6), 4, vocabulary=6)
    test = np.repeat(rows(10, 8, V, seed=2), V, axis=0)
    test[:, -1] = np.tile(np.arange(V), 10)
    for of_order in model.log_probs(test):
        total = np.exp(of_order[:, -1]).reshape(10, V).sum(1)
        assert total == pytest.approx(np.ones(10))


def test_unseen_symbols_have_a_probability() -> None:
    model = fit_ngrams(np.zeros((5, 4), dtype=np.int64), 2, vocabulary=3)
    assert model.order == 2
    for of_order in model.log_probs(np.array([[1, 0, 2, 2]])):
        assert np.isfinite(of_order).all()


def test_discounts_are_those_of_counts_of_counts() -> None:
    counts = np.array([1] * 10 + [2] * 4 + [3] * 2 + [4] + [9])
    Y = 10 / 18  # n_1 / (n_1 + 2 n_2)
    expected = (1 - 2 * Y * 4 / 10, 2 - 3 * Y * 2 / 4, 3 - 4 * Y * 1 / 2)
    assert discounts(counts) == pytest.approx(expected)
    assert discounts(np.array([1, 2, 3])) == USUAL_DISCOUNTS  # n_4 = 0
    few_twos = np.array([1] * 4 + [2] + [3] * 4 + [4])  # D(2) = 2 - 3 (4 / 6) 4 / 1 < 0
    assert discounts(few_twos) == USUAL_DISCOUNTS


@pytest.mark.parametrize(
    ("ids", "order", "message"),
    [
        (np.zeros((2, 3)), 1, "must be integers of shape"),
        (np.zeros((2, 0), dtype=np.int64), 0, "must be integers of shape"),
        (np.full((2, 3), 4), 1, "from 0 to 3, got 4 to 4"),
        (np.full((2, 3), -1), 1, "from 0 to 3, got -1 to -1"),
        (np.zeros((2, 3), dtype=np.int64), 3, "must be below the 3 tokens of a row, got 3"),
        (np.zeros((2, 3), dtype=np.int64), -1, "order of an n-gram model"),
    ],
)
def test_impossible_rows_and_orders_are_refused(
    ids: NDArray[np.generic], order: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_ngrams(ids, order, vocabulary=4)


def test_more_grams_than_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram_counts, "MOST_GRAMS", 50)
    monkeypatch.setattr(gram_counts, "BLOCK", 40)
    with pytest.raises(InputError, match=r"at most 50 different n-grams, got .*; choose a lower"):
        fit_ngrams(rows(30, 8, 9), 3, vocabulary=9)
    monkeypatch.setattr(gram_counts, "BITS", 5)
    with pytest.raises(InputError, match="at most 50 different n-grams"):
        fit_ngrams(rows(30, 8, 9), 3, vocabulary=9)
