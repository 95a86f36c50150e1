"""Modules with tokens as inputs: predictors of token laws, and energies of sequences.

Each token is encoded by its standardised numbers or its one-hot vector; in a predictor, the
features of unknown tokens are 0, and a further feature says whether the token is known. A prefix
predictor shifts the features by one token, so that positions 0..i hold exactly the tokens before i.
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
    """Encodes tokens as standardised numbers (n, N, d) or one-hot vectors (n, N, V).

    Args:
        spec: Spec of the sequences.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        self.vocabulary = spec.dim if spec.kind == "categorical" else None
        self.register_buffer("mean", spec.mean.float())
        self.register_buffer("deviation", positive(spec.variance).sqrt())

    def forward(self, tokens: Tensor) -> Tensor:
        """The standardised numbers, or the one-hot vectors, of tokens (n, N, d) or (n, N)."""
        if self.vocabulary is None:
            x: Tensor = (tokens - self.mean) / self.deviation
            return x
        within = tokens.long().clamp(0, self.vocabulary - 1)  # unknown tokens may hold any value
        return nn.functional.one_hot(within, self.vocabulary).to(self.mean)


class GivenTokens(nn.Module):
    """Encodes the given tokens of sequences as G numbers, (n, G); G is 0 if no token is given.

    Args:
        spec: Spec of the sequences; `spec.given` names the given tokens.
    """

    def __init__(self, spec: SequenceSpec) -> None:
        super().__init__()
        self.given = list(spec.given)
        self.free = list(spec.free)
        self.shown = ShownTokens(spec)
        self.numbers = len(self.given) * spec.dim

    def forward(self, tokens: Tensor) -> Tensor:
        """The features (n, G) of tokens (n, N, d) or (n, N); any tensor of n rows if G is 0."""
        if not self.given:
            return self.shown.mean.new_zeros(len(tokens), 0)
        numbers: Tensor = self.shown(tokens)[:, self.given].flatten(1)
        return numbers


class PredictorModule(nn.Module):
    """A token predictor, (tokens, known) -> one law per token, given the known tokens.

    Args:
        spec: Spec of the sequences.
        size: Kind and size of the trunk, and number of Gaussians per law.
        rank: Bound on the rank of the logits, or None.
        prefix: Whether token i sees only the known tokens before it.
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
        """The (n, N) laws of the tokens."""
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
    """An energy E(x) = |x'|^2 / 2 + sum_i F_i(x'), with x' the encoding of x.

    For token ids, the quadratic term is left out.

    Args:
        spec: Spec of the sequences.
        size: Kind and size of the trunk.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.continuous = spec.kind == "continuous"
        self.shown = ShownTokens(spec)
        self.trunk = trunk(spec, size, spec.dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The energies (nats) of sequences x, (n,)."""
        h = self.shown(x)
        energy: Tensor = self.trunk(h).flatten(1).sum(1)
        return energy + 0.5 * h.square().flatten(1).sum(1) if self.continuous else energy
