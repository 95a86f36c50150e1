"""Laws of words, names and binding sites, from the packages that ship the counts, by loops.

Words and matrices are read by the packages' own functions. A package that is not installed skips
the test.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reference import sequences
from reference.sequences import Sequences

Array = NDArray[np.float64]
Words = dict[str, float]

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


@cache
def counted() -> tuple[Words, Words]:
    """Counts of the words, and of pairs of words with a space in between."""
    wordsegment: Any = pytest.importorskip("wordsegment", reason="wordsegment is not installed")
    wordsegment.load()
    pairs: defaultdict[str, float] = defaultdict(float)
    with (Path(wordsegment.__file__).parent / "bigrams.txt").open(encoding="utf-8") as lines:
        for line in lines:
            pair, count = line.split("\t")
            pairs[pair] += float(count)  # some pairs are listed twice, and the package loses one
    return wordsegment.UNIGRAMS, dict(pairs)


def frequent(count: int) -> list[str]:
    """The most frequent words."""
    single, _ = counted()
    return sorted(single, key=lambda word: -single[word])[:count]


def string_probability(words: Words, text: str) -> float:
    """Probability of a string at a random place of a text of independent words and spaces.

    The text is a Markov chain whose state is a place in a word, the space after it included: its
    stationary law is the word's probability over the mean length, and all paths are summed.
    """
    total = sum(words.values())
    mean = sum(count / total * (len(word) + 1) for word, count in words.items())
    begun: dict[tuple[str, int], float] = {
        (word, i): count / total / mean
        for word, count in words.items()
        for i in range(len(word) + 1)
    }
    for step, character in enumerate(text):
        if step:
            moved: defaultdict[tuple[str, int], float] = defaultdict(float)
            for (word, i), mass in begun.items():
                if i < len(word):
                    moved[word, i + 1] += mass
                else:
                    for other, count in words.items():
                        moved[other, 0] += mass * count / total
            begun = moved
        begun = {(w, i): mass for (w, i), mass in begun.items() if (w + " ")[i] == character}
    return sum(begun.values())


@cache
def letter_pairs() -> Sequences:
    """Two characters of a text of independent words."""
    single, _ = counted()
    total = sum(single.values())
    weights: defaultdict[sequences.Symbols, float] = defaultdict(float)
    begins: defaultdict[str, float] = defaultdict(float)
    for word, count in single.items():
        begins[word[0]] += count / total
        for a, b in itertools.pairwise(word + " "):
            weights[ALPHABET.index(a), ALPHABET.index(b)] += count / total
    for letter, share in begins.items():
        weights[0, ALPHABET.index(letter)] += share
    return Sequences(dict(weights), 27)


@cache
def word_chain(words: int, tokens: int) -> Sequences:
    """The chain of the most frequent words, pair by pair."""
    single, pairs = counted()
    names = frequent(words)
    total = sum(single[name] for name in names)
    p = {name: single[name] / total for name in names}
    after = np.zeros((words, words))
    for i, u in enumerate(names):
        listed = sum(pairs.get(f"{u} {v}", 0) for v in names)
        whole = max(single[u], listed)
        for j, v in enumerate(names):
            after[i, j] = pairs.get(f"{u} {v}", 0) / whole + (1 - listed / whole) * p[v]
    return sequences.markov([np.array([p[name] for name in names]), after], tokens)


@cache
def first_names() -> Words:
    """The shares of first names in percent, those of both lists added."""
    names: Any = pytest.importorskip("names", reason="names is not installed")
    found: defaultdict[str, float] = defaultdict(float)
    for kind in ("first:male", "first:female"):
        for line in Path(names.FILES[kind]).read_text().splitlines():
            found[line[:15].strip().lower()] += float(line[15:20])
    return dict(found)


@cache
def likeliest_names(names: int) -> Sequences:
    """The most frequent first names, filled up with spaces."""
    shares = first_names()
    chosen = sorted(shares, key=lambda name: -shares[name])[:names]
    longest = max(len(name) for name in chosen)
    rows = {tuple(ALPHABET.index(c) for c in name.ljust(longest)): shares[name] for name in chosen}
    return Sequences(rows, 27)


@cache
def binding_site(matrix: str, pseudocount: float) -> Array:
    """Biopython's probabilities of A, C, G and T of every column of a JASPAR matrix, (N, 4)."""
    pyjaspar: Any = pytest.importorskip("pyjaspar", reason="pyjaspar is not installed")
    motif = pyjaspar.jaspardb(release="JASPAR2024").fetch_motif_by_id(matrix)
    law = motif.counts.normalize(pseudocounts=pseudocount)
    return np.array([law[letter] for letter in "ACGT"]).T
