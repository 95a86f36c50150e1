"""Blocks of a page of the handbook that are executed, and the places of their outputs.

- `console`: lines that begin with "$ " are commands, and the lines behind each are its output.
- `python`: code; a `text` block that directly follows is what it prints.
- `{code-block} LANGUAGE` with `:caption: NAME`: a file of that name in the page's folder.
- a line "% picture: NAME SOURCE": `pictures/NAME` is SOURCE, a file that the page's blocks have
  written, or a photograph of it if it is a page (.html) and NAME a .png.

A line "..." in an output stands for any lines that are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["FOLDER", "Block", "Output", "blocks", "commands", "pages"]

FOLDER = Path(__file__).parents[2] / "reports" / "handbook"
PICTURE = re.compile(r"^% picture: (\S+\.(?:svg|png)) (\S+)(?: (.+))?$")
CAPTION = re.compile(r"^:caption: *(\S+)$", re.M)
OPTIONS = re.compile(r"\A(?::[a-z-]+:.*\n)*\n?")  # at the top of a directive


@dataclass(frozen=True, kw_only=True)
class Output:
    """The place of an output on a page.

    Attributes:
        first: Its first line, from 0.
        last: The line behind its last one.
        indent: White space before every line.
        text: What stands there, without the indent.
    """

    first: int
    last: int
    indent: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a page that is executed.

    Attributes:
        kind: What it is.
        line: Line of its first line of code on the page, from 0.
        code: Its text without indent.
        indent: White space before every line of it.
        name: Name of a file or of a picture.
        source: File that a picture is made of.
        details: Words behind the source of a picture.
        output: Place of what Python prints, or None if none is shown.
    """

    kind: Literal["console", "python", "file", "picture"]
    line: int
    code: str = ""
    indent: str = ""
    name: str = ""
    source: str = ""
    details: str = ""
    output: Output | None = None


def pages() -> list[Path]:
    """All pages that have something to execute, by name."""
    return [path for path in sorted(FOLDER.rglob("*.md")) if any(blocks(path.read_text()))]


def blocks(text: str) -> list[Block]:
    """The blocks of a page in its order."""
    lines = text.split("\n")
    tokens = MarkdownIt("commonmark").parse(text)
    found = [*_fences(tokens, lines), *_pictures(tokens, lines)]
    return sorted(found, key=lambda block: block.line)


def _fences(tokens: list[Token], lines: list[str]) -> Iterator[Block]:
    for place, token in enumerate(tokens):
        if token.type != "fence" or token.map is None:
            continue
        first, indent = token.map[0] + 1, _indent(lines[token.map[0]])
        if token.info.strip() in ("console", "python"):
            following = tokens[place + 1] if place + 1 < len(tokens) else None
            kind: Literal["console", "python"] = (
                "python" if token.info.strip() == "python" else "console"
            )
            shown = _printed(following, lines) if kind == "python" else None
            yield Block(kind=kind, line=first, code=token.content, indent=indent, output=shown)
        elif token.info.startswith("{code-block}") and (named := CAPTION.search(token.content)):
            code = OPTIONS.sub("", token.content, count=1)
            yield Block(kind="file", line=first, code=code, indent=indent, name=named.group(1))


def _printed(token: Token | None, lines: list[str]) -> Output | None:
    if token is None or token.type != "fence" or token.info.strip() != "text" or not token.map:
        return None
    first, last = token.map[0] + 1, token.map[1] - 1
    return Output(first=first, last=last, indent=_indent(lines[first - 1]), text=token.content)


def _pictures(tokens: list[Token], lines: list[str]) -> Iterator[Block]:
    fenced = [range(*token.map) for token in tokens if token.type == "fence" and token.map]
    for place, line in enumerate(lines):
        if (found := PICTURE.match(line)) and not any(place in fence for fence in fenced):
            name, source, details = found.groups()
            yield Block(kind="picture", line=place, name=name, source=source, details=details or "")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def commands(block: Block) -> list[tuple[str, Output]]:
    """The commands of a console block, each with the place of its output.

    A line that ends with a backslash goes on in the next one.
    """
    lines = block.code.rstrip("\n").split("\n")
    starts = [place for place, line in enumerate(lines) if line.startswith("$ ")]
    assert starts[:1] == [0], f"a console block does not begin with a command: {lines[0]!r}"
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        behind = start + 1
        while lines[behind - 1].endswith("\\"):
            behind += 1
        command = " ".join(line.rstrip("\\").strip() for line in lines[start:behind])
        place = Output(
            first=block.line + behind,
            last=block.line + end,
            indent=block.indent,
            text="\n".join(lines[behind:end]),
        )
        found.append((command[2:], place))
    return found
