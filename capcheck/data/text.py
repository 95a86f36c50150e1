"""Text: documents of characters, bytes or words, cut into windows of symbols.

A window is `tokens` consecutive symbols of one document, as token ids: ids[w, t] is the rank of
symbol number w x tokens + t in the sorted vocabulary. If a document ends within a window, the rest
of the window is filled with the end symbol, which is a token like any other.

A word is a run of letters, digits and underscores of any script, or any other single character that
is no white space; upper and lower case differ. The `MOST_WORDS` most frequent ones are symbols, and
all others are one.
"""

from __future__ import annotations

import collections
import difflib
import itertools
import os
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, AnyStr, Literal

import numpy as np

from capcheck.core.errors import InputError

__all__ = [
    "END",
    "MOST_SYMBOLS",
    "MOST_WORDS",
    "OTHER",
    "PART",
    "WORD",
    "Split",
    "Windows",
    "existing_file",
    "read_bytes",
    "read_documents",
    "utf8",
    "windows",
    "words_of",
]

Split = Literal["file", "lines"]
MOST_SYMBOLS = 1 << 27  # most symbols of all windows together: a GiB
PART = 1 << 22  # symbols of a document that are numbered at once
END = "␃"
WORD = re.compile(r"\w+|[^\w\s]")
MOST_WORDS = 50_000  # different words that are symbols of their own
OTHER = "<unk>"  # which `WORD` never matches: the symbol of all other words


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Documents cut into windows of one length.

    Attributes:
        ids: Token ids, (n, tokens) int64; each of 0..len(vocabulary)-1 occurs at least once.
        vocabulary: Printable label of each id, sorted by symbol; the end symbol is last.
        padded: Whether the end symbol occurs, and with it the last label.
    """

    ids: np.ndarray
    vocabulary: tuple[str, ...]
    padded: bool


def read_documents(path: Path, *, split: Split) -> list[str]:
    r"""Read UTF-8 text without its byte order mark, with line ends unchanged.

    Args:
        path: The file.
        split: `file` makes the file one document; `lines` makes each line that holds more than
            whitespace a document, without its line end (`\n`, `\r\n` or `\r`).

    Returns:
        At least one document, none of them blank.

    Raises:
        InputError: The file does not exist, is not UTF-8, or holds only whitespace.
    """
    text = utf8(path, cure="save it as UTF-8, or read it as bytes")
    return _not_blank([text] if split == "file" else re.split("\r\n?|\n", text), path)


def read_bytes(path: Path, *, split: Split) -> list[bytes]:
    """Read a file as bytes, including a byte order mark; otherwise like `read_documents`."""
    raw = _content(path)
    return _not_blank([raw] if split == "file" else raw.splitlines(), path)


def words_of(documents: Sequence[str]) -> tuple[list[list[str]], float]:
    """The words of documents, of which the rare ones are replaced by `OTHER`.

    Args:
        documents: Texts with at least one word.

    Returns:
        The words of each document, and the share of all words that were replaced.
    """
    known: dict[str, str] = {}  # each different word is held once
    words = [[known.setdefault(word, word) for word in _words(text)] for text in documents]
    counts = collections.Counter(itertools.chain.from_iterable(words))
    if len(counts) <= MOST_WORDS:
        return words, 0.0
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    rare = set(ranked[MOST_WORDS:])
    kept = [[OTHER if word in rare else word for word in document] for document in words]
    return kept, sum(counts[word] for word in rare) / counts.total()


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in WORD.finditer(text))


def windows(documents: Sequence[Sequence[Hashable] | str | bytes], tokens: int) -> Windows:
    """Cut documents into consecutive windows of `tokens` symbols.

    Args:
        documents: Strings of characters, or bytes, or sequences of any other symbols. An empty
            document gives no window.
        tokens: Length of a window, in symbols.

    Raises:
        InputError: `tokens` is below 1 or needs more than `MOST_SYMBOLS` symbols, there is no
            symbol, or only some documents are bytes.
    """
    if tokens < 1:
        raise InputError(f"tokens must be at least 1, got {tokens}; give a window's length.")
    of_bytes = {isinstance(document, bytes) for document in documents}
    strings = all(isinstance(document, str) for document in documents)
    written = strings or of_bytes == {True}
    symbols = _written(documents) if written else _sorted(set[Any]().union(*documents))
    if not symbols or len(of_bytes) > 1:
        got = "bytes and others" if symbols else f"{len(documents)} without any"
        raise InputError(f"documents must hold symbols of one kind, got {got}; give text or bytes.")
    counts = [-(-len(document) // tokens) for document in documents]  # of windows
    numbers = tokens * sum(counts)
    if numbers > MOST_SYMBOLS:
        longest = max(map(len, documents))
        raise InputError(
            f"tokens must leave at most {MOST_SYMBOLS} symbols with their padding, got {tokens}, "
            f"which makes {numbers}; the longest document has {longest}."
        )
    ids = np.full(numbers, len(symbols), dtype=np.int64)
    rank = _ranks(symbols) if written else {symbol: i for i, symbol in enumerate(symbols)}
    place = 0
    for document, count in zip(documents, counts, strict=True):
        _write(document, rank, ids[place : place + len(document)])
        place += count * tokens
    padded = any(len(document) % tokens for document in documents)
    return Windows(
        ids=ids.reshape(-1, tokens),
        vocabulary=(*_labels(symbols, of_bytes={True} == of_bytes), *([END] if padded else [])),
        padded=padded,
    )


def _written(documents: Sequence[Any]) -> list[Any]:
    """The characters of strings, or the bytes of bytes, in rising order, once each."""
    seen = np.zeros(sys.maxunicode + 1, dtype=bool)
    for document in documents:
        for _, codes in _codes(document):
            seen[codes] = True
    found = np.flatnonzero(seen).tolist()
    return [chr(code) for code in found] if documents and isinstance(documents[0], str) else found


def _ranks(symbols: list[Any]) -> np.ndarray:
    """The rank of each character or byte among the symbols, by its code."""
    codes = [ord(symbol) if isinstance(symbol, str) else symbol for symbol in symbols]
    rank = np.zeros(codes[-1] + 1, dtype=np.int64)
    rank[codes] = np.arange(len(codes))
    return rank


def _write(document: Any, rank: np.ndarray | dict[Any, int], ids: np.ndarray) -> None:
    """Write the rank of each symbol of a document."""
    if isinstance(rank, dict):
        ids[:] = np.fromiter(map(rank.__getitem__, document), np.int64, len(document))
        return
    for start, of_part in _codes(document):
        ids[start : start + len(of_part)] = rank[of_part]


def _codes(document: str | bytes) -> Iterator[tuple[int, np.ndarray]]:
    """The code points of a string, or the bytes of bytes, in parts with the place of each."""
    for start in range(0, len(document), PART):
        part = document[start : start + PART]
        if isinstance(part, str):
            wide = part.encode("utf-32-le", "surrogatepass")
            yield start, np.frombuffer(wide, dtype="<u4")
        else:
            yield start, np.frombuffer(part, dtype=np.uint8)


def existing_file(data: str) -> Path:
    """The path of an existing non-empty file.

    Raises:
        InputError: There is no such file, it is empty or no file, or it cannot be opened.
    """
    path = Path(data)
    try:
        if path.is_file() and path.stat().st_size:
            return path
        if path.is_file():
            problem = "is an empty file; save the data to it."
        elif path.is_dir() and data:
            problem = "is a folder; name a file in it."
        elif path.is_symlink() and not path.exists():
            problem = f"is a link to {os.readlink(path)!r}, which does not exist; mend the link."
        elif path.exists() and data:
            problem = "is neither a file nor a folder; save what it gives to a file."
        else:
            problem = f"does not exist; {_near(path)}"
    except OSError as error:
        problem = f"cannot be opened ({error.strerror}); check the path."
    raise InputError(f"data {data!r} {problem}")


def utf8(path: Path, *, cure: str) -> str:
    """The UTF-8 text of a file without its byte order mark.

    Raises:
        InputError: The file cannot be read or is not UTF-8; `cure` ends the message.
    """
    raw = _content(path)
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"data {str(path)!r} must be UTF-8 text, got the invalid byte "
            f"0x{raw[error.start]:02x} at byte {error.start} (counted from 0); {cure}."
        ) from None


def _content(path: Path) -> bytes:
    try:
        return existing_file(str(path)).read_bytes()
    except OSError as error:
        raise InputError(
            f"data {str(path)!r} cannot be opened ({error.strerror}); check its permissions."
        ) from None


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}."
    match = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f"did you mean {str(path.with_name(match[0]))!r}?" if match else "check the path."


def _not_blank(documents: Iterable[AnyStr], path: Path) -> list[AnyStr]:
    kept = [document for document in documents if document.strip()]
    if not kept:
        raise InputError(f"data {str(path)!r} must hold text, got only whitespace; write some.")
    return kept


def _sorted(symbols: set[Any]) -> list[Any]:
    try:
        return sorted(symbols)
    except TypeError:  # symbols of several types have no common order
        return sorted(symbols, key=lambda symbol: (type(symbol).__name__, repr(symbol)))


def _labels(symbols: list[Any], *, of_bytes: bool) -> list[str]:
    if of_bytes:
        return [chr(byte) if 0x20 <= byte < 0x7F else f"0x{byte:02x}" for byte in symbols]
    labels = [_printable(str(symbol)) for symbol in symbols]
    return labels if len(set(labels)) == len(labels) else [repr(symbol) for symbol in symbols]


def _printable(text: str) -> str:
    """The text, escaped if it is not printable or equals the label of the end symbol."""
    shows = text.isprintable() and text != END
    return text if shows else text.encode("unicode_escape").decode()
