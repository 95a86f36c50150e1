"""Perturbed networks: oracles with errors of a known size e, which show how good a network must be.

Each kind of perturbation changes the answers of a network as follows.

| answer | noise e | shrinkage e | temperature e |
|---|---|---|---|
| tokens a of deviation s | a + e s f(a) | a - e (a - m) | |
| law of continuous tokens | its mean moves by e s f | its mean m_i moves by -e (m_i - m) | |
| law of token ids | log p + e f(log p) | | p^(1 / (1 + e)) |
| energy E | | | E / (1 + e) |

Here s and m are the standard deviation and the mean of a token, and m_i is the mean of a law that
the network returns. An empty field means that there is no such perturbation. The error function
f(a) = sqrt(2) cos(2 a / s + b) has mean square 1 over the coordinates of a token sequence, whose
phases b are spread evenly over half a turn. It is a function of the oracle's answer, as the error
of a network is, and uses no information that the oracle lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from capcheck.core.arguments import real_number, several
from capcheck.core.errors import ControlFlow
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, TokenLaw, log_table
from capcheck.laws.shifted import Shifted
from capcheck.networks.signatures import BijectionSignature, Signature, Wrapper

__all__ = [
    "MEANINGS",
    "PERTURBATIONS",
    "SIZES",
    "NotPerturbed",
    "Perturbation",
    "Perturbing",
    "chosen_sizes",
]

Perturbation = Literal["noise", "shrinkage", "temperature"]
# An error of size 1 of each kind, in words.
MEANINGS: dict[Perturbation, str] = {
    "noise": "an error as large as a token's deviation, or one nat of every log-probability",
    "shrinkage": "every answer at its unconditional mean",
    "temperature": "temperature 2 in place of 1",
}
PERTURBATIONS: tuple[Perturbation, ...] = tuple(MEANINGS)
SIZES = (0.03, 0.1, 0.3)  # default sizes e of the errors


def chosen_sizes(given: bool | float | Sequence[float] | None) -> tuple[float, ...]:
    """The sizes of errors, checked, in rising order, without repeats.

    Args:
        given: Sizes above 0 and below 1, one or several; True for `SIZES`, False or None for none.

    Raises:
        InputError: A size is out of this range.
    """
    if given is None or isinstance(given, bool):
        return SIZES if given else ()
    rule, cure = "sizes above 0 and below 1", "write 0.03,0.1"
    if isinstance(given, (int, float, str)):
        given = [given]
    sizes = several("sensitivity", given, rule, cure)
    return tuple(
        sorted({real_number("sensitivity", one, rule, lambda s: 0 < s < 1, cure) for one in sizes})
    )


class NotPerturbed(ControlFlow):
    """Signals that a network's answer has no perturbation of the chosen kind."""


class Perturbing(Wrapper):
    """Adds errors of one kind and size to the answers of a network.

    Args:
        kind: Kind of the errors.
        size: Size e of the errors, above 0.
        spec: Spec of the sequences in the coordinates of the network.
        signature: Signature of the network.

    Raises:
        NotPerturbed: When the network is called, if its answers have no such perturbation.
    """

    def __init__(
        self, kind: Perturbation, size: float, spec: SequenceSpec, signature: Signature[Any]
    ) -> None:
        self._invertible = isinstance(signature, BijectionSignature)
        self.kind, self.size, self.spec = kind, size, spec
        numbers = spec.tokens * spec.dim
        turns = CounterRandomness(0, name="phases").permutation(1, numbers)[0] + 0.5
        self._phase = (math.pi / numbers * turns.double()).reshape(spec.tokens, spec.dim)
        self._deviation = spec.variance.sqrt()

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer with an error; a bijection has invertible errors only."""
        if self._invertible and self.kind != "shrinkage":
            raise NotPerturbed
        answer = network(*shown)
        if isinstance(answer, TokenLaw):
            return self._law(answer)
        if answer.dim() == 1:
            return answer + self.of_energy(answer)
        if not answer.is_floating_point():
            raise NotPerturbed
        return answer + self.of_tokens(answer)

    def log_prob(self, network: Any, x: Tensor, *known: Tensor) -> Tensor:
        """The log-density (nats) of a bijection that is shrunk towards the mean, (n,)."""
        scale, mean = 1 - self.size, self.spec.mean.to(x)
        before = mean + (x - mean) / scale
        for mask in known:  # given tokens keep their values
            before = torch.where(mask[..., None], x, before)
        inner: Tensor = network.log_prob(before, *known)
        return inner - len(self.spec.free) * self.spec.dim * math.log(scale)

    def _law(self, law: TokenLaw) -> TokenLaw:
        if self.spec.kind == "continuous":
            return Shifted(law, self.of_tokens(law.mean()))
        log_p = log_table(law)
        return Categorical(log_p + torch.where(log_p.isinf(), 0, self.of_logits(log_p)))

    def of_tokens(self, a: Tensor) -> Tensor:
        """The error of an answer `a` in token coordinates, (n, N, d)."""
        if self.kind == "temperature":
            raise NotPerturbed
        if self.kind == "shrinkage":
            return -self.size * (a - self.spec.mean.to(a))
        deviation = self._deviation.to(a)
        angle = 2 * a / torch.where(deviation > 0, deviation, 1) + self._phase.to(a)
        return self.size * deviation * math.sqrt(2) * angle.cos()

    def of_logits(self, log_p: Tensor) -> Tensor:
        """The error of log-probabilities, (n, N, V)."""
        if self.kind == "temperature":
            return -self.size / (1 + self.size) * log_p
        if self.kind == "shrinkage":
            raise NotPerturbed
        finite = torch.where(log_p.isinf(), 0, log_p)
        field: Tensor = math.sqrt(2) * (2 * finite + self._phase.to(log_p)).cos()
        return self.size * field

    def of_energy(self, energy: Tensor) -> Tensor:
        """The error of energies, (n,)."""
        if self.kind != "temperature":
            raise NotPerturbed
        return torch.where(energy.isinf(), 0, -self.size / (1 + self.size) * energy)
