"""The errors of a probe: what its code raises, and tokens that it is not defined for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from capcheck.core.errors import CapcheckError, ControlFlow, NetworkError, ProbeError, UnfitError
from capcheck.core.memory import out_of_memory
from capcheck.procedures.probe import Probe
from capcheck.targets.target import Target

__all__ = ["named_errors", "wrong_kind"]


@contextlib.contextmanager
def named_errors(probe: Probe[Any]) -> Iterator[None]:
    """Turns every exception of a probe's code into an error that names the probe.

    Raises:
        OutOfMemoryError: The code asked for more memory than there is.
        ProbeError: The code of a third party's probe raised.
        CapcheckError: The code of one of capcheck's own probes raised.
    """
    try:
        yield
    except (ControlFlow, UnfitError, NetworkError, ProbeError):
        raise
    except Exception as error:
        full = out_of_memory(error, probe.family, "choose fewer tokens, or a smaller --batch")
        if full is not None:
            raise full from error
        said = f"{probe.family} raised {type(error).__name__}: {error}"
        module = type(probe).__module__
        if module.startswith("capcheck."):
            raise CapcheckError(said) from error
        raise ProbeError(f"{said} (a family of {module}; tell its author)") from error


def wrong_kind(probe: Probe[Any], target: Target) -> str:
    """The error sentence for a procedure that is not defined for the tokens of a target."""
    kinds = " and ".join(sorted(probe.kinds))
    return f"{probe.family} is defined for {kinds} tokens, not {target.spec.kind} ones."
