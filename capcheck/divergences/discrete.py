"""Exact divergences of two laws p and q on the same V^N sequences, with no sampling error.

    KL(p || q) = sum_x p (ln p - ln q)            nats per sequence; infinite is a value
    TV(p, q)   = 1/2 sum_x |p - q|
    MMD^2      = sum_xy (p - q)(x) k(x, y) (p - q)(y),   k(x, y) = prod_i exp(-[x_i != y_i] / h^2)
    W1(p, q)   = min over couplings of E H(x, y),   H = number of tokens that differ

The kernel is applied along one axis at a time and never formed as a matrix between sequences. H is
a metric, so the common mass min(p, q) can stay in place, and W1 is TV times the W1 of the two
normalised remainders: a transport problem of (sequences with p > q) x (sequences with q > p). If
that exceeds `PAIRS`, only bounds are computed, and W1 lies between

    max(TV, sum of the W1 of both halves of the tokens)  and  the cost of a greedy coupling,

which first couples sequences that differ in one token, then in two, then in more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import CapcheckError, InputError
from capcheck.targets.categorical.sequence_law import SequenceLaw, sequences

__all__ = [
    "PAIRS",
    "ROUNDING",
    "DiscreteDivergences",
    "compare",
    "hamming_w1",
    "hamming_w1_bounds",
    "kernel_mean",
    "kl",
    "mmd_squared",
    "smoothed",
    "total_variation",
]

PAIRS = 1 << 22  # most pairs of a transport problem: 32 MiB of costs, a second or two
ROUNDING = 1e-12  # share of the larger probability below which a difference counts as 0


@dataclass(frozen=True, kw_only=True)
class DiscreteDivergences:
    """The exact divergences of a law q from a law p.

    Attributes:
        kl: KL(p || q) in nats per sequence; may be infinite.
        reverse_kl: KL(q || p) in nats per sequence; may be infinite.
        total_variation: TV(p, q), in [0, 1].
        mmd_squared: MMD^2 for each bandwidth, not divided by the kernel variance.
        w1: W1 in differing tokens, or None if the transport problem is too large.
        w1_low: Lower bound of W1; equal to W1 if that is known.
        w1_high: Upper bound of W1; equal to W1 if that is known.
    """

    kl: float
    reverse_kl: float
    total_variation: float
    mmd_squared: tuple[float, ...]
    w1: float | None
    w1_low: float
    w1_high: float


def compare(p: SequenceLaw, q: SequenceLaw, *, bandwidths: Sequence[float]) -> DiscreteDivergences:
    """All exact divergences of a law q from a law p.

    Args:
        p: The target's law.
        q: The model's law, with the same number of tokens and vocabulary.
        bandwidths: Bandwidth h of each kernel; each differing token contributes exp(-1 / h^2).

    Raises:
        InputError: The laws are of different sequences, or a bandwidth is not positive and finite.
        CapcheckError: The network simplex did not finish.
    """
    exact = hamming_w1(p, q)
    low, high = hamming_w1_bounds(p, q) if exact is None else (exact, exact)
    if high - low <= ROUNDING * p.tokens:
        exact = high
    return DiscreteDivergences(
        kl=kl(p, q),
        reverse_kl=kl(q, p),
        total_variation=total_variation(p, q),
        mmd_squared=tuple(mmd_squared(p, q, bandwidth=h) for h in bandwidths),
        w1=exact,
        w1_low=low,
        w1_high=high,
    )


def kl(p: SequenceLaw, q: SequenceLaw) -> float:
    """KL(p || q) in nats per sequence; infinite if q is 0 where p is not.

    The sum is taken as sum_x p (ln(p/q) - 1 + q/p), whose terms are not negative and do not cancel.
    """
    _require_comparable(p, q)
    inside = p.log_probabilities > -torch.inf
    of_p, of_q = p.probabilities[inside], q.probabilities[inside]
    log_ratio = (p.log_probabilities - q.log_probabilities)[inside]
    if bool((log_ratio == torch.inf).any()):
        return math.inf
    # q/p - 1 keeps its digits near 0 as expm1, which overflows where p is tiny.
    gain = torch.where(log_ratio > -1, of_p * torch.expm1(-log_ratio), of_q - of_p)
    return float((of_p * log_ratio + gain).sum() + q.probabilities[~inside].sum())


def total_variation(p: SequenceLaw, q: SequenceLaw) -> float:
    """Total variation 1/2 sum_x |p - q|, the largest difference in probability of any event."""
    _require_comparable(p, q)
    return float(0.5 * (p.probabilities - q.probabilities).abs().sum())


def mmd_squared(p: SequenceLaw, q: SequenceLaw, *, bandwidth: float) -> float:
    """Squared MMD for the kernel prod_i exp(-[x_i != y_i] / h^2)."""
    _require_comparable(p, q)
    difference = p.probabilities - q.probabilities
    return float(difference @ smoothed(difference, p.vocabulary, bandwidth=bandwidth))


def kernel_mean(p: SequenceLaw, q: SequenceLaw, *, bandwidth: float) -> float:
    """Mean E k(X, Y) over independent X ~ p and Y ~ q; k as in `mmd_squared`."""
    _require_comparable(p, q)
    return float(p.probabilities @ smoothed(q.probabilities, p.vocabulary, bandwidth=bandwidth))


def smoothed(values: Tensor, vocabulary: int, *, bandwidth: float) -> Tensor:
    """The kernel applied to a function: sum_y k(x, y) f(y) for every x, (V^N,).

    Along each axis in turn f becomes (1 - c) f + c (sum of f along the axis), c = exp(-1/h^2).

    Args:
        values: Values of f, (V^N,).
        vocabulary: Vocabulary size V.
        bandwidth: Bandwidth h.

    Raises:
        InputError: The bandwidth is not positive and finite.
    """
    if not 0 < bandwidth < math.inf:
        raise InputError(f"bandwidth must be positive and finite, got {bandwidth}.")
    same = -math.expm1(-1 / bandwidth**2)  # 1 - c
    stride = 1
    while stride * vocabulary <= len(values) and vocabulary > 1:
        axis = values.reshape(-1, vocabulary, stride)
        values = (same * axis + (1 - same) * axis.sum(1, keepdim=True)).flatten()
        stride *= vocabulary
    return values


def hamming_w1(p: SequenceLaw, q: SequenceLaw) -> float | None:
    """W1 in differing tokens, or None if the transport problem has more than `PAIRS` pairs.

    Differences below `ROUNDING` are left out, which changes W1 by at most N `ROUNDING`.

    Raises:
        InputError: The laws are of different sequences.
        CapcheckError: The network simplex did not finish.
    """
    _require_comparable(p, q)
    if p.tokens == 1:
        return total_variation(p, q)
    excess = _excess(p, q)
    givers, takers = (excess > 0).nonzero().flatten(), (excess < 0).nonzero().flatten()
    if len(givers) * len(takers) > PAIRS:
        return None
    if len(givers) == 0 or len(takers) == 0:
        return 0.0
    surplus, deficit = excess[givers], -excess[takers]  # equal sums, up to rounding
    x = torch.cat(list(sequences(p.vocabulary, p.tokens)))
    costs = torch.zeros(len(givers), len(takers), dtype=torch.float64)
    for of_x, of_y in zip(x[givers].T, x[takers].T, strict=True):
        costs += of_x[:, None] != of_y
    import ot  # it takes most of a second, and many runs need no transport

    plan_cost, log = ot.emd2(
        (surplus / surplus.sum()).numpy(),
        (deficit / deficit.sum()).numpy(),
        costs.numpy(),
        numItermax=10_000_000,
        log=True,
        return_matrix=False,
        center_dual=False,
        check_marginals=False,
    )
    if log["result_code"] != 1:
        raise CapcheckError(f"exact transport failed: {log['warning']}")
    return float(plan_cost) * float(0.5 * (surplus.sum() + deficit.sum()))


def hamming_w1_bounds(p: SequenceLaw, q: SequenceLaw) -> tuple[float, float]:
    """Lower and upper bound of W1 in differing tokens; see the module's docstring."""
    _require_comparable(p, q)
    return _w1_low(p, q), _w1_high(p, q)


def _w1_low(p: SequenceLaw, q: SequenceLaw) -> float:
    """Lower bound of W1: the sum of the W1 of two halves of the tokens, or TV if larger.

    H is the sum of the distances of the two halves, so a coupling costs at least the W1 of each.
    """
    low = total_variation(p, q)  # H is at least 1 where x != y
    if p.tokens == 1:
        return low
    everything, middle = range(p.tokens), p.tokens // 2
    for halves in (
        (everything[:middle], everything[middle:]),
        (everything[::2], everything[1::2]),
    ):
        of_halves = 0.0
        for half in halves:
            p_half, q_half = p.onto(half), q.onto(half)
            exact = hamming_w1(p_half, q_half)
            of_halves += _w1_low(p_half, q_half) if exact is None else exact
        low = max(low, of_halves)
    return low


def _w1_high(p: SequenceLaw, q: SequenceLaw) -> float:
    """Upper bound of W1: the cost of a greedy coupling.

    Sequences that differ in one token are coupled first, then in two, then in a set of tokens that
    grows to all of them.
    """
    excess, N = _excess(p, q), p.tokens
    left = _PartialCoupling(
        surplus=excess.clamp(min=0).reshape((p.vocabulary,) * N),
        deficit=(-excess).clamp(min=0).reshape((p.vocabulary,) * N),
    )
    for size in (1, 2):
        for tokens in itertools.combinations(range(N), size):
            left = left.coupled(tokens)
    free: tuple[int, ...] = ()
    while len(free) < N:
        grown = [left.coupled((*free, i)) for i in range(N) if i not in free]
        best = min(grown, key=lambda after: float(after.surplus.sum()))
        free, left = best.free, best
    return left.cost


@dataclass(frozen=True, kw_only=True, eq=False)
class _PartialCoupling:
    """A partial coupling of two laws p and q.

    Attributes:
        surplus: Mass of p that is not coupled yet, (V,) * N.
        deficit: Mass of q that is not coupled yet, (V,) * N.
        cost: Upper bound of the cost of the coupled mass, in differing tokens.
        free: Tokens that could differ in the last coupling step.
    """

    surplus: Tensor
    deficit: Tensor
    cost: float = 0.0
    free: tuple[int, ...] = ()

    def coupled(self, free: tuple[int, ...]) -> _PartialCoupling:
        """Couple all possible mass between sequences that differ only in the `free` tokens."""
        of_p = self.surplus.sum(free, keepdim=True)
        of_q = self.deficit.sum(free, keepdim=True)
        both = torch.minimum(of_p, of_q)
        return _PartialCoupling(
            surplus=self.surplus * _kept(of_p, both),
            deficit=self.deficit * _kept(of_q, both),
            cost=self.cost + len(free) * float(both.sum()),
            free=free,
        )


def _kept(mass: Tensor, coupled: Tensor) -> Tensor:
    """Share of each mass that remains uncoupled."""
    return torch.where(coupled < mass, 1 - coupled / mass, 0)


def _excess(p: SequenceLaw, q: SequenceLaw) -> Tensor:
    """The difference p - q, (V^N,), with 0 in place of rounding errors."""
    difference = p.probabilities - q.probabilities
    larger = torch.maximum(p.probabilities, q.probabilities)
    return torch.where(difference.abs() > ROUNDING * larger, difference, 0)


def _require_comparable(p: SequenceLaw, q: SequenceLaw) -> None:
    if (p.vocabulary, p.tokens) != (q.vocabulary, q.tokens):
        raise InputError(
            f"laws must be of the same sequences, got {p.vocabulary}^{p.tokens} and "
            f"{q.vocabulary}^{q.tokens}."
        )
