"""Failures at the shell: one sentence and an exit code, or a traceback where it was asked for."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from rich.console import Console

from capcheck.core.errors import CapcheckError, near


@dataclass
class Session:
    """What one call of the command line was asked for.

    Attributes:
        debug: Whether to show the traceback of a failure.
    """

    debug: bool = False


def debugging(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Switch tracebacks on."""
    if value:
        ctx.ensure_object(Session).debug = True


def fail(error: BaseException, session: Session) -> NoReturn:
    """End the process with a sentence about an error, and its exit code."""
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
    """A text stream whose reader may go away, as in `capcheck survey | head`.

    What is written then is lost, and the command goes on to its own exit code.

    Args:
        stream: What is written to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> int:
        """Write, unless nobody reads any more."""
        if not self._gone:
            try:
                self._stream.write(text)
                self._stream.flush()
            except BrokenPipeError:
                self._gone = True
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end(sentence: str, code: int) -> NoReturn:
    one_line = " ".join(sentence.split())
    Console(stderr=True).print(f"error: {one_line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
