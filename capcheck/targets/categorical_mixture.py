"""Categorical mixtures of products: p(x) = sum_c w_c prod_i p_ci(x_i) over integers.

Every conditional is a softmax over components, whose evidence is a sum of log p_ci(x_i) over the
known tokens, followed by an average of p_ci. Three laws are of this kind: latent-class models (few
components, any p_ci); data sets (a component per row, p_ci = (1 - smoothing) [v = x_ci] +
smoothing m_i(v) with the token's marginal m_i); and explicit tables or constraint sets (smoothing
0: a component is a sequence and its weight its probability).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, one_hot

from capcheck.errors import InputError
from capcheck.laws import Categorical, DeferredCategorical
from capcheck.paths import PATHS, NoisePath
from capcheck.randomness import Randomness, inverse_cdf
from capcheck.sequences import SequenceSpec
from capcheck.targets.components import earlier
from capcheck.targets.target import (
    CategoricalTarget,
    Provenance,
    fingerprint,
    require_grid,
    require_weights,
)

TILE = 1 << 20  # numbers held at once per intermediate result
SUMMED = 5e10  # multiply-adds up to which all pairs of components are summed: a few seconds


_Soften = Callable[[Tensor], Tensor]


class CategoricalMixture(CategoricalTarget):
    """p(x) = sum_c w_c prod_i p_ci(x_i), in closed form.

    Args:
        probabilities: (K, N, V), each p_ci summing to 1 up to rounding (it is normalised).
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
        _require_probabilities(probabilities)
        self._set(_Dense(probabilities / probabilities.sum(-1, keepdim=True)), weights, grid)
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
            rows: (K, N) integers in 0..V-1, distinct if smoothing is 0.
            vocabulary: V; by default the largest integer plus 1.
            smoothing: Share of the marginal, at least 0 and below 1.
            marginals: (N, V) laws to mix with; by default each token's own over the rows.
            weights: (K,) non-negative, not all zero; equal by default. They are normalised.
            grid: (rows, columns) of the tokens, if they have any.
            provenance: Where the rows come from.
            dtype: Precision of every computation.
        """
        _require_rows(rows, vocabulary)
        if not 0 <= smoothing < 1:
            raise InputError(f"smoothing must be at least 0 and below 1, got {smoothing!r}.")
        V = int(rows.max()) + 1 if vocabulary is None else vocabulary
        if weights is None:
            weights = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
        w = require_weights(weights.to(rows.device, torch.float64), len(rows))
        if marginals is None:
            marginals = torch.zeros(rows.shape[1], V, dtype=torch.float64, device=rows.device)
            marginals.scatter_add_(1, rows.T, w.expand(rows.shape[1], -1))
        elif tuple(marginals.shape) != (rows.shape[1], V):
            raise InputError(
                f"marginals must have shape {(rows.shape[1], V)}, got {tuple(marginals.shape)}."
            )
        self = cls.__new__(cls)
        self._set(_Smoothed(rows, marginals.to(dtype), smoothing), w, grid)
        self.provenance = provenance or Provenance(
            description=f"{len(self._components)} sequences of known probability",
            exactness="enumerated",
        )
        return self

    def _set(
        self, components: _Components, weights: Tensor | None, grid: tuple[int, int] | None
    ) -> None:
        ones = components.marginals.new_ones(len(components))
        weights = require_weights(ones if weights is None else weights.to(ones), len(components))
        kept = weights > 0
        self._components = components if bool(kept.all()) else components[kept]
        self._weights = weights[kept]
        require_grid(grid, components.marginals.shape[0])
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
    def spec(self) -> SequenceSpec:
        """Number and vocabulary of the tokens, and their marginal laws."""
        return self._spec

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
        """(K,) normalised weights of the components that have any."""
        return self._weights

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

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its tokens: (n, N) integers."""
        component = rng.categorical(self._weights, (n,))
        u = rng.uniform((n, self._spec.tokens))
        draws = torch.empty(n, self._spec.tokens, dtype=torch.int64, device=self.device)
        for rows in _slices(n, max(1, TILE // self._spec.mean.numel())):
            p = self._components.table(component[rows])  # (N, V, r)
            draws[rows] = inverse_cdf(p.permute(2, 0, 1), u[rows][..., None])[..., 0]
        return draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of x (n, N), in nats: (n,); -inf off the support."""
        self._require(x)
        everything = torch.ones_like(x, dtype=torch.bool)
        return self._log_sum(x, everything, lambda p: p)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones; see `Target`."""
        self._require(x, levels)
        known = levels == 0

        def make(tokens: list[int]) -> Categorical:
            average = self._causal_average if causal else self._average
            p = average(x, known, tokens)  # (n, S, V)
            if not causal:
                certain = one_hot(torch.where(known, x, 0)[:, tokens], self._spec.dim).to(p)
                p = torch.where(known[:, tokens, None], certain, p)
            return Categorical(p.log())

        return DeferredCategorical(make, range(self._spec.tokens))

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E exp(-H(x, Y) / bandwidth^2) over the target's Y, with H differing tokens: (n,)."""
        floor = torch.tensor(-1 / bandwidth**2, dtype=torch.float64).exp().item()
        everything = torch.ones_like(x, dtype=torch.bool)
        return self._log_sum(x, everything, lambda p: floor + (1 - floor) * p).exp()

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

    def _log_sum(self, x: Tensor, known: Tensor, soften: _Soften) -> Tensor:
        """Log of the summed evidence of the known tokens, (n,), over softened probabilities."""
        total = torch.full((len(x),), -torch.inf, dtype=self.dtype, device=self.device)
        for rows, part, _ in self._tiles(len(x), 1):
            table = soften(self._components.table(part)).log()
            logits = self._logits(x[rows], known[rows], table) + self._weights[part].log()
            total[rows] = torch.logaddexp(total[rows], logits.logsumexp(1))
        return total

    def _average(self, x: Tensor, known: Tensor, tokens: list[int]) -> Tensor:
        """Posterior mean of p_ci for some tokens, (n, S, V), by online softmax."""
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
        """The same with the evidence of the tokens before each only: (n, S, V)."""
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
            for rows in _slices(n, max(1, TILE // (p.shape[2] * heads))):
                yield rows, part, p

    def _parts(self) -> Iterator[slice]:
        size = max(16, TILE // self._components.marginals.numel())
        return _slices(len(self._components), size)


class _Components(ABC):
    """K products of categorical laws.

    Attributes:
        marginals: (N, V) in the precision of every computation.
        smoothing: Share of the marginal in each law, where they are rows of data.
    """

    marginals: Tensor
    smoothing: float = 0.0

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """What they are made from."""

    @abstractmethod
    def table(self, part: slice | Tensor) -> Tensor:
        """Probabilities of some components, (N, V, c)."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> _Components:
        """The same elsewhere or in another precision."""

    @abstractmethod
    def __getitem__(self, kept: Tensor) -> _Components: ...

    @abstractmethod
    def __len__(self) -> int: ...


class _Dense(_Components):
    """Any probabilities (K, N, V)."""

    def __init__(self, p: Tensor) -> None:
        self._p = p
        self.marginals = p[0]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self._p,)

    def table(self, part: slice | Tensor) -> Tensor:
        return self._p[part].permute(1, 2, 0)

    def to(self, device: torch.device, dtype: torch.dtype) -> _Dense:
        return _Dense(self._p.to(device, dtype))

    def __getitem__(self, kept: Tensor) -> _Dense:
        return _Dense(self._p[kept])

    def __len__(self) -> int:
        return len(self._p)


class _Smoothed(_Components):
    """Rows (K, N), each token mixed with its marginal."""

    def __init__(self, rows: Tensor, marginals: Tensor, smoothing: float) -> None:
        self._rows = rows
        self.marginals = marginals
        self.smoothing = smoothing

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self._rows, self.marginals

    def table(self, part: slice | Tensor) -> Tensor:
        rows = self._rows[part].T[:, None]  # (N, 1, c)
        table = (self.smoothing * self.marginals)[..., None].repeat(1, 1, rows.shape[2])
        own = table.new_full((), 1 - self.smoothing).expand(rows.shape)
        return table.scatter_add_(1, rows, own)

    def to(self, device: torch.device, dtype: torch.dtype) -> _Smoothed:
        return _Smoothed(self._rows.to(device), self.marginals.to(device, dtype), self.smoothing)

    def __getitem__(self, kept: Tensor) -> _Smoothed:
        return _Smoothed(self._rows[kept], self.marginals, self.smoothing)

    def __len__(self) -> int:
        return len(self._rows)


def _index(x: Tensor, known: Tensor, V: int) -> Tensor:
    """Rows of a padded table that hold each token's value: (n, N)."""
    N = x.shape[1]
    place = torch.arange(N, device=x.device) * V
    return torch.where(known, x + place, N * V)


def _padded(log_table: Tensor) -> Tensor:
    """Log-probabilities (N, V, c) as (N V + 1, c), with 0 for an unknown token at the end."""
    flat = log_table.flatten(0, 1)
    return torch.cat([flat, torch.zeros_like(flat[:1])])


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _require_probabilities(p: Tensor) -> None:
    if p.dim() != 3 or p.numel() == 0 or not p.is_floating_point():
        raise InputError(
            "probabilities must be floating-point numbers of shape (components, tokens, "
            f"vocabulary), none of them 0, got {p.dtype} of {tuple(p.shape)}."
        )
    if not bool((p.isfinite() & (p >= 0)).all()):
        raise InputError("probabilities must be finite and not negative; repair them.")
    off = float((p.sum(-1) - 1).abs().max())
    if not off < 1e-4:
        raise InputError(
            f"probabilities must sum to 1 over the vocabulary, got a sum that is off by {off:.3g}; "
            "normalise them."
        )


def _require_rows(rows: Tensor, vocabulary: int | None) -> None:
    if rows.dim() != 2 or rows.numel() == 0 or rows.is_floating_point() or rows.is_complex():
        raise InputError(
            "rows must be integers of shape (rows, tokens), none of them 0, "
            f"got {rows.dtype} of {tuple(rows.shape)}."
        )
    if int(rows.min()) < 0:
        raise InputError(f"rows must hold token ids of at least 0, got {int(rows.min())}.")
    if vocabulary is not None and int(rows.max()) >= vocabulary:
        raise InputError(
            f"rows must hold token ids below the vocabulary {vocabulary}, got {int(rows.max())}."
        )
