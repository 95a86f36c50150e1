"""Failures at the shell: one sentence and an exit code, after a traceback with --debug.

A signal that stops a command is one of them: a run with a folder can be continued afterwards.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import click
from rich.console import Console

from capcheck.core.errors import CapcheckError, InputError, near
from capcheck.core.memory import out_of_memory

__all__ = [
    "CLOSED_PIPE",
    "MISSING",
    "QuietStream",
    "Session",
    "Stopped",
    "debugging",
    "fail",
    "stoppable",
]

MISSING = 5  # exit code if a package that capcheck needs cannot be imported
CLOSED_PIPE = 141  # exit code if the reader of the output left early: 128 and the number of SIGPIPE
CONTINUED = "the same command continues a run kept with --out."
SIGNALS = ("SIGTERM", "SIGHUP")  # signals that stop a command, where the system has them


class Stopped(BaseException):
    """A signal that stops the command.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Have `SIGNALS` raise `Stopped`, so that a run ends its workers, and is told how to go on.

    A signal that the process ignores, as with nohup, stays ignored.
    """
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    own = threading.current_thread() is threading.main_thread()
    taken = [one for one in numbers if own and signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, _stop)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one would disturb the end of the workers
    raise Stopped(number)


@dataclass
class Session:
    """State of one call of the command line.

    Attributes:
        debug: Whether to show the traceback of a failure.
        arguments: The words after `capcheck`.
    """

    debug: bool = False
    arguments: tuple[str, ...] = ()


def debugging(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Switch tracebacks on; the callback of the option --debug."""
    if value:
        ctx.ensure_object(Session).debug = True


def fail(error: BaseException, session: Session) -> NoReturn:
    """Print a sentence about an error, and end the process with the exit code of the error.

    No failure has the exit code 1, which says that a family is not representable.
    """
    if session.debug:
        traceback.print_exception(error)
    if isinstance(error, CapcheckError):
        _end(str(error), error.exit_code)
    if isinstance(error, click.NoSuchOption):
        hint = near(error.option_name, error.possibilities) if error.possibilities else ""
        if error.option_name == "--option":
            hint = "options belong to one family: give them to `capcheck check --family NAME`."
        _end(f"there is no option {error.option_name}; {hint or 'see --help.'}", 2)
    if isinstance(error, click.ClickException):
        _end(error.format_message(), 2)
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        _end(f"interrupted; {CONTINUED}", 128 + signal.SIGINT)
    if isinstance(error, Stopped):
        _end(f"stopped by {error.signal.name}; {CONTINUED}", 128 + error.signal)
    if isinstance(error, ImportError):
        _end(f"{error}; a package that capcheck needs is missing or broken, install it.", MISSING)
    full = out_of_memory(error, "this", "choose fewer rows, tokens or --samples")
    if full is not None:
        _end(str(full), full.exit_code)
    said = f"internal failure, {type(error).__name__}: {error}"
    _end(f"{said}; see the traceback with --debug.", CapcheckError.exit_code)


class QuietStream:
    """A text stream whose reader may close it, as in `capcheck survey | head`.

    Text that is written to a closed stream is dropped, so that the command still does its work.

    Args:
        stream: Stream to write to.

    Attributes:
        broken: Whether text was dropped.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.broken = False

    def write(self, text: str) -> int:
        """Write text, unless the reader has closed the stream.

        Raises:
            InputError: The text cannot be written for another reason, such as a full disk.
        """
        if not self.broken:
            try:
                self._stream.write(text)
                self._stream.flush()
            except BrokenPipeError:
                self.broken = True
            except OSError as error:
                self.broken = True  # what the stream holds back would fail once more
                raise InputError(
                    f"output cannot be written: {error.strerror}; {CONTINUED}"
                ) from error
        return len(text)

    def flush(self) -> None:
        """Do nothing, since `write` flushes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _end(sentence: str, code: int) -> NoReturn:
    one_line = " ".join(sentence.split())
    with contextlib.suppress(OSError, InputError):  # the terminal may be gone
        Console(stderr=True, emoji=False).print(
            f"error: {one_line}", markup=False, highlight=False, soft_wrap=True
        )
    sys.exit(code)
