"""Failures at the shell: one sentence and an exit code, after a traceback with --debug."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from rich.console import Console

from capcheck.core.errors import CapcheckError, near

__all__ = ["QuietStream", "Session", "debugging", "fail"]


@dataclass
class Session:
    """State of one call of the command line.

    Attributes:
        debug: Whether to show the traceback of a failure.
    """

    debug: bool = False


def debugging(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Switch tracebacks on; the callback of the option --debug."""
    if value:
        ctx.ensure_object(Session).debug = True


def fail(error: BaseException, session: Session) -> NoReturn:
    """Print a sentence about an error, and end the process with the exit code of the error."""
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, CapcheckError):
        _end(str(error), error.exit_code)
    if isinstance(error, click.NoSuchOption):
        hint = near(error.option_name, error.possibilities) if error.possibilities else ""
        _end(f"there is no option {error.option_name}; {hint or 'see --help.'}", 2)
    if isinstance(error, click.ClickException):
        _end(error.format_message(), 2)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        _end("interrupted; the same command continues a run kept with --out.", 130)
    said = f"internal failure, {type(error).__name__}: {error}"
    _end(f"{said}; see the traceback with --debug.", CapcheckError.exit_code)


class QuietStream:
    """A text stream whose reader may close it, as in `capcheck survey | head`.

    Text that is written to a closed stream is dropped, so that the command still ends with its own
    exit code.

    Args:
        stream: Stream to write to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._closed = False

    def write(self, text: str) -> int:
        """Write text, unless the reader has closed the stream."""
        if not self._closed:
            try:
                self._stream.write(text)
                self._stream.flush()
            except BrokenPipeError:
                self._closed = True
        return len(text)

    def flush(self) -> None:
        """Do nothing, since `write` flushes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end(sentence: str, code: int) -> NoReturn:
    one_line = " ".join(sentence.split())
    Console(stderr=True, emoji=False).print(
        f"error: {one_line}", markup=False, highlight=False, soft_wrap=True
    )
    sys.exit(code)
