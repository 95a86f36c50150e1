"""The components of a categorical mixture: K products of N laws p_ci(v) of a token.

Components are either arbitrary probabilities (`DenseProducts`), or rows of data x_c mixed with the
marginal laws m_i, p_ci(v) = (1 - lambda) [v = x_ci] + lambda m_i(v) (`SmoothedRows`), which are
never all held at once. Probabilities that are negative, not finite or do not sum to 1, and ids
outside 0..V-1, are refused.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError
from capcheck.targets.categorical.symbol_index import SymbolIndex
from capcheck.targets.parameters import require_count, require_reals, require_tensor

__all__ = [
    "LARGEST",
    "DenseProducts",
    "ProductComponents",
    "SmoothedRows",
    "laws_of_tokens",
    "require_held",
    "token_ids",
]

LARGEST = 1 << 20  # most numbers N V of the marginal laws of a sequence


class ProductComponents(ABC):
    """K products of categorical laws.

    Attributes:
        marginals: Laws (N, V) whose shape and precision the components have; of smoothed rows, the
            laws that are mixed in.
        smoothing: Share lambda of the marginal law in each component; 0 for dense products.
    """

    marginals: Tensor
    smoothing: float = 0.0

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """Tensors that determine the components."""

    @abstractmethod
    def table(self, part: slice | Tensor) -> Tensor:
        """Probabilities of some components, (N, V, c)."""

    @abstractmethod
    def of_token(self, token: int) -> Tensor:
        """Probabilities of one token in all components, (V, K)."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> ProductComponents:
        """The same components on a device and in a precision."""

    @abstractmethod
    def __getitem__(self, kept: Tensor) -> ProductComponents: ...

    @abstractmethod
    def __len__(self) -> int: ...


class DenseProducts(ProductComponents):
    """Components given by probabilities (K, N, V), which are normalised over V."""

    def __init__(self, p: Tensor) -> None:
        p = require_reals("probabilities", p, "(components, tokens, vocabulary)")
        _require_laws("probabilities", p)
        self._p = p / p.sum(-1, keepdim=True)
        self.marginals = self._p[0]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The probabilities."""
        return (self._p,)

    def table(self, part: slice | Tensor) -> Tensor:
        """Probabilities of some components, (N, V, c)."""
        return self._p[part].permute(1, 2, 0)

    def of_token(self, token: int) -> Tensor:
        """Probabilities of one token in all components, (V, K)."""
        return self._p[:, token].T

    def to(self, device: torch.device, dtype: torch.dtype) -> DenseProducts:
        """The same components on a device and in a precision."""
        return self._with(self._p.to(device, dtype))

    def __getitem__(self, kept: Tensor) -> DenseProducts:
        return self._with(self._p[kept])

    def _with(self, p: Tensor) -> DenseProducts:
        """A copy with other probabilities, which are already normalised."""
        twin = copy.copy(self)
        twin._p, twin.marginals = p, p[0]
        return twin

    def __len__(self) -> int:
        return len(self._p)


class SmoothedRows(ProductComponents):
    """Components given by rows of token ids (K, N), each token mixed with its marginal law."""

    def __init__(self, rows: Tensor, marginals: Tensor, smoothing: float) -> None:
        self._rows = rows
        self.marginals = marginals
        self.smoothing = smoothing
        self._symbols = SymbolIndex(rows, marginals.shape[1])

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The rows and the marginal laws."""
        return self._rows, self.marginals

    def table(self, part: slice | Tensor) -> Tensor:
        """Probabilities of some components, (N, V, c)."""
        rows = self._rows[part].T[:, None]  # (N, 1, c)
        table = (self.smoothing * self.marginals)[..., None].repeat(1, 1, rows.shape[2])
        own = table.new_full((), 1 - self.smoothing).expand(rows.shape)
        return table.scatter_add_(1, rows, own)

    def of_token(self, token: int) -> Tensor:
        """Probabilities of one token in all components, (V, K)."""
        rows = self._rows[None, :, token]  # (1, K)
        table = (self.smoothing * self.marginals[token])[:, None].repeat(1, rows.shape[1])
        return table.scatter_add_(0, rows, table.new_full(rows.shape, 1 - self.smoothing))

    @functools.cached_property
    def is_sparse(self) -> bool:
        """Whether every symbol has the same positive probability in all rows but its own.

        The evidence of a token then differs from a constant in the rows of its symbol alone.
        """
        return self.smoothing > 0 and bool((self.marginals > 0).all())

    @property
    def vocabulary(self) -> int:
        """Number V of symbols."""
        return self.marginals.shape[1]

    def with_smoothing(self, smoothing: float) -> SmoothedRows:
        """The same rows, each token mixed with another share of its marginal law."""
        twin = copy.copy(self)
        vars(twin).pop("is_sparse", None)
        twin.smoothing = smoothing
        return twin

    def add_evidence(
        self, logits: Tensor, x: Tensor, seen: Tensor, floor: float | Tensor = 0.0
    ) -> None:
        """Add log (floor + (1 - floor) p_ci(x_i)) of the seen tokens to logits (r, K) in place.

        Args:
            logits: (r, K), contiguous.
            x: Tokens, (r, N); any integers where they are not seen.
            seen: Whether a token's evidence is added, (r, N) bool.
            floor: Probability that is mixed in, at least 0 and at most 1: a number, or (r, N).
        """
        x = torch.where(seen, x, 0)
        others = floor + (1 - floor) * self.smoothing * self.marginals.gather(1, x.T).T  # (r, N)
        logits += torch.where(seen, others.log(), 0).sum(1, keepdim=True)
        own = (1 - floor) * (1 - self.smoothing)
        more = torch.log1p(own / others)  # of the components whose symbol it is
        row, token = seen.nonzero(as_tuple=True)
        for part, component in self._symbols.components(token, x[row, token]):
            size, of_row = component.sizes, row[part]
            flat = (of_row * logits.shape[1]).repeat_interleave(size) + component.index
            logits.view(-1).index_add_(0, flat, more[of_row, token[part]].repeat_interleave(size))

    def average(self, share: Tensor, tokens: list[int]) -> Tensor:
        """The laws of some tokens averaged over components with shares (r, K): (r, S, V)."""
        mean = self.smoothing * self.marginals[tokens]  # (S, V)
        total = mean.expand(len(share), -1, -1).clone()
        own = share * (1 - self.smoothing)
        for column, i in enumerate(tokens):
            total[:, column].scatter_add_(1, self._rows[:, i].expand(len(share), -1), own)
        return total

    def to(self, device: torch.device, dtype: torch.dtype) -> SmoothedRows:
        """The same components on a device and in a precision."""
        return SmoothedRows(self._rows.to(device), self.marginals.to(device, dtype), self.smoothing)

    def __getitem__(self, kept: Tensor) -> SmoothedRows:
        return SmoothedRows(self._rows[kept], self.marginals, self.smoothing)

    def __len__(self) -> int:
        return len(self._rows)


def laws_of_tokens(marginals: object, tokens: int, vocabulary: int) -> Tensor:
    """The laws that rows are mixed with, (N, V), normalised in float64.

    Raises:
        InputError: The tensor has another shape, or its rows are no probability laws.
    """
    laws = require_tensor("marginals", marginals)
    if tuple(laws.shape) != (tokens, vocabulary):
        raise InputError(
            f"marginals must have shape {(tokens, vocabulary)}, got {tuple(laws.shape)}."
        )
    laws = laws.to(torch.float64)
    _require_laws("marginals", laws)
    normalised: Tensor = laws / laws.sum(-1, keepdim=True)
    return normalised


def token_ids(rows: object, vocabulary: object) -> tuple[Tensor, int]:
    """Rows (K, N) of ids as int64, and the vocabulary size V, by default the largest id plus 1.

    Raises:
        InputError: The rows are not integers, an id is outside the vocabulary, or N V exceeds
            `LARGEST`.
    """
    given = require_tensor("rows", rows)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.dim() != 2 or given.numel() == 0 or not whole:
        raise InputError(
            "rows must be integers of shape (rows, tokens), none of them 0, "
            f"got {given.dtype} of {tuple(given.shape)}; convert token ids to int64."
        )
    ids = given.to(torch.int64)
    low, high = int(ids.min()), int(ids.max())
    V = high + 1 if vocabulary is None else require_count("vocabulary", vocabulary)
    if low < 0:
        raise InputError(f"rows must hold token ids of at least 0, got {low}; shift them.")
    if high >= V:
        raise InputError(
            f"rows must hold token ids below the vocabulary {V}, got {high}; "
            "give a larger vocabulary."
        )
    require_held(ids.shape[1], V)
    return ids, V


def require_held(tokens: int, vocabulary: int) -> None:
    """Raise InputError if the marginal laws of a sequence have more than `LARGEST` numbers."""
    if tokens * vocabulary > LARGEST:
        raise InputError(
            f"symbols x tokens must be at most {LARGEST}, got {shown(vocabulary)} x {tokens}; "
            "renumber the symbols that occur, merge rare ones, or choose fewer tokens."
        )


def _require_laws(name: str, p: Tensor) -> None:
    """Raise InputError unless each p[..., :] is non-negative, finite and sums to 1 within 1e-4."""
    if not bool((p.isfinite() & (p >= 0)).all()):
        broken = p[~(p.isfinite() & (p >= 0))]
        raise InputError(
            f"{name} must be finite and not negative, got {float(broken[0]):g}; repair them."
        )
    off = float((p.sum(-1) - 1).abs().max())
    if not off < 1e-4:
        raise InputError(
            f"{name} must sum to 1 over the vocabulary, got a sum that is off by {off:.3g}; "
            "normalise them."
        )
