"""What can go wrong, and the exit code that says so.

Every error that a user can cause is an `InputError` whose message is one sentence: the field, the
rule, the value received and the cure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CapcheckError(Exception):
    """An internal failure: capcheck, or a probe, broke its own contract (exit code 4)."""

    exit_code = 4


class InputError(CapcheckError, ValueError):
    """The caller asked for something impossible (exit code 2)."""

    exit_code = 2


class UnfitError(InputError):
    """A family cannot be measured on this target; the sentence says why."""


def near(name: str, known: Iterable[str]) -> str:
    """Say which of `known` was probably meant, as the last clause of an error sentence."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known are {', '.join(known)}."
