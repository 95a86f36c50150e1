"""The evidence about the law that a procedure samples."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.unavailable import Unavailable
from capcheck.divergences.estimate import Estimate
from capcheck.procedures.coordinates import ExactLaw

__all__ = ["CONTRADICTION_LEVEL", "NOT_ASKED", "ModelEvidence"]

CONTRADICTION_LEVEL = 0.9999  # confidence at which draws contradict a claimed law or density
NOT_ASKED = Unavailable(reason="it was not asked for")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelEvidence:
    """The evidence about the law q that a procedure samples: draws, and q itself where it is known.

    Attributes:
        samples: Draws of q, (n, N, d), or (n, N) integers.
        law: The exact law q, or the reason why it is not available.
        log_density: Log-density of q at the reference's `draws`, at the first of them if it is
            expensive, at more if it is cheap, or the reason why it is not available.
        own_log_density: Log-density of q at `samples`, or the reason why it is not available.
        limit: Function of the estimate of KL, None if KL is not measured. It makes draws of the
            target from the same random numbers as the first samples, or returns None if the
            procedure has no such limit, or if KL has decided without one. All evidence of one
            procedure shares these draws.
    """

    samples: Tensor
    law: ExactLaw | Unavailable = NOT_ASKED
    log_density: LogDensity | Unavailable = NOT_ASKED
    own_log_density: LogDensity | Unavailable = NOT_ASKED
    limit: Callable[[Estimate | None], Tensor | None] = lambda kl: None

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all fields but `limit`; equal fingerprints imply equal estimates."""
        digest = hashlib.sha256()
        for fact in (self.samples, self.law, self.log_density, self.own_log_density):
            _feed(digest, fact)
        return digest.hexdigest()


def _feed(digest: hashlib._Hash, fact: object) -> None:
    """Add a tensor, dataclass, tuple or plain value to a digest, recursively."""
    if isinstance(fact, Tensor):
        digest.update(repr(tuple(fact.shape)).encode())
        digest.update(fact.detach().cpu().contiguous().numpy().tobytes())
    elif dataclasses.is_dataclass(fact):
        digest.update(type(fact).__name__.encode())
        for field in dataclasses.fields(fact):
            _feed(digest, getattr(fact, field.name))
    elif isinstance(fact, tuple):
        for part in fact:
            _feed(digest, part)
    else:
        digest.update(repr(fact).encode())
