"""The exact law of masked diffusion with remasking on few tokens, by its partly masked sequences.

A step depends on the known tokens alone, so that the steps are a Markov chain on partly masked
sequences. A token that is masked again leaves its value, and sequences become equal: there are
never more than (V + 1)^N of them, however many steps there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.partly_masked import STATES, PartlyMasked, states_of
from capcheck.laws import log_table
from capcheck.networks.signatures import TokenPredictor
from capcheck.procedures.remasking import Chances
from capcheck.targets.categorical.sequence_law import numbers

__all__ = ["WORK", "density_by_remasking"]

WORK = 1 << 25  # most changes of partly masked sequences that are followed: some ten seconds
ROWS = 1024  # rows that a network is shown at once


def density_by_remasking(
    steps: Sequence[Chances], network: TokenPredictor, spec: SequenceSpec, x: Tensor
) -> LogDensity | Unavailable:
    """The log-density after some steps given the given tokens, or the reason why it is not known.

    Args:
        steps: What each step does; the last one reveals every masked token and masks none.
        network: The network.
        spec: Spec of the sequences.
        x: Sequences, (n, N) integers.
    """
    states = states_of(spec, ordered=False)
    if states > STATES:
        return Unavailable(
            reason=f"{spec.dim + 1}^{spec.tokens} partly masked sequences are more than the "
            f"{STATES} followed, and a remasked token's value may be any before its last"
        )
    if len(steps) * float(2 * spec.dim + 1) ** spec.tokens > WORK:
        return Unavailable(
            reason=f"{len(steps)} steps are too many to follow {states:.0f} partly masked sequences"
        )
    answers = _Answers(network, spec)
    law = PartlyMasked.beside(x, spec.given)
    for step in steps:
        keep = torch.full((spec.tokens,), step.keep, dtype=torch.float64)
        keep[list(spec.given)] = 1.0
        law = law.renewed(answers.of(law), keep=keep, reveal=step.reveal)
    method = "probabilities of all partly masked sequences"
    return LogDensity(values=law.log_prob(x), method=method)


class _Answers:
    """A network's laws given partly masked sequences, each of which it is shown once.

    Args:
        network: The network.
        spec: Spec of the sequences.
    """

    def __init__(self, network: TokenPredictor, spec: SequenceSpec) -> None:
        self._network, self._device, self._V = network, spec.mean.device, spec.dim
        self._place = torch.full(((spec.dim + 1) ** spec.tokens,), -1)  # -1 if it was not shown
        self._log_p = torch.zeros(0, spec.tokens, spec.dim, dtype=torch.float64)

    def of(self, states: PartlyMasked) -> Tensor:
        """Log-probabilities (nats) of all tokens of the sequences that are open, (m, N, V)."""
        tokens, known = states.tokens[states.open], states.known[states.open]
        number = numbers(torch.where(known, tokens + 1, 0), self._V + 1)
        new = self._place[number] < 0
        if bool(new.any()):
            first, shown = len(self._log_p), (tokens[new], known[new])
            self._place[number[new]] = torch.arange(first, first + len(shown[0]))
            parts = zip(*(each.split(ROWS) for each in shown), strict=True)
            self._log_p = torch.cat([self._log_p, *(self._answer(*rows) for rows in parts)])
        return self._log_p[self._place[number]]

    def _answer(self, tokens: Tensor, known: Tensor) -> Tensor:
        table = log_table(self._network(tokens.to(self._device), known.to(self._device)))
        # In single precision a law sums to 1 but for an error that every step would repeat.
        return table.double().log_softmax(-1).cpu()
