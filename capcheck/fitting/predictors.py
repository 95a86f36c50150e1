"""Modules of known tokens: predictors of token laws, and energies of sequences.

A token is shown standardised, or as a one-hot vector, times whether it is known, and that as a
channel of its own. A predictor that looks back is shown the tokens moved one place on, so that what
stands at i and before it is all that token i may see.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.architecture import Architecture
from capcheck.fitting.denoisers import trunk
from capcheck.fitting.heads import TokenHead, positive
from capcheck.laws import TokenLaw

__all__ = ["EnergyModule", "GivenTokens", "PredictorModule", "ShownTokens"]


class ShownTokens(nn.Module):
    """Tokens -> the numbers that stand for them, (n, N, d) or (n, N, V).

    Args:
        spec: Of the sequences.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        self.vocabulary = spec.dim if spec.kind == "categorical" else None
        self.register_buffer("mean", spec.mean.float())
        self.register_buffer("deviation", positive(spec.variance).sqrt())

    def forward(self, tokens: Tensor) -> Tensor:
        """Standardised numbers, or one-hot vectors."""
        if self.vocabulary is None:
            x: Tensor = (tokens - self.mean) / self.deviation
            return x
        within = tokens.long().clamp(0, self.vocabulary - 1)  # unknown values mean nothing
        return nn.functional.one_hot(within, self.vocabulary).to(self.mean)


class GivenTokens(nn.Module):
    """Sequences -> the numbers that stand for their given tokens, (n, G); G is 0 where none is.

    Args:
        spec: Of the sequences; `spec.given` are given.
    """

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        self.given = list(spec.given)
        self.free = list(spec.free)
        self.shown = ShownTokens(spec)
        self.numbers = len(self.given) * spec.dim

    def forward(self, tokens: Tensor) -> Tensor:
        """Of tokens (n, N, d) or (n, N); where none is given, of anything with n rows."""
        if not self.given:
            return self.shown.mean.new_zeros(len(tokens), 0)
        numbers: Tensor = self.shown(tokens)[:, self.given].flatten(1)
        return numbers


class PredictorModule(nn.Module):
    """(tokens, known) -> one law per token, given the known ones.

    Args:
        spec: Of the sequences.
        size: Of the trunk.
        rank: Bound on the rank of the logits.
        prefix: Whether token i sees the known tokens before it only.
    """

    def __init__(
        self,
        spec: SequenceSpec,
        size: Architecture,
        *,
        rank: int | None = None,
        prefix: bool = False,
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.shown = ShownTokens(spec)
        self.head = TokenHead(spec, components=size.components, rank=rank)
        self.trunk = trunk(spec, size, spec.dim + 1, self.head.numbers, masked=prefix)

    def forward(self, tokens: Tensor, known: Tensor) -> TokenLaw:
        """The (n, N) laws."""
        x = self.shown(tokens)
        mask = known[..., None]
        h = torch.cat([torch.where(mask, x, 0.0), mask.to(x)], -1)
        seen = None
        if self.prefix:
            h = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
            N = h.shape[1]
            seen = torch.ones(1, N, N, dtype=torch.bool, device=h.device).tril()
        law: TokenLaw = self.head(self.trunk(h, seen))
        return law


class EnergyModule(nn.Module):
    """x -> E(x) = |x'|^2 / 2 + sum_i F_i(x') of standardised x'; of token ids the sum only.

    Args:
        spec: Of the sequences.
        size: Of the trunk.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.continuous = spec.kind == "continuous"
        self.shown = ShownTokens(spec)
        self.trunk = trunk(spec, size, spec.dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n,) nats."""
        h = self.shown(x)
        energy: Tensor = self.trunk(h).flatten(1).sum(1)
        return energy + 0.5 * h.square().flatten(1).sum(1) if self.continuous else energy
