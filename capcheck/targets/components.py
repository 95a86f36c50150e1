"""Softmax over components: the attention layer behind every oracle of a mixture of products.

Evidence about the component of a row is a sum over its tokens, linear . mu_ci + quadratic . mu_ci^2
plus a constant of the row. Everything is computed in tiles of rows x components, with matrix
products and an online softmax, so that memory does not grow with rows x components.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TILE = 1 << 20  # numbers in one tile: 8 MiB in float64, small enough to stay near the cache
WIDTH = 2048  # components in one tile

Prefix = Literal["all", "before", "through"]
"""Whose evidence counts for token i: all tokens', that of the tokens before i, or through i."""


@dataclass(frozen=True)
class Evidence:
    """What n rows of tokens say about their component; shapes (n, N, d) and (n|1, N, d)."""

    linear: Tensor
    quadratic: Tensor

    def __getitem__(self, rows: slice) -> Evidence:
        shared = len(self.quadratic) == 1
        return Evidence(self.linear[rows], self.quadratic if shared else self.quadratic[rows])


class Components:
    """K weighted component means.

    Args:
        mu: (K, N, d), centred by the caller: expanding the square then loses fewest digits.
        log_weights: (K,), finite and normalised.
    """

    def __init__(self, mu: Tensor, log_weights: Tensor) -> None:
        self.mu = mu
        self._flat = mu.flatten(1)
        self._log_weights = log_weights

    def __len__(self) -> int:
        return len(self.mu)

    def log_mass(self, evidence: Evidence, prefix: Prefix = "all") -> Tensor:
        """Log of the summed evidence, (n, 1) for all tokens together or (n, N)."""
        return torch.cat(
            [
                self._log_sum(self.logits(evidence[rows], part, prefix) for part in self._parts())
                for rows in self._rows(evidence, self._heads(prefix))
            ]
        )

    def average(self, evidence: Evidence, prefix: Prefix = "all", power: int = 1) -> Tensor:
        """Posterior mean of mu_ci^power for every token i, by online softmax: (n, N, d)."""
        return torch.cat(
            [
                self._average(evidence[rows], prefix, power)
                for rows in self._rows(evidence, self._heads(prefix))
            ]
        )

    def mixture_log_mass(
        self, evidence: Evidence, own: Evidence, tokens: Sequence[int], prefix: Prefix
    ) -> Tensor:
        """Log of the evidence summed together with each token's own, separately: (n, tokens).

        Args:
            evidence: Of the row about its component, (n, N, d).
            own: Of each of `tokens` about its component, (n, tokens, d).
            tokens: Which tokens.
            prefix: Whose evidence counts.
        """
        chosen = list(tokens)
        keys = torch.cat([self.mu, self.mu.square()], -1)[:, chosen].permute(1, 2, 0)  # (S, 2d, K)
        shared = own.quadratic.expand_as(own.linear)
        queries = torch.cat([own.linear, shared], -1).transpose(0, 1)  # (S, n, 2d)

        def terms(rows: slice) -> Iterator[Tensor]:
            for part in self._parts():
                logits = self.logits(evidence[rows], part, prefix)  # (r, 1|N, c)
                logits = logits if prefix == "all" else logits[:, chosen]
                logits = logits.transpose(0, 1).expand(len(chosen), -1, -1)
                yield torch.baddbmm(logits, queries[:, rows], keys[:, :, part])

        heads = max(self._heads(prefix), len(chosen))
        parts = [self._log_sum(terms(rows)) for rows in self._rows(evidence, heads)]
        return torch.cat(parts, 1).T

    def posterior(
        self, evidence: Evidence, prefix: Prefix, heads: int = 1
    ) -> Iterator[tuple[slice, Tensor]]:
        """Tiles of rows with the normalised weights of all components, (r, 1|N, K).

        Args:
            evidence: Of the row about its component, (n, N, d).
            prefix: Whose evidence counts.
            heads: Numbers per row and component that the caller will hold at once.
        """
        for rows in self._rows(evidence, max(self._heads(prefix), heads), len(self)):
            yield rows, self.logits(evidence[rows], slice(None), prefix).softmax(-1)

    def logits(self, evidence: Evidence, part: slice, prefix: Prefix) -> Tensor:
        """Log-evidence of some components: (r, 1, c) for all tokens together or (r, N, c)."""
        if prefix == "all":
            mu = self._flat[part]
            logits = torch.addmm(self._log_weights[part], evidence.linear.flatten(1), mu.T)
            quadratic = evidence.quadratic.flatten(1)
            if len(quadratic) == 1:
                logits += quadratic @ mu.square().T
            else:
                logits.addmm_(quadratic, mu.square().T)
            return logits[:, None, :]
        of_tokens = _of_tokens(evidence, self.mu[part])
        through = of_tokens.cumsum(1)
        seen = through - of_tokens if prefix == "before" else through
        return seen + self._log_weights[part]

    def _average(self, evidence: Evidence, prefix: Prefix, power: int) -> Tensor:
        r, (_, N, d) = len(evidence.linear), self.mu.shape
        peak = mass = total = None
        for part in self._parts():
            logits = self.logits(evidence, part, prefix)  # (r, 1|N, c)
            values = self._flat[part].pow(power)
            highest = logits.amax(-1, keepdim=True)
            higher = highest if peak is None else torch.maximum(peak, highest)
            share = logits.sub_(higher).exp_()
            if prefix == "all":
                attended = (share[:, 0] @ values).reshape(r, N, d)
            else:
                attended = torch.einsum("rnc,cnd->rnd", share, values.reshape(-1, N, d))
            if peak is None or mass is None or total is None:
                mass, total = share.sum(-1, keepdim=True), attended
            else:
                decay = (peak - higher).exp_()
                mass = mass * decay + share.sum(-1, keepdim=True)
                total = total * decay + attended
            peak = higher
        assert total is not None
        assert mass is not None
        return total / mass

    def _log_sum(self, tiles: Iterator[Tensor]) -> Tensor:
        """Logsumexp over the last dimension of all tiles together; overwrites the tiles."""
        total: Tensor | None = None
        for tile in tiles:
            peak = tile.amax(-1)
            log_sum = tile.sub_(peak[..., None]).exp_().sum(-1).log_().add_(peak)
            total = log_sum if total is None else torch.logaddexp(total, log_sum)
        assert total is not None
        return total

    def _parts(self) -> Iterator[slice]:
        return _slices(len(self), WIDTH)

    def _heads(self, prefix: Prefix) -> int:
        return 1 if prefix == "all" else self.mu.shape[1]

    def _rows(self, evidence: Evidence, heads: int, width: int = WIDTH) -> Iterator[slice]:
        return _slices(len(evidence.linear), max(1, TILE // (min(width, len(self)) * heads)))


def _of_tokens(evidence: Evidence, mu: Tensor) -> Tensor:
    """Each token's own log-evidence about the components: (r, N, c)."""
    linear = torch.einsum("rnd,cnd->rnc", evidence.linear, mu)
    return linear + torch.einsum("rnd,cnd->rnc", evidence.quadratic, mu.square())


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
