"""The witness lists the samples, tokens, pairs and regions in which a model differs from a target.

It reports four kinds of findings: samples that the target cannot produce, tokens with a wrong
marginal law, pairs of tokens with a wrong dependence, and regions of the target that the draws
miss. No verdict uses a witness; it helps to find the cause of a divergence.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from capcheck.core.record import Record
from capcheck.divergences.lost import lost_clause

__all__ = ["MissedMode", "PairError", "TokenError", "Witness"]


class TokenError(Record):
    """A token whose marginal law differs from the target's.

    Attributes:
        token: Index of the token.
        error: Total variation of the two laws for a categorical token; otherwise the largest
            difference of the two distribution functions (Kolmogorov and Smirnov) over coordinates.
    """

    token: int
    error: float


class PairError(Record):
    """A pair of tokens whose dependence differs from the target's.

    Attributes:
        tokens: Indices of the two tokens.
        target: Dependence under the target: the mutual information in nats for categorical tokens,
            otherwise the correlation of values or of absolute deviations from the mean, whichever
            differs more.
        model: Dependence under the model, in the same measure.
    """

    tokens: tuple[int, int]
    target: float
    model: float


class MissedMode(Record):
    """A region of the target that the model's draws miss.

    Attributes:
        target: Share of the target's draws in the region.
        model: Share of the model's draws in the region.
        example: Target draw closest to the region's centre, (N, d) or (N,), as nested lists.
    """

    target: float
    model: float
    example: Any = Field(repr=False)


class Witness(Record):
    """The differences between a model's draws and a target that chance does not explain.

    Attributes:
        impossible: Number of samples of probability 0 under the target, or None for continuous
            tokens.
        samples: Number of samples examined.
        lost: Number of lost rows, see `capcheck.divergences.lost`; if there are any, tokens, pairs
            and modes are not compared.
        tokens: Tokens with a wrong marginal law, the worst first.
        pairs: Pairs with a wrong dependence, the worst first.
        modes: Missed regions, the largest first.
    """

    impossible: int | None
    samples: int
    lost: int = 0
    tokens: tuple[TokenError, ...] = ()
    pairs: tuple[PairError, ...] = ()
    modes: tuple[MissedMode, ...] = ()

    def sentences(self) -> tuple[str, ...]:
        """The worst finding of each kind, one sentence each."""
        said = []
        if self.lost:
            said.append(f"{lost_clause(self.lost, self.samples)}.")
        if self.impossible:
            said.append(f"{self.impossible} of {self.samples} samples cannot occur in the target.")
        if self.pairs:
            first = self.pairs[0]
            said.append(
                f"tokens {first.tokens[0]} and {first.tokens[1]} depend most wrongly: "
                f"{first.model:.2g} instead of {first.target:.2g}."
            )
        if self.tokens:
            worst = self.tokens[0]
            said.append(f"the law of token {worst.token} is off by {worst.error:.2g}.")
        if self.modes:
            mode = self.modes[0]
            said.append(
                f"a region that holds {mode.target:.1%} of the target has {mode.model:.1%} "
                "of the samples."
            )
        return tuple(said)
