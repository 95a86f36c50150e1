"""The command line as a user calls it, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from capcheck.cli.app import main


class Ran(NamedTuple):
    """What a command ended with.

    Attributes:
        code: Exit code.
        out: Text of standard output.
        err: Text of standard error.
    """

    code: int | None
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    monkeypatch.setattr("capcheck.cli.app.limit_memory", lambda: None)  # of the whole process

    def call(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["capcheck", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Ran(caught.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    return call
