from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from reference import corpora as reference

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.targets import from_spec
from capcheck.targets.corpora import ALPHABET, conditionals, pair_law, string_frequencies

FEW = {"a": 5.0, "an": 3.0, "ban": 2.0, "b": 1.0, "nab": 4.0}


def test_strings_are_counted_as_in_an_endless_text_of_independent_words() -> None:
    found = string_frequencies(list(FEW), np.array(list(FEW.values())), 4)
    mean = sum(count * (len(word) + 1) for word, count in FEW.items()) / 15
    for length, frequencies in enumerate(found, 1):
        assert frequencies.shape == (27,) * length
        assert frequencies.sum() == pytest.approx(mean)
        seen = 0.0
        for text in itertools.product(" abn", repeat=length):
            place = tuple(ALPHABET.index(character) for character in text)
            expected = reference.string_probability(FEW, "".join(text))
            assert frequencies[place] / mean == pytest.approx(expected, abs=1e-15), text
            seen += expected
        assert seen == pytest.approx(1)
    shorter = string_frequencies([*FEW, "bb"], np.array([*FEW.values(), 1.0]), 4)
    assert not np.allclose(shorter[3], found[3])


def test_the_frequencies_are_those_of_a_stationary_text() -> None:
    found = string_frequencies(list(FEW), np.array(list(FEW.values())), 3)
    for shorter, longer in itertools.pairwise(found):
        assert longer.sum(0) == pytest.approx(shorter)
        assert longer.sum(-1) == pytest.approx(shorter)


def test_conditionals_multiply_to_the_frequencies_and_back_off_where_nothing_occurs() -> None:
    found = string_frequencies(list(FEW), np.array(list(FEW.values())), 3)
    first, second, third = conditionals(found)
    joint = first[:, None, None] * second[:, :, None] * third
    assert joint == pytest.approx(found[2] / found[2].sum())
    c = ALPHABET.index("c")  # which occurs nowhere
    assert (second[c] == first).all()
    assert (third[c, c] == first).all()
    for table in (first, second, third):
        assert table.sum(-1) == pytest.approx(np.ones(table.shape[:-1]))


def test_pairs_that_are_not_listed_share_what_the_listed_ones_leave() -> None:
    counts = np.array([6.0, 3, 1])
    pairs = np.array([[0, 3, 0], [1, 1, 0], [0, 2, 2]])
    single, after = pair_law(counts, pairs)
    assert single.tolist() == [0.6, 0.3, 0.1]
    assert after[0].tolist() == pytest.approx([0.5 * 0.6, 0.5 + 0.5 * 0.3, 0.5 * 0.1])
    assert after[1].tolist() == pytest.approx([1 / 3 + 0.2, 1 / 3 + 0.1, 1 / 30])
    assert after[2].tolist() == [0, 0.5, 0.5]  # more pairs than words: nothing is left


@pytest.mark.parametrize("order", [0, 1, 2])
def test_letters_are_a_chain_of_all_words(order: int) -> None:
    pytest.importorskip("wordsegment", reason="wordsegment is not installed")
    target = from_spec(f"letters:tokens=5,order={order}")
    assert target.provenance.vocabulary == tuple(ALPHABET)
    mean = target.spec.mean
    assert mean[4].numpy() == pytest.approx(mean[0].numpy())  # stationary
    single, _ = reference.counted()
    total = sum(single.values())
    length = sum(count / total * (len(word) + 1) for word, count in single.items())
    assert float(mean[0, 0]) == pytest.approx(1 / length)
    text = torch.tensor([[ALPHABET.index(c) for c in "the t"]])
    if order == 0:
        assert float(target.log_prob(text)) == pytest.approx(
            sum(float(mean[0, i].log()) for i in text[0])
        )
    else:
        assert float(target.log_prob(text)) > float(from_spec("letters:5,0").log_prob(text))


def test_an_order_needs_as_many_tokens() -> None:
    pytest.importorskip("wordsegment", reason="wordsegment is not installed")
    with pytest.raises(InputError, match=r"letters\.order must be below the 2 tokens .*, got 2"):
        from_spec("letters:tokens=2,order=2")


def test_words_are_the_most_frequent_ones() -> None:
    pytest.importorskip("wordsegment", reason="wordsegment is not installed")
    target = from_spec("words:tokens=3,words=50")
    assert target.provenance.vocabulary == tuple(reference.frequent(50))
    assert target.spec.dim == 50


@pytest.mark.parametrize(
    ("matrix", "version", "pseudocount"), [(139, 1, 0.5), (4, 1, 0.0), (106, 3, 2.0)]
)
def test_log_probabilities_of_binding_sites_are_biopythons(
    matrix: int, version: int, pseudocount: float
) -> None:
    law = reference.binding_site(f"MA{matrix:04d}.{version}", pseudocount)
    target = from_spec(f"dna:matrix={matrix},version={version},pseudocount={pseudocount}")
    assert target.spec.tokens == len(law)
    sites = np.random.default_rng(0).integers(0, 4, size=(50, len(law)))
    with np.errstate(divide="ignore"):
        expected = np.log(law[np.arange(len(law)), sites]).sum(1)
    found = target.log_prob(torch.from_numpy(sites)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    other = reference.binding_site(f"MA{matrix:04d}.{version}", pseudocount + 1)
    assert not np.allclose(other, law, atol=1e-6)


def test_first_names_have_their_shares_and_nothing_else_is_one() -> None:
    pytest.importorskip("names", reason="names is not installed")
    shares = reference.first_names()
    target = from_spec("names:names=300")
    chosen = sorted(shares.values(), reverse=True)[:300]
    total = sum(chosen)
    assert chosen[299] > sorted(shares.values(), reverse=True)[300]
    N = target.spec.tokens

    def log_prob(*names: str) -> list[float]:
        ids = [[ALPHABET.index(letter) for letter in name.ljust(N)] for name in names]
        return [float(value) for value in target.log_prob(torch.tensor(ids))]

    likely = [name for name, share in shares.items() if share >= chosen[299]]
    assert max(map(len, likely)) == N
    expected = np.log([shares[name] / total for name in likely])
    np.testing.assert_allclose(log_prob(*likely), expected, rtol=0, atol=1e-12)
    assert log_prob("mari", "jamesx", "a") == [-np.inf] * 3
    x = target.sample(200, CounterRandomness(0)).tolist()
    assert {"".join(ALPHABET[i] for i in row).rstrip() for row in x} <= set(likely)


def test_an_unknown_matrix_is_refused() -> None:
    pytest.importorskip("pyjaspar", reason="pyjaspar is not installed")
    with pytest.raises(InputError, match=r"dna\.matrix must be a matrix of JASPAR\d+, got MA9999"):
        from_spec("dna:matrix=9999")


@pytest.mark.parametrize(
    ("spec", "extra"), [("letters", "text"), ("words", "text"), ("names", "text"), ("dna", "dna")]
)
def test_a_missing_package_is_told_with_its_extra(
    spec: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, *rest: Any) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(InputError, match=rf"not installed; run pip install 'capcheck\[{extra}\]'"):
        from_spec(spec)
