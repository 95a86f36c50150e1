"""The log-evidence of all components, kept from call to call while tokens become known.

A procedure that places one token after another asks for a law at every step. The evidence of the
tokens that are placed already stays what it was, so that a step adds the evidence of its own tokens
to the log-evidence of the step before.
"""

from __future__ import annotations

import torch

from capcheck.targets.components import Components
from capcheck.targets.evidence import Evidence, HeldLogits, Logits

__all__ = ["FEWEST", "HELD", "KnownLogits"]

HELD = 1 << 24  # most numbers, rows x components, that are kept: 128 MiB
FEWEST = 256  # fewer components are summed in less time than it takes to compare the evidence


class KnownLogits:
    """Gives evidence its log-evidence, from that of the last call where the evidence has grown.

    Args:
        components: The components, in float64.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        self._last: Evidence | None = None
        self._held: HeldLogits | None = None

    def __reduce__(self) -> tuple[type[KnownLogits], tuple[Components]]:
        """Copies leave behind what is kept."""
        return KnownLogits, (self._components,)

    def completed(self, evidence: Evidence) -> Evidence:
        """The same evidence with its `logits`, unless these are too few or too many to be held.

        They are up to date until the next call.

        Args:
            evidence: Evidence of n rows, in float64.
        """
        n, K = len(evidence), len(self._components)
        if K < FEWEST or n * K > HELD:
            return evidence
        if self._held is None or self._held.values.shape != (n, K):
            self._last = self._held = None  # the old one is freed first
            self._held = HeldLogits(evidence.linear.new_empty(n, K))
        held, last = self._held, self._last
        held.version += 1
        if last is None or not _grows(last, evidence):
            nothing = torch.zeros_like(evidence.linear[:1])
            last = Evidence(nothing, nothing)
            held.values.copy_(self._components.log_weights)
        linear, quadratic = evidence.linear - last.linear, evidence.quadratic - last.quadratic
        new = ((linear != 0) | (quadratic != 0)).any(2).any(0).nonzero()[:, 0].tolist()
        if new:
            mu = self._components.of_tokens(new)  # (K, S, d)
            queries = torch.cat([linear[:, new], quadratic[:, new].expand_as(linear[:, new])], -1)
            keys = torch.cat([mu, mu.square()], -1)
            held.values.addmm_(queries.flatten(1), keys.flatten(1).T)
        self._last = evidence
        known = Logits(held, held.version, held.values)
        return Evidence(evidence.linear, evidence.quadratic, known)


def _grows(old: Evidence, new: Evidence) -> bool:
    """Whether every number of the old evidence stays the same, or was 0."""
    if old.linear.shape != new.linear.shape:
        return False
    grown = (old.linear == 0) & (old.quadratic == 0)
    same = (old.linear == new.linear) & (old.quadratic == new.quadratic)
    return bool((grown | same).all())
