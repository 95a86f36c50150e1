"""Softmax over components: the computation behind every oracle of a Gaussian product mixture.

The log-evidence of a row about component c is a sum over tokens of linear . mu_ci + quadratic .
mu_ci^2, plus a constant of the row. Components are read once per call, in parts that are centred
and converted on the fly. Rows and components are combined in tiles, by matrix products and an
online softmax, so that memory grows neither with rows x components nor with the components.

In float32 the expanded square loses the digits that distinguish near components. The `REFINED`
largest logits of every row are therefore computed again in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from capcheck.core.log_sums import exp_, log_sum_exp, softmax
from capcheck.core.tiles import slices, tile_size
from capcheck.core.weighted import add_weighted_sums_, weighted_sums
from capcheck.targets.evidence import Evidence, Prefix
from capcheck.targets.largest_logits import LargestLogits
from capcheck.targets.means import Means

__all__ = ["NEGLIGIBLE", "PRODUCTS", "REFINED", "TILE", "WIDTH", "Components"]

TILE = 1 << 19  # most numbers in a tile: 4 MiB in float64, small enough for the cache
WIDTH = 2048  # most components in a part
PRODUCTS = 3  # tiles that products of coordinates and their weights may fill
REFINED = 16  # logits per row that are computed again in float64
NEGLIGIBLE = 1e-5  # share of the softmax below which its unrefined rest counts as 0


class Components:
    """K weighted component means.

    Args:
        means: Means, (K, N, d).
        centre: Centre, (N, d) float64, subtracted when parts are read, because expanding the square
            around the centre loses the fewest digits.
        log_weights: Finite, normalised log-weights, (K,), in the precision of all large products.

    Attributes:
        log_weights: The log-weights, (K,).
        centre: The centre, (N, d).
        tile: Most numbers in a tile.
    """

    def __init__(self, means: Means, centre: Tensor, log_weights: Tensor) -> None:
        self._means = means
        self.centre = centre
        self.log_weights = log_weights
        self.dtype = log_weights.dtype
        self.tile = tile_size(TILE, means.device)

    def __len__(self) -> int:
        return len(self._means)

    def centred(self, part: slice | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """The centred means of some components, (c, N, d)."""
        means = self._means[part]
        if dtype == means.dtype:
            return means - self.centre.to(dtype)
        return (means.to(torch.float64) - self.centre).to(dtype)

    def of_tokens(self, tokens: Sequence[int], component: Tensor | None = None) -> Tensor:
        """Centred means of some tokens: of all components (K, S, d), or of one each (n, S, d)."""
        column = torch.tensor(list(tokens), device=self._means.device)
        means = self._means.of_tokens(column, slice(None) if component is None else component)
        return means.to(torch.float64) - self.centre[column]

    def of_components(self, component: Tensor, token: Tensor) -> Tensor:
        """Centred means of k components of one token in each row: (n, k, d).

        Args:
            component: Indices of the components, (n, k).
            token: Index of the token in each row, (n,).
        """
        means = self._means.at(component, token[:, None])
        return means - self.centre[token][:, None]

    def log_mass(self, evidence: Evidence, prefix: Prefix = "all") -> Tensor:
        """Log of the summed evidence, (n, 1) for all tokens together or (n, N), in float64."""
        return self._attend(evidence, prefix, ())[0]

    def average(
        self, evidence: Evidence, prefix: Prefix = "all", tokens: Sequence[int] | None = None
    ) -> Tensor:
        """Posterior mean of the centred mu_ci of some tokens i, or of all: (n, S, d)."""
        average = self._attend(evidence, prefix, (1,), tokens)[1]
        assert average is not None
        return average

    def log_mass_and_average(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """`log_mass` and `average` of all tokens together, in the time of the latter."""
        log_mass, average = self._attend(evidence, "all", (1,))
        assert average is not None
        return log_mass, average

    def moments(
        self, evidence: Evidence, prefix: Prefix = "all", tokens: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Posterior means of the centred mu_ci and of their squares: twice (n, S, d)."""
        both = self._attend(evidence, prefix, (1, 2), tokens)[1]
        assert both is not None
        first, second = both.chunk(2, -1)
        return first, second

    def shares(
        self, evidence: Evidence, prefix: Prefix, tokens: list[int]
    ) -> Iterator[tuple[slice, Tensor]]:
        """Larger tiles of rows with the weights of all components in float64, (r, 1|S, K).

        Args:
            evidence: Evidence of the row about its component, (n, N, d), in float64.
            prefix: Tokens whose evidence enters.
            tokens: Indices of the S tokens to return if each token has weights of its own.
        """
        held = max(1, PRODUCTS * self.tile // (len(self) * self._heads(prefix)))
        for rows in slices(len(evidence), held):
            logits = self._all_logits(evidence[rows], prefix, tokens)
            yield rows, softmax(logits)

    def mixture_log_mass(
        self, evidence: Evidence, own: Evidence, tokens: Sequence[int], prefix: Prefix
    ) -> Tensor:
        """Log of the summed evidence of the row and each token's own, per token: (n, tokens).

        Args:
            evidence: Evidence of the row about its component, (n, N, d).
            own: Additional evidence of each of `tokens`, (n, tokens, d).
            tokens: Indices of the tokens.
            prefix: Tokens whose evidence enters.
        """
        chosen, n = list(tokens), len(evidence)
        shared = own.quadratic.expand_as(own.linear)
        queries = torch.cat([own.linear, shared], -1).transpose(0, 1)  # (S, n, 2d)
        heads = max(self._heads(prefix), len(chosen))
        total = torch.full((len(chosen), n), -torch.inf, dtype=torch.float64)
        total = total.to(evidence.linear.device)
        for part in self._parts():
            mu = self.centred(part)
            keys = torch.cat([mu, mu.square()], -1)[:, chosen].permute(1, 2, 0)  # (S, 2d, c)
            for rows in self._rows(n, heads * len(mu)):
                logits = self._logits(evidence[rows], mu, part, prefix, chosen)  # (r, 1|S, c)
                logits = logits.transpose(0, 1).expand(len(chosen), -1, -1)
                joint = log_sum_exp(torch.baddbmm(logits, queries[:, rows], keys))
                total[:, rows] = torch.logaddexp(total[:, rows], joint)
        return total.T

    def posterior(
        self, evidence: Evidence, prefix: Prefix, heads: int = 1
    ) -> Iterator[tuple[slice, Tensor]]:
        """Tiles of rows with the normalised weights of all components, (r, 1|N, K).

        Args:
            evidence: Evidence of the row about its component, (n, N, d).
            prefix: Tokens whose evidence enters.
            heads: Numbers per row and component that the caller holds at once.
        """
        for rows in self._rows(len(evidence), len(self) * max(self._heads(prefix), heads)):
            tile = evidence[rows]
            if prefix != "all" or self.dtype == torch.float64:
                yield rows, softmax(self._all_logits(tile, prefix))
                continue
            coarse = tile.to(self.dtype)
            parts = [
                self._logits(coarse, self.centred(part, self.dtype), part, prefix)[:, 0]
                for part in self._parts()
            ]
            logits = torch.cat(parts, -1)
            best = logits.topk(min(REFINED, len(self)), -1, sorted=False).indices
            refined = logits.double().scatter_(-1, best, self._refined(tile, best)[0])
            yield rows, softmax(refined)[:, None]

    def log_posterior(self, evidence: Evidence, prefix: Prefix, tokens: Sequence[int]) -> Tensor:
        """Log-weights of all components, not normalised, in float64: (n, 1|S, K).

        Args:
            evidence: Evidence of the row about its component, (n, N, d).
            prefix: Tokens whose evidence enters.
            tokens: Indices of the S tokens to return if each token has weights of its own.
        """
        return self._all_logits(evidence, prefix, tokens)

    def _all_logits(
        self, evidence: Evidence, prefix: Prefix, tokens: Sequence[int] | None = None
    ) -> Tensor:
        """Log-evidence of all components in float64: (n, 1, K), or (n, S, K) of some tokens."""
        if prefix == "all" and evidence.logits is not None:
            return evidence.logits[:, None]
        parts = []
        for part in self._parts():
            parts.append(self._logits(evidence, self.centred(part), part, prefix, tokens))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def _logits(
        self,
        evidence: Evidence,
        mu: Tensor,
        part: slice,
        prefix: Prefix,
        tokens: Sequence[int] | None = None,
    ) -> Tensor:
        """Log-evidence of some components: (r, 1, c) for all tokens together, or (r, S, c)."""
        log_weights = self.log_weights[part].to(mu.dtype)
        if prefix == "all" and evidence.logits is not None:
            return evidence.logits[:, None, part]
        if prefix == "all":
            constant = self._constant(evidence, mu, part)
            logits = torch.addmm(constant, evidence.linear.flatten(1), mu.flatten(1).T)
            if len(evidence.quadratic) > 1:
                logits.addmm_(evidence.quadratic.flatten(1), mu.flatten(1).square().T)
            return logits[:, None, :]
        heads, own = list(range(mu.shape[1]) if tokens is None else tokens), prefix == "through"
        shared = evidence.quadratic.expand_as(evidence.linear)
        queries, keys = torch.cat([evidence.linear, shared], -1), torch.cat([mu, mu.square()], -1)
        found = mu.new_empty(len(heads), len(queries), len(mu))
        sums, start = log_weights.expand(len(queries), -1), 0
        for i in sorted(range(len(heads)), key=heads.__getitem__):  # the sums grow by the tokens
            new = slice(start, heads[i] + own)
            start = new.stop
            sums = torch.addmm(
                sums, queries[:, new].flatten(1), keys[:, new].flatten(1).T, out=found[i]
            )
        return found.transpose(0, 1)

    def _constant(self, evidence: Evidence, mu: Tensor, part: slice) -> Tensor:
        """The part of the log-evidence of some components that all rows share, (c,)."""
        log_weights = self.log_weights[part].to(mu.dtype)
        if len(evidence.quadratic) > 1:
            return log_weights
        return torch.addmv(log_weights, mu.flatten(1).square(), evidence.quadratic.flatten())

    def _attend(
        self,
        evidence: Evidence,
        prefix: Prefix,
        powers: Sequence[int],
        tokens: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Log-mass in float64, and the averages of powers of mu side by side, by online softmax.

        Returns:
            The log-mass, (n, 1) or one for each of S tokens (n, S), and the averages
            (n, S, powers x d), or None without powers.
        """
        coarse = prefix == "all" and self.dtype != torch.float64
        dtype = self.dtype if coarse else torch.float64
        N, d = self.centre.shape
        chosen = None if tokens is None else list(tokens)
        S = N if chosen is None else len(chosen)
        n, heads, device = len(evidence), self._heads(prefix, chosen), evidence.linear.device
        peak = torch.full((n, heads, 1), -torch.inf, dtype=dtype, device=device)
        mass = torch.zeros_like(peak)
        width = len(powers) * d
        total = torch.zeros(n, S, width, dtype=dtype, device=device) if powers else None
        best = LargestLogits(peak[:, 0], min(REFINED, len(self))) if coarse else None
        given = evidence.to(dtype)
        for part in self._parts():
            mu = self.centred(part, dtype)
            values = _powers(mu, powers, chosen)  # (c, S, powers x d)
            for rows in self._rows(n, heads * len(mu)):
                logits = self._logits(given[rows], mu, part, prefix, chosen)  # (r, 1|S, c)
                highest = logits.amax(-1, keepdim=True)
                if best is not None:
                    best.add(rows, logits[:, 0], highest[:, 0, 0], part.start)
                higher = torch.maximum(peak[rows], highest)
                decay = (peak[rows] - higher).exp_()
                held = prefix == "all" and given.logits is not None
                share = exp_(logits - higher if held else logits.sub_(higher))
                peak[rows] = higher
                mass[rows] = mass[rows] * decay + share.sum(-1, keepdim=True)
                if total is None:
                    continue
                total[rows] *= decay
                if prefix == "all":
                    add_weighted_sums_(total[rows].flatten(1), share[:, 0], values.flatten(1))
                else:
                    sums = weighted_sums(share.transpose(0, 1), values.transpose(0, 1))
                    total[rows] += sums.transpose(0, 1)
        if best is not None:
            return self._refine(evidence, best, peak, mass, total, powers, chosen)
        log_mass = (peak + mass.log())[..., 0]
        return log_mass, None if total is None else total.div_(mass)

    def _refine(
        self,
        evidence: Evidence,
        best: LargestLogits,
        peak: Tensor,
        mass: Tensor,
        total: Tensor | None,
        powers: Sequence[int],
        chosen: list[int] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Replace the contribution of the largest logits by that of their float64 values."""
        n = len(evidence)
        log_mass = torch.empty(n, 1, dtype=torch.float64, device=peak.device)
        N, d = self.centre.shape
        for rows in self._rows(n, 8 * REFINED * N * d):  # a small tile: it is held several times
            logits, mu = self._refined(evidence[rows], best.index[rows])  # (r, 16), (r, 16, N, d)
            old = (best.value[rows] - peak[rows][:, 0]).double().exp()
            rest = (mass[rows][:, 0].double() - old.sum(1, keepdim=True)).clamp(min=0)
            rest = torch.where(rest < NEGLIGIBLE * mass[rows][:, 0], 0, rest)
            highest = logits.amax(1, keepdim=True)
            new = (logits - highest).exp()
            scale = (peak[rows][:, 0].double() - highest).clamp(max=0).exp()
            whole = rest * scale + new.sum(1, keepdim=True)
            log_mass[rows] = highest + whole.log()
            if total is not None:
                values = _powers(mu, powers, chosen)
                others = total[rows].double() - torch.einsum("rk,rknd->rnd", old, values)
                others = torch.where(rest[..., None] > 0, others, 0) * scale[..., None]
                sharp = torch.einsum("rk,rknd->rnd", new, values)
                total[rows] = ((others + sharp) / whole[..., None]).to(total)
        return log_mass, total

    def _refined(self, evidence: Evidence, index: Tensor) -> tuple[Tensor, Tensor]:
        """Float64 logits of the components chosen for each row, (r, k), and their means."""
        mu = self.centred(index.reshape(-1)).reshape(*index.shape, *self.centre.shape)
        linear, quadratic = evidence.linear[:, None], evidence.quadratic[:, None]
        logits = (mu * (linear + quadratic * mu)).sum((2, 3))
        return logits + self.log_weights[index].double(), mu

    def _heads(self, prefix: Prefix, tokens: Sequence[int] | None = None) -> int:
        if prefix == "all":
            return 1
        return len(self.centre) if tokens is None else len(tokens)

    def _parts(self) -> Iterator[slice]:
        width = tile_size(WIDTH, self._means.device)
        return slices(len(self), min(width, max(REFINED, self.tile // self.centre.numel())))

    def _rows(self, n: int, per_row: int) -> Iterator[slice]:
        return slices(n, max(1, self.tile // per_row))


def _powers(mu: Tensor, powers: Sequence[int], tokens: list[int] | None) -> Tensor:
    """Powers of the means (..., N, d) of some tokens, side by side: (..., S, powers x d)."""
    mu = mu if tokens is None else mu[..., tokens, :]
    if powers == (1,):
        return mu
    return torch.cat([mu[..., :0], *(mu.pow(power) for power in powers)], -1)
