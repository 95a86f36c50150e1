"""Errors: whose mistake it is, and the exit code that says so.

| error | whose mistake | exit code |
|---|---|---|
| `InputError` | the caller's: something that is not possible was asked for | 2 |
| `UnfitError` | nobody's: a family is not defined for such a target | 2; a survey goes on |
| `NetworkError` | the caller's network: it raised, or answered wrongly | 2; a survey goes on |
| `ProbeError` | of whoever wrote a family: it raised, or broke its contract | 4 |
| any other | capcheck's own | 4 |

Every message is one sentence: the field, the rule, the value received and the cure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CapcheckError(Exception):
    """The base class of all errors that capcheck raises (exit code 4: an internal failure)."""

    exit_code = 4


class InputError(CapcheckError, ValueError):
    """The caller asked for something impossible (exit code 2)."""

    exit_code = 2


class UnfitError(InputError):
    """A family cannot be measured on this target; the sentence says why."""


class NetworkError(InputError):
    """A network of the caller raised, or answered what its signature rules out."""


class ProbeError(CapcheckError):
    """A family's procedure raised, or broke the contract of `Probe` (exit code 4)."""


def near(name: str, known: Iterable[str]) -> str:
    """Say which of `known` was probably meant, as the last clause of an error sentence."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known are {', '.join(known)}."


class ControlFlow(Exception):  # noqa: N818
    """Passes through a family's code from one part of capcheck to another; nobody's mistake."""
