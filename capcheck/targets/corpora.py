"""Built-in laws of text and DNA, from counts that ship with optional packages; no download.

`letters` and `words` are Markov chains from the word counts of `wordsegment` (extra `text`), which
are those of the Google Web Trillion Word Corpus (Brants & Franz 2006, in Norvig's selection).
`names` is the list of first names of the US census of 1990, which the package `names` ships (extra
`text`). `dna` is a binding site from the position frequency matrices of JASPAR, which `pyjaspar`
ships (extra `dna`). Files are read as text and by SQLite, read only; no package's code is run.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from capcheck.core.errors import InputError
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import Target

__all__ = [
    "ALPHABET",
    "BASES",
    "conditionals",
    "dna",
    "letters",
    "names",
    "pair_law",
    "string_frequencies",
    "words",
]

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
BASES = "ACGT"

Length = Annotated[int, Field(ge=2, le=65_536, description="tokens of a sequence")]


def letters(
    tokens: Length = 32,
    order: Annotated[int, Field(ge=0, le=3, description="characters that the next depends on")] = 2,
) -> Target:
    """Letters and spaces of English words in random order, as a Markov chain (capcheck[text])."""
    if order >= tokens:
        raise InputError(
            f"letters.order must be below the {tokens} tokens of a sequence, got {order}; choose a "
            "lower one."
        )
    names, counts = _counted_words()
    tables = conditionals(string_frequencies(names, counts, order + 1))
    chain = MarkovChain([torch.from_numpy(table) for table in tables], tokens=tokens)
    return chain.with_provenance(
        description=f"characters of English words, Markov chain of order {order}",
        vocabulary=tuple(ALPHABET),
    )


def words(
    tokens: Length = 16,
    words: Annotated[int, Field(ge=2, le=4000, description="most frequent words")] = 200,
) -> Target:
    """The most frequent English words, as a Markov chain of their pairs (capcheck[text])."""
    all_names, counts = _counted_words()
    names = all_names[:words]
    place = {name: i for i, name in enumerate(names)}
    pairs = np.zeros((words, words))
    fields = _text("bigrams.txt").split()
    for first, second, count in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        if first in place and second in place:
            pairs[place[first], place[second]] += float(count)  # some are listed twice
    single, after = pair_law(counts[:words], pairs)
    chain = MarkovChain([torch.from_numpy(single), torch.from_numpy(after)], tokens=tokens)
    return chain.with_provenance(
        description=f"pairs of the {words} most frequent English words, Markov chain of order 1",
        vocabulary=tuple(names),
    )


def names(
    names: Annotated[int, Field(ge=2, le=5000, description="most frequent first names")] = 1000,
) -> Target:
    """The most frequent first names, each by its letters and spaces to the end (capcheck[text])."""
    shares: dict[str, float] = {}
    folder = _package("names", "text")
    for part in ("dist.female.first", "dist.male.first"):  # name, percent, percent so far, rank
        fields = (folder / part).read_text(encoding="ascii").lower().split()
        for name, share in zip(fields[::4], fields[1::4], strict=True):
            shares[name] = shares.get(name, 0.0) + float(share)
    chosen = sorted(shares, key=lambda name: (-shares[name], name))[:names]
    tokens = max(map(len, chosen))
    rows = [[ALPHABET.index(letter) for letter in name.ljust(tokens)] for name in chosen]
    weights = np.array([shares[name] for name in chosen])
    one_hot = np.eye(len(ALPHABET))[rows]  # (names, tokens, 27)
    weights /= weights.sum()
    return CategoricalMixture.of_rows(
        torch.tensor(rows),
        vocabulary=len(ALPHABET),
        smoothing=0.0,
        marginals=torch.from_numpy(np.einsum("k,knv->nv", weights, one_hot)),
        weights=torch.from_numpy(weights),
        provenance=Provenance(
            description=f"the {len(chosen)} most frequent first names of the US census of 1990",
            vocabulary=tuple(ALPHABET),
        ),
    )


def dna(
    matrix: Annotated[int, Field(ge=1, le=9999, description="number of a JASPAR matrix")] = 139,
    version: Annotated[int, Field(ge=1, le=99, description="version of the matrix")] = 1,
    pseudocount: Annotated[
        float, Field(ge=0, le=1000, description="sites that are added to each base's count")
    ] = 0.5,
) -> Target:
    """A binding site of DNA with independent columns, from JASPAR's MA0139.1 (capcheck[dna])."""
    base = f"MA{matrix:04d}"
    releases = sorted((_package("pyjaspar", "dna") / "data").glob("JASPAR*.sqlite"))
    if not releases:
        raise InputError("target dna needs a release of JASPAR, got none; reinstall pyjaspar.")
    address = f"{releases[-1].resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as found:
        named = found.execute(
            "SELECT ID, NAME FROM MATRIX WHERE BASE_ID = ? AND VERSION = ?", (base, version)
        ).fetchone()
        if named is None:
            raise InputError(
                f"dna.matrix must be a matrix of {releases[-1].stem}, got {base}.{version}; see "
                "https://jaspar.elixir.no."
            )
        entries = found.execute(
            'SELECT "row", "col", "val" FROM MATRIX_DATA WHERE ID = ?', named[:1]
        ).fetchall()
    counts = np.zeros((max(column for _, column, _ in entries), len(BASES)))  # (N, 4)
    for base_letter, column, count in entries:
        counts[column - 1, BASES.index(base_letter)] = count
    laws = counts + pseudocount
    laws /= laws.sum(1, keepdims=True)
    return CategoricalMixture(
        torch.from_numpy(laws)[None],
        provenance=Provenance(
            description=f"binding site of {named[1]}, JASPAR {base}.{version}, independent columns",
            vocabulary=tuple(BASES),
        ),
    )


def string_frequencies(words: list[str], counts: np.ndarray, length: int) -> list[np.ndarray]:
    """Expected numbers of the strings of 1 to `length` characters that begin in a word.

    The text is words drawn independently, each followed by one space; the space counts as part of
    its word. A string s_1 ... s_k that spaces divide into a first part, whole words and a last part
    occurs P(a word ends with the first) x P(the words) x P(a word begins with the last) times a
    word, as words are independent; a part that is empty has the factor 1. A string without a space
    is counted within words.

    Args:
        words: Words of the letters a to z, each once.
        counts: Count of each word, (W,).
        length: Largest number of characters.

    Returns:
        For each k an array (27,) * k by the ranks of the characters in `ALPHABET`, whose sum is the
        mean length of a word with its space.
    """
    text = np.frombuffer((" ".join(words) + " ").encode("ascii"), dtype=np.uint8)
    letter = np.where(text == ord(" "), -1, text.astype(np.int64) - ord("a"))
    spaces = letter < 0
    word: np.ndarray = spaces.cumsum() - spaces  # of each character; its space belongs to it
    weight = (counts / counts.sum())[word]
    begins = np.concatenate([[True], spaces[:-1]])
    ends = np.concatenate([spaces[1:], [True]])
    kinds: tuple[list[np.ndarray], ...] = ([], [], [], [])
    key = np.zeros(len(text), dtype=np.int64)
    for k in range(1, length + 1):
        n = len(text) - k + 1
        key = key[:n] * 26 + letter[k - 1 :]
        within = (word[:n] == word[k - 1 :]) & ~spaces[k - 1 :] & ~spaces[:n]
        wholly = within & begins[:n] & ends[k - 1 :]
        for kind, where in zip(
            kinds, (within, within & begins[:n], within & ends[k - 1 :], wholly), strict=True
        ):
            found = np.bincount(key[where], weights=weight[:n][where], minlength=26**k)
            kind.append(found.reshape((26,) * k))
    inside, first, last, whole = kinds
    started = [np.ones(())]  # strings that begin where a word does
    for k in range(1, length):
        started.append(_with_spaces(first[k - 1], [np.zeros(()), *whole], started))
    return [
        _with_spaces(inside[k - 1], [np.ones(()), *last], started) for k in range(1, length + 1)
    ]


def _with_spaces(
    letters: np.ndarray, before: list[np.ndarray], after: list[np.ndarray]
) -> np.ndarray:
    """Frequencies of all strings of k characters: (27,) * k.

    Args:
        letters: Those without a space, (26,) * k.
        before: Frequencies of what stands before the first space, by its number of letters.
        after: Frequencies of what stands after it, by its number of characters.
    """
    k = letters.ndim
    found = np.zeros((27,) * k)
    found[(slice(1, None),) * k] = letters
    for a in range(k):
        found[(slice(1, None),) * a + (0,)] = np.multiply.outer(before[a], after[k - a - 1])
    return found


def conditionals(frequencies: list[np.ndarray]) -> list[np.ndarray]:
    """The laws of the next character given 0, 1, ... others, from frequencies of strings.

    A string that never occurs has the law that its last characters have; no text reaches it.
    """
    tables: list[np.ndarray] = []
    for counts in frequencies:
        total = counts.sum(-1, keepdims=True)
        shorter = tables[-1] if tables else np.zeros(counts.shape)
        tables.append(np.where(total > 0, counts / np.where(total > 0, total, 1), shorter))
    return tables


def pair_law(counts: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The law of a word, p(v) = c(v) / sum c, and of the next one with back-off to it.

    p(v | u) = (c(u v) + r(u) p(v)) / C(u): pairs that are not listed share what the listed ones
    leave, r(u) = C(u) - sum_v c(u v), where C(u) is c(u), or the sum if that is larger.

    Args:
        counts: c(v), (V,).
        pairs: c(u v), (V, V).
    """
    p = counts / counts.sum()
    listed = pairs.sum(1)
    total = np.maximum(counts, listed)
    return p, (pairs + (total - listed)[:, None] * p) / total[:, None]


def _counted_words() -> tuple[list[str], np.ndarray]:
    """The words of the letters a to z with their counts, the most frequent first."""
    fields = _text("unigrams.txt").split()
    names, counts = fields[::2], np.array(fields[1::2], dtype=np.float64)
    lettered = [name.isascii() and name.isalpha() and name.islower() for name in names]
    kept = np.flatnonzero(lettered)
    kept = kept[np.argsort(-counts[kept], kind="stable")]
    return [names[i] for i in kept], counts[kept]


def _text(name: str) -> str:
    """A file of `wordsegment`."""
    return (_package("wordsegment", "text") / name).read_text(encoding="utf-8")


def _package(name: str, extra: str) -> Path:
    """The folder of a package that holds data, without importing it.

    Raises:
        InputError: The package is not installed.
    """
    found = importlib.util.find_spec(name)
    folders = None if found is None else found.submodule_search_locations
    if not folders:
        raise InputError(
            f"this target reads data of {name}, which is not installed; run pip install "
            f"'capcheck[{extra}]'."
        )
    return Path(next(iter(folders)))
