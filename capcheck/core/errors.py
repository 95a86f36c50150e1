"""Each error class says whose mistake an error is, and has an exit code of the command line.

| error | whose mistake | exit code |
|---|---|---|
| `InputError` | the caller's, who asked for something impossible | 2 |
| `UnfitError` | nobody's: a family is not defined for the target | 2; a survey goes on |
| `OutOfMemoryError` | nobody's: a family takes more memory than there is | 2; a survey goes on |
| `NetworkError` | of a network's author: it raised, or broke its signature | 2; a survey goes on |
| `StoreError` | nobody's: a run's folder cannot be written or read | 2; a survey stops |
| `ProbeError` | of a family's author: it raised, or broke its contract | 4 |
| any other | capcheck's own | 4 |

Every message is one sentence with the field, the rule, the value received and the cure.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "CapcheckError",
    "ControlFlow",
    "InputError",
    "NetworkError",
    "OutOfMemoryError",
    "ProbeError",
    "StoreError",
    "UnfitError",
    "cure_of",
    "near",
    "reason_of",
    "unwritable",
]


class CapcheckError(Exception):
    """The base class of all errors that capcheck raises (exit code 4: an internal failure)."""

    exit_code = 4


class InputError(CapcheckError, ValueError):
    """The caller asked for something impossible (exit code 2)."""

    exit_code = 2


class UnfitError(InputError):
    """A family cannot be measured on this target; the sentence says why."""


class OutOfMemoryError(UnfitError):
    """A family takes more memory than there is; the sentence says how much."""


class NetworkError(InputError):
    """A network of the caller raised, or returned an answer that its signature rules out."""


class ProbeError(CapcheckError):
    """A family's procedure raised, or broke the contract of `Probe` (exit code 4)."""


def near(name: str, known: Iterable[str]) -> str:
    """The last clause of an error sentence: the most similar known name, or all known names."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known are {', '.join(known)}."


class ControlFlow(Exception):  # noqa: N818
    """A signal between two parts of capcheck that crosses a family's code; nobody's mistake."""


class StoreError(InputError, ControlFlow):
    """A run's folder cannot be written or read (exit code 2).

    It crosses a family's code as a signal does, so that it never counts as the family's failure.
    """


_CURES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there",
    errno.EFBIG: "allow larger files",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "give another folder",
    errno.EEXIST: "move the file of that name",
}


def cure_of(error: OSError) -> str:
    """The last clause of the sentence about a file or folder that cannot be written."""
    cure = _CURES.get(error.errno or 0, "make it writable")
    return f"{cure} and run the same command again"


def unwritable(folder: Path, error: OSError) -> StoreError:
    """The error that says why a run's folder cannot be written."""
    reason = error.strerror or type(error).__name__
    return StoreError(
        f"folder {str(folder)!r} cannot be written: {reason}; {cure_of(error)}; finished cells are "
        "kept."
    )


def reason_of(error: Exception) -> str:
    """The message of an error, behind the name of its class unless it is one of capcheck's."""
    return str(error) if isinstance(error, CapcheckError) else f"{type(error).__name__}: {error}"
