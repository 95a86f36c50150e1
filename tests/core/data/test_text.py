from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capcheck.core.errors import InputError
from capcheck.data import text
from capcheck.data.text import END, OTHER, read_bytes, read_documents, windows, words_of

HOSTILE = ['it\'s "quoted".txt', "line\nbreak.txt", "[red]x[bold].txt", "\x1b[31mred.txt"]


def write(folder: Path, content: bytes, name: str = "notes.txt") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_is_a_document(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, "Grüße\r\n\n ␃".encode(), name)
    assert read_documents(path, split="file") == ["Grüße\r\n\n ␃"]
    assert read_bytes(path, split="file") == ["Grüße\r\n\n ␃".encode()]


def test_a_line_that_is_not_blank_is_a_document(tmp_path: Path) -> None:
    path = write(tmp_path, "a b\r\n \t\nc\x0bd\u2028e\rf\n\n".encode())
    assert read_documents(path, split="lines") == ["a b", "c\x0bd\u2028e", "f"]
    assert read_bytes(path, split="lines") == [b"a b", "c\x0bd\u2028e".encode(), b"f"]


def test_a_byte_order_mark_is_no_character_but_three_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfab")
    assert read_documents(path, split="file") == ["ab"]
    assert read_bytes(path, split="file") == [b"\xef\xbb\xbfab"]
    with pytest.raises(InputError, match="only whitespace"):
        read_documents(write(tmp_path, b"\xef\xbb\xbf"), split="file")


@pytest.mark.parametrize("split", ["file", "lines"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file; save the data to it"),
        (b" \n\t\r\n", "must hold text, got only whitespace"),
        (b"abc\xffde", r"invalid byte 0xff at byte 3 \(counted from 0\); .* or read it as bytes"),
        (b"\xef\xbb\xbfab\xc3", "invalid byte 0xc3 at byte 5"),
        ("ab".encode("utf-16"), "invalid byte 0xff at byte 0"),
    ],
)
def test_files_that_are_no_text_are_refused(
    tmp_path: Path, split: Literal["file", "lines"], content: bytes, message: str
) -> None:
    for name in HOSTILE:
        path = write(tmp_path, content, name)
        with pytest.raises(InputError, match=message) as caught:
            read_documents(path, split=split)
        assert str(caught.value).startswith(f"data {str(path)!r} ")
        assert str(caught.value).isprintable()


def test_bytes_are_refused_only_if_blank(tmp_path: Path) -> None:
    assert read_bytes(write(tmp_path, b"\xff"), split="lines") == [b"\xff"]
    with pytest.raises(InputError, match="only whitespace"):
        read_bytes(write(tmp_path, b" \n"), split="file")
    with pytest.raises(InputError, match="empty file"):
        read_bytes(write(tmp_path, b""), split="file")


def test_missing_files_folders_and_closed_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, b"text")
    with pytest.raises(InputError, match=r"note\.txt' does not exist; did you mean .*notes\.txt'"):
        read_documents(tmp_path / "note.txt", split="file")
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        read_documents(tmp_path, split="file")
    with pytest.raises(InputError, match=r"cannot be opened .*name too long"):
        read_bytes(tmp_path / ("x" * 999), split="file")

    def closed(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.raises(InputError, match=r"cannot be opened \(Permission denied\); check its per"):
        read_bytes(path, split="file")


def test_windows_by_hand() -> None:
    # "banana" -> ban|ana and "an" -> an␃, with a=0, b=1, n=2 and the end 3
    cut = windows(["banana", "an"], 3)
    assert cut.ids.tolist() == [[1, 0, 2], [0, 2, 0], [0, 2, 3]]
    assert cut.ids.dtype == np.int64
    assert cut.vocabulary == ("a", "b", "n", "␃")
    assert cut.padded


def test_no_end_symbol_where_no_window_needs_it() -> None:
    cut = windows(["abab", "", "ba"], 2)
    assert cut.ids.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert cut.vocabulary == ("a", "b")
    assert not cut.padded


@pytest.mark.parametrize(
    ("documents", "vocabulary"),
    [
        (["b a\n\u2028ü"], ("\\n", " ", "a", "b", "ü", "\\u2028")),
        (["a␃", "a"], ("a", "\\u2403", "␃")),
        ([b"a\n \x00~\x7f\xff"], ("0x00", "0x0a", " ", "a", "~", "0x7f", "0xff")),
        ([[10, 9, 2, 2]], ("2", "9", "10")),
        ([["the", "cat"], ("a\nb",)], ("a\\nb", "cat", "the", "␃")),
        ([[1, "1"]], ("1", "'1'")),
        ([[(1, 2), None]], ("None", "(1, 2)")),
    ],
)
def test_labels(documents: Sequence[Sequence[Hashable]], vocabulary: tuple[str, ...]) -> None:
    cut = windows(documents, max(len(document) for document in documents))
    assert cut.vocabulary == vocabulary
    assert all(label.isprintable() for label in cut.vocabulary)


@given(st.lists(st.text(alphabet="ab\n␃é"), min_size=1).filter(any), st.integers(1, 9))
def test_windows_lose_nothing(documents: list[str], tokens: int) -> None:
    cut = windows(documents, tokens)
    alphabet = [*sorted(set("".join(documents))), *(["<end>"] if cut.padded else [])]
    rows = ["".join(alphabet[i] for i in row) for row in cut.ids]
    expected = []
    for document in documents:
        while document:
            piece, document = document[:tokens], document[tokens:]
            expected.append(piece + "<end>" * (tokens - len(piece)))
    assert rows == expected
    assert sorted(set(cut.ids.ravel().tolist())) == list(range(len(cut.vocabulary)))
    assert (cut.vocabulary[-1] == END) == cut.padded
    assert len(set(cut.vocabulary)) == len(cut.vocabulary)


def test_windows_do_not_depend_on_the_kind_of_text() -> None:
    text = "to be, or not to be"
    assert np.array_equal(windows([text], 4).ids, windows([text.encode()], 4).ids)
    assert np.array_equal(windows([text], 4).ids, windows([list(text)], 4).ids)


@pytest.mark.parametrize(
    ("documents", "tokens", "message"),
    [
        (["ab"], 0, "tokens must be at least 1, got 0; give"),
        (["ab"], -3, "tokens must be at least 1, got -3"),
        ([], 2, "documents must hold symbols of one kind, got 0 without any"),
        (["", ""], 2, "got 2 without any"),
        (["a", b"a"], 2, "got bytes and others; give text or bytes"),
    ],
)
def test_windows_that_cannot_be_cut_are_refused(
    documents: Sequence[str | bytes], tokens: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        windows(documents, tokens)


def test_a_window_far_beyond_the_text_is_refused_before_it_is_made() -> None:
    with pytest.raises(InputError, match=r"at most 134217728 .* the longest document has 3"):
        windows(["abc"], 10**9)


@pytest.mark.parametrize("part", [1, 3, 1 << 22])
def test_long_documents_are_numbered_in_parts(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PART", part)
    documents = ["bé\U0001f600a\ud800", "", "aaab"]
    cut = windows(documents, 3)
    symbols = ["a", "b", "é", "\ud800", "\U0001f600"]  # by code point
    expected = [[1, 2, 4], [0, 3, 5], [0, 0, 0], [1, 5, 5]]
    assert cut.ids.tolist() == expected
    assert cut.vocabulary[:3] == tuple(symbols[:3])
    of_bytes = windows([b"\xff\x00ab"], 2)
    assert of_bytes.ids.tolist() == [[3, 0], [1, 2]]
    assert windows([list(document) for document in documents], 3).ids.tolist() == expected


def test_words_are_runs_of_letters_and_digits_and_single_other_characters() -> None:
    written = "Don't stop: naïve_x2, 3.5%…\n\tЮля (the end)"
    expected = ["Don", "'", "t", "stop", ":", "naïve_x2", ",", "3", ".", "5", "%", "…"]
    expected += ["Юля", "(", "the", "end", ")"]
    words, others = words_of([written, "The the"])
    assert words == [expected, ["The", "the"]]
    assert others == 0
    assert words_of([OTHER])[0] == [["<", "unk", ">"]]  # no word of a text is that symbol
    assert "".join(words[0]) == "".join(written.split())  # nothing but white space is lost


def test_rare_words_are_one_symbol_whose_share_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MOST_WORDS", 2)
    words, others = words_of(["b a b c", "b a d c"])  # b three times, a and c twice: a comes first
    assert words == [["b", "a", "b", OTHER], ["b", "a", OTHER, OTHER]]
    assert others == pytest.approx(3 / 8)


def test_many_documents_of_words_are_numbered_by_one_table() -> None:
    documents = [["w", f"{i:05}"] for i in range(20_000)]  # 4e8 entries, if each made a table
    cut = windows(documents, 2)
    assert cut.ids[:, 1].tolist() == list(range(20_000))
    assert cut.vocabulary[-1] == "w"
