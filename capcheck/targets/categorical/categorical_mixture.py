"""Categorical mixtures of products: p(x) = sum_c w_c prod_i p_ci(x_i) over integers.

Every conditional is an average of p_ci, weighted by a softmax over components of the sum of
log p_ci(x_i) over the known tokens. Three kinds of laws have this form: latent-class models (few
components with any p_ci), data sets (one component per row, p_ci(v) = (1 - smoothing) [v = x_ci] +
smoothing m_i(v) with the token's marginal law m_i), and tables or constraint sets (smoothing 0:
each component is a sequence, and its weight is the sequence's probability).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, one_hot

from capcheck.core.log_sums import log_sum_exp, softmax
from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.core.sequences import SequenceSpec
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import Categorical, DeferredCategorical, TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.categorical.categorical_components import (
    DenseProducts,
    ProductComponents,
    SmoothedRows,
    laws_of_tokens,
    token_ids,
)
from capcheck.targets.categorical.noisy_tokens import (
    add_noisy_evidence,
    noisy_laws,
    with_floor,
    without_own,
)
from capcheck.targets.categorical.sparse_evidence import SparseEvidence
from capcheck.targets.evidence import earlier
from capcheck.targets.fingerprint import fingerprint
from capcheck.targets.parameters import (
    mixture_weights,
    require_grid,
    require_precision,
    require_provenance,
    require_share,
)
from capcheck.targets.products import Products
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import CategoricalTarget
from capcheck.targets.tokens import require_tokens

__all__ = ["EVIDENCE", "MANY", "SUMMED", "TILE", "WEIGHTS", "CategoricalMixture"]

TILE = 1 << 20  # most numbers of an intermediate result
WEIGHTS = 1 << 24  # most weights of the components of all rows that are held: 128 MiB
EVIDENCE = 150.0  # time of a component's evidence of a token, in those of a large matrix product
MANY = 1e7  # fewest multiply-adds of all evidence that count
SUMMED = 5e10  # most multiply-adds for the sum over pairs of components: a few seconds


class CategoricalMixture(CategoricalTarget):
    """p(x) = sum_c w_c prod_i p_ci(x_i), in closed form.

    Args:
        probabilities: (K, N, V) float32 or float64, which is the precision of every computation;
            each p_ci sums to 1 up to rounding (it is normalised).
        weights: (K,) non-negative, not all zero; equal by default. They are normalised.
        grid: (rows, columns) of the tokens, if they have any.
        provenance: Where the parameters come from.

    Raises:
        InputError: A shape, a weight or a probability breaks these rules.

    Example:
        >>> copy = CategoricalMixture.of_rows(torch.tensor([[0, 0], [1, 1]]))
        >>> copy.log_prob(torch.tensor([[1, 1], [0, 1]])).exp().tolist()
        [0.5, 0.0]
    """

    def __init__(
        self,
        probabilities: Tensor,
        weights: Tensor | None = None,
        *,
        grid: tuple[int, int] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self._set(DenseProducts(probabilities), weights, grid)
        require_provenance(provenance)
        self.provenance = provenance or Provenance(
            description=f"mixture of {len(self._components)} products of categorical laws"
        )

    @classmethod
    def of_rows(
        cls,
        rows: Tensor,
        *,
        vocabulary: int | None = None,
        smoothing: float = 0.0,
        marginals: Tensor | None = None,
        weights: Tensor | None = None,
        grid: tuple[int, int] | None = None,
        provenance: Provenance | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> CategoricalMixture:
        """One component per row: the row itself, each token mixed with its marginal.

        Args:
            rows: (K, N) integers in 0..V-1 of any integer type, distinct if smoothing is 0.
            vocabulary: V; by default the largest integer plus 1.
            smoothing: Share of the marginal, at least 0 and below 1.
            marginals: (N, V) laws to mix with, each summing to 1 up to rounding; by default each
                token's own over the rows.
            weights: (K,) non-negative, not all zero; equal by default. They are normalised.
            grid: (rows, columns) of the tokens, if they have any.
            provenance: Where the rows come from.
            dtype: Precision of every computation, float32 or float64.

        Raises:
            InputError: An id, a law, a weight or a share breaks these rules, or N V is too large.
        """
        rows, V = token_ids(rows, vocabulary)
        smoothing = require_share("smoothing", smoothing)
        require_precision("dtype", dtype)
        N, wide = rows.shape[1], torch.zeros(rows.shape[1], V, dtype=torch.float64).to(rows.device)
        w = mixture_weights(weights, len(rows), wide)
        if marginals is None:
            laws = wide.scatter_add(1, rows.T, w.expand(N, -1))
        else:
            laws = laws_of_tokens(marginals, N, V).to(rows.device)
        self = cls.__new__(cls)
        self._set(SmoothedRows(rows, laws.to(dtype), smoothing), w, grid)
        require_provenance(provenance)
        self.provenance = provenance or Provenance(
            description=f"{len(self._components)} sequences of known probability",
            exactness="enumerated",
        )
        return self

    def _set(
        self, components: ProductComponents, weights: Tensor | None, grid: tuple[int, int] | None
    ) -> None:
        weights = mixture_weights(weights, len(components), components.marginals)
        kept = weights > 0
        self._components = components if bool(kept.all()) else components[kept]
        self._weights = weights[kept]
        self._sparse = None
        if isinstance(self._components, SmoothedRows) and self._components.is_sparse:
            self._sparse = SparseEvidence(self._components, self._weights)
        grid = require_grid(grid, components.marginals.shape[0])
        mean = self._unconditional()
        self._spec = SequenceSpec(
            tokens=mean.shape[0],
            kind="categorical",
            dim=mean.shape[1],
            mean=mean,
            variance=mean * (1 - mean),
            grid=grid,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._weights.dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._weights.device

    @property
    def weights(self) -> Tensor:
        """Normalised weights of the components of positive weight, (K,)."""
        return self._weights

    @property
    def conditional_cost(self) -> float:
        """That of the evidence of all tokens about all components, if these are many."""
        cost = EVIDENCE * len(self._components) * self._spec.tokens
        return cost if cost >= MANY else 0.0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters."""
        facts = (self._spec.grid, self._components.smoothing)
        parameters = (*self._components.parameters, self._weights)
        return fingerprint("categorical mixture", facts, parameters)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> CategoricalMixture:
        """The same law, computed elsewhere or in another precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        twin = type(self).__new__(type(self))
        components = self._components.to(torch.device(device), dtype)
        twin._set(components, self._weights.to(device, dtype), self._spec.grid)
        twin.provenance = self.provenance
        return twin

    def products(self) -> Products:
        """The components of the law; see `Products`."""

        def law(component: Tensor) -> Categorical:
            return Categorical(self._components.table(component).permute(2, 0, 1).log())

        def log_likelihood(x: Tensor, tokens: list[int]) -> Tensor:
            log_p = x.new_zeros(len(x), len(self._components), dtype=self.dtype)
            for part in self._parts():
                table = self._components.table(part).log()  # (N, V, c)
                for column, i in enumerate(tokens):
                    log_p[:, part] += table[i][x[:, column]]
            return log_p

        return Products(
            log_weights=self._weights.log()[None], law=law, log_likelihood=log_likelihood
        )

    def support(self) -> tuple[Tensor, Tensor] | None:
        """The rows without smoothing, which are distinct; see `CategoricalTarget`."""
        components = self._components
        if not isinstance(components, SmoothedRows) or components.smoothing > 0:
            return None
        return components.parameters[0].long(), self._weights.log()

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its tokens: (n, N) integers."""
        component = rng.categorical(self._weights, (n,))
        u = rng.uniform((n, self._spec.tokens))
        draws = torch.empty(n, self._spec.tokens, dtype=torch.int64, device=self.device)
        for rows in slices(n, max(1, tile_size(TILE, self.device) // self._spec.mean.numel())):
            p = self._components.table(component[rows])  # (N, V, r)
            draws[rows] = inverse_cdf(p.permute(2, 0, 1), u[rows][..., None])[..., 0]
        return draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of x (n, N), in nats: (n,); -inf off the support."""
        require_tokens(self.spec, x)
        everything = torch.ones_like(x, dtype=torch.bool)
        return self._log_sum(x.long(), everything)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones; see `Target`."""
        require_tokens(self.spec, x, levels)
        x, known = x.long(), levels == 0

        def make(tokens: list[int]) -> Categorical:
            average = self._causal_average if causal else self._average
            p = average(x, known, tokens)  # (n, S, V)
            if not causal:
                certain = one_hot(torch.where(known, x, 0)[:, tokens], self._spec.dim).to(p)
                p = torch.where(known[:, tokens, None], certain, p)
            return Categorical(p.log())

        return DeferredCategorical(make, range(self._spec.tokens))

    def noisy_marginals(self, x: Tensor, keep: Tensor) -> DeferredCategorical:
        """By the posterior of the components given all tokens; see `CategoricalTarget`."""
        x, floor = with_floor(self._spec, x, keep)
        components, log_w = self._components, self._weights.log()

        def others(tokens: list[int]) -> Tensor:
            parts = []
            for rows in slices(len(x), max(1, tile_size(TILE, self.device) // len(log_w))):
                logits = log_w.repeat(len(x[rows]), 1)
                add_noisy_evidence(components, logits, x[rows], floor[rows])
                impossible = logits.isneginf().all(1, keepdim=True)
                share = softmax(torch.where(impossible, log_w, logits))
                parts.append(without_own(components, share, x[rows], floor[rows], tokens))
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return noisy_laws(others, x, floor)

    def one_by_one(self, x: Tensor) -> Iterator[TokenLaw]:
        """From the weights of the components, to which every token adds; see `Target`."""
        if self._sparse is not None or len(x) * len(self._components) > WEIGHTS:
            yield from super().one_by_one(x)
            return
        log_w = self._weights.log().expand(len(x), -1)  # (n, K)
        for i in range(self._spec.tokens):
            p = self._components.of_token(i)  # (V, K)
            impossible = log_w.isneginf().all(1, keepdim=True)
            share = softmax(torch.where(impossible, 0, log_w))
            law = torch.where(impossible, self._spec.mean[i], share @ p.T)
            yield Categorical(law.log()[:, None])
            log_w = log_w + p.log()[x[:, i].long()]

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E exp(-H(x, Y) / bandwidth^2) over the target's Y, with H differing tokens: (n,)."""
        floor = torch.tensor(-1 / bandwidth**2, dtype=torch.float64).exp().item()
        everything = torch.ones_like(x, dtype=torch.bool)
        return self._log_sum(x.long(), everything, floor).exp()

    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """E exp(-H(Y, Y') / bandwidth^2) over independent Y and Y', or None if too large."""
        K = len(self._components)
        if K**2 * self._spec.mean.numel() > SUMMED:
            return None
        floor = torch.tensor(-1 / bandwidth**2, dtype=torch.float64).exp().item()
        total = 0.0
        for part in self._parts():
            for other in self._parts():
                p, q = self._components.table(part), self._components.table(other)
                kernel = (floor + (1 - floor) * (p.transpose(1, 2) @ q)).prod(0)  # (c, c')
                total += float(
                    self._weights[part] @ kernel.to(self._weights) @ self._weights[other]
                )
        return total

    def _log_sum(self, x: Tensor, known: Tensor, floor: float = 0.0) -> Tensor:
        """Log of the summed evidence of the known tokens, (n,), over floor + (1 - floor) p."""
        if self._sparse is not None:
            return self._sparse.log_sum(x, known, floor)
        total = torch.full((len(x),), -torch.inf, dtype=self.dtype, device=self.device)
        for rows, part, _ in self._tiles(len(x), 1):
            table = (floor + (1 - floor) * self._components.table(part)).log()
            logits = self._logits(x[rows], known[rows], table) + self._weights[part].log()
            total[rows] = torch.logaddexp(total[rows], log_sum_exp(logits))
        return total

    def _average(self, x: Tensor, known: Tensor, tokens: list[int]) -> Tensor:
        """Posterior mean of p_ci for some tokens, (n, S, V), by online softmax."""
        if self._sparse is not None:
            return self._sparse.average(x, known, tokens)
        n, S, V = len(x), len(tokens), self._spec.dim
        peak = torch.full((n, 1), -torch.inf, dtype=self.dtype, device=self.device)
        mass, total = torch.zeros_like(peak), peak.new_zeros(n, S * V)
        for rows, part, p in self._tiles(n, 1):
            logits = self._logits(x[rows], known[rows], p.log()) + self._weights[part].log()
            higher = torch.maximum(peak[rows], logits.amax(1, keepdim=True))
            shift = torch.where(higher.isinf(), 0, higher)
            share, decay = (logits - shift).exp(), (peak[rows] - shift).exp()
            peak[rows] = higher
            mass[rows] = mass[rows] * decay + share.sum(1, keepdim=True)
            total[rows] = total[rows] * decay + share @ p[tokens].reshape(S * V, -1).T
        average = torch.where(mass > 0, total / mass, self._spec.mean[tokens].flatten())
        return average.reshape(n, S, V)

    def _causal_average(self, x: Tensor, known: Tensor, tokens: list[int]) -> Tensor:
        """Posterior mean of p_ci for some tokens given the known tokens before each, (n, S, V)."""
        if self._sparse is not None:
            return self._sparse.causal_average(x, known, tokens)
        n, N, V = len(x), self._spec.tokens, self._spec.dim
        peak = torch.full((n, N, 1), -torch.inf, dtype=self.dtype, device=self.device)
        mass, total = torch.zeros_like(peak), peak.new_zeros(n, N, V)
        for rows, part, p in self._tiles(n, N):
            index = _index(x[rows], known[rows], V)
            of_tokens = _padded(p.log())[index]  # (r, N, c)
            logits = earlier(of_tokens).cumsum(1) + self._weights[part].log()
            higher = torch.maximum(peak[rows], logits.amax(2, keepdim=True))
            shift = torch.where(higher.isinf(), 0, higher)
            share, decay = (logits - shift).exp(), (peak[rows] - shift).exp()
            peak[rows] = higher
            mass[rows] = mass[rows] * decay + share.sum(2, keepdim=True)
            total[rows] = total[rows] * decay + torch.einsum("rnc,nvc->rnv", share, p)
        return torch.where(mass > 0, total / mass, self._spec.mean)[:, tokens]

    def _logits(self, x: Tensor, known: Tensor, log_table: Tensor) -> Tensor:
        """Sum of log p_ci(x_i) over the known tokens: (r, c)."""
        index = _index(x, known, self._spec.dim)
        return embedding_bag(index, _padded(log_table), mode="sum")

    def _unconditional(self) -> Tensor:
        """(N, V) marginal law of each token."""
        mean = torch.zeros_like(self._components.marginals)
        for part in self._parts():
            mean += self._components.table(part) @ self._weights[part]
        return mean

    def _tiles(self, n: int, heads: int) -> Iterator[tuple[slice, slice, Tensor]]:
        for part in self._parts():
            p = self._components.table(part)  # (N, V, c)
            for rows in slices(n, max(1, tile_size(TILE, self.device) // (p.shape[2] * heads))):
                yield rows, part, p

    def _parts(self) -> Iterator[slice]:
        size = max(16, tile_size(TILE, self.device) // self._components.marginals.numel())
        return slices(len(self._components), size)


def _index(x: Tensor, known: Tensor, V: int) -> Tensor:
    """Index into a padded table of each token's value, or of the padding if unknown: (n, N)."""
    N = x.shape[1]
    place = torch.arange(N, device=x.device) * V
    return torch.where(known, x + place, N * V)


def _padded(log_table: Tensor) -> Tensor:
    """Log-probabilities (N, V, c) as a table (N V + 1, c) with a last row 0 for unknown tokens."""
    flat = log_table.flatten(0, 1)
    return torch.cat([flat, torch.zeros_like(flat[:1])])
