"""Exact divergences of two laws p and q on the same V^N sequences, with no sampling error.

    KL(p || q) = sum_x p (ln p - ln q)            nats per sequence; infinite is a value
    TV(p, q)   = 1/2 sum_x |p - q|
    MMD^2      = sum_xy (p - q)(x) k(x, y) (p - q)(y),   k(x, y) = prod_i exp(-[x_i != y_i] / h^2)
    W1(p, q)   = min over couplings of E H(x, y),   H = number of tokens that differ

The kernel is applied along one axis at a time, never as a matrix between sequences. H is a metric,
so mass min(p, q) may stay where it is, and W1 = TV times the W1 of what is left of either law; that
is a transport problem whose size is what counts. Where it is too large W1 lies between

    max(TV, sum of the W1 of both halves of the tokens)  and  the cost of a greedy coupling,

which pairs off the mass of sequences that differ in one token, then in two, then in more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import ot
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

PAIRS = 1 << 22  # pairs of sequences of a transport problem: 32 MiB of costs, a second or two
ROUNDING = 1e-12  # share of the larger probability below which a difference is none


@dataclass(frozen=True, kw_only=True)
class DiscreteDivergences:
    """All exact divergences of q from p.

    Attributes:
        kl: KL(p || q), nats per sequence, up to infinity.
        reverse_kl: KL(q || p), likewise.
        total_variation: In [0, 1].
        mmd_squared: One per bandwidth; not a share of anything.
        w1: Number of tokens that differ, or None if the transport problem is too large.
        w1_low: A number that W1 is not below; W1 itself if it is known.
        w1_high: A number that W1 is not above, likewise.
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
        q: The model's law, of as many tokens with the same vocabulary.
        bandwidths: h of each kernel; a token that differs multiplies it by exp(-1 / h^2).

    Raises:
        InputError: Laws of different sequences, or a bandwidth that is not positive and finite.
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

    As sum_x p (ln(p/q) - 1 + q/p), whose terms are not negative: nothing cancels between them.
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
    """1/2 sum_x |p - q|, the largest difference of any event's probability."""
    _require_comparable(p, q)
    return float(0.5 * (p.probabilities - q.probabilities).abs().sum())


def mmd_squared(p: SequenceLaw, q: SequenceLaw, *, bandwidth: float) -> float:
    """Squared MMD for the kernel prod_i exp(-[x_i != y_i] / h^2)."""
    _require_comparable(p, q)
    difference = p.probabilities - q.probabilities
    return float(difference @ smoothed(difference, p.vocabulary, bandwidth=bandwidth))


def kernel_mean(p: SequenceLaw, q: SequenceLaw, *, bandwidth: float) -> float:
    """E k(X, Y) over independent X ~ p and Y ~ q."""
    _require_comparable(p, q)
    return float(p.probabilities @ smoothed(q.probabilities, p.vocabulary, bandwidth=bandwidth))


def smoothed(values: Tensor, vocabulary: int, *, bandwidth: float) -> Tensor:
    """sum_y k(x, y) f(y) for every x, axis by axis: f -> (1 - c) f + c sum of f, c = exp(-1/h^2).

    Args:
        values: (V^N,) values of f.
        vocabulary: V.
        bandwidth: h.

    Raises:
        InputError: A bandwidth that is not positive and finite.
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
    """W1 in tokens that differ, or None if more than `PAIRS` pairs of sequences are left.

    Differences below `ROUNDING` are left out: they move at most N `ROUNDING`.

    Raises:
        InputError: Laws of different sequences.
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
    """Numbers that W1 is not below and not above, see the module's formula."""
    _require_comparable(p, q)
    return _w1_low(p, q), _w1_high(p, q)


def _w1_low(p: SequenceLaw, q: SequenceLaw) -> float:
    """H counts both halves of the tokens, so a coupling costs at least the W1 of each."""
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
    """Couple first what differs in one token, then in two, then in a set that grows to all."""
    excess, N = _excess(p, q), p.tokens
    left = _Left(
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
class _Left:
    """What a coupling has left to do.

    Attributes:
        surplus: (V,) * N, mass of p that has no partner.
        deficit: Mass of q that has none, likewise.
        cost: A bound on the cost of all that has one.
        free: Tokens that differed in what was coupled last.
    """

    surplus: Tensor
    deficit: Tensor
    cost: float = 0.0
    free: tuple[int, ...] = ()

    def coupled(self, free: tuple[int, ...]) -> _Left:
        """Couple all that can be between sequences that differ in some of the `free` tokens."""
        of_p = self.surplus.sum(free, keepdim=True)
        of_q = self.deficit.sum(free, keepdim=True)
        both = torch.minimum(of_p, of_q)
        return _Left(
            surplus=self.surplus * _kept(of_p, both),
            deficit=self.deficit * _kept(of_q, both),
            cost=self.cost + len(free) * float(both.sum()),
            free=free,
        )


def _kept(mass: Tensor, coupled: Tensor) -> Tensor:
    """Share of each mass that is not coupled."""
    return torch.where(coupled < mass, 1 - coupled / mass, 0)


def _excess(p: SequenceLaw, q: SequenceLaw) -> Tensor:
    """P - q, (V^N,), with 0 where it is only rounding."""
    difference = p.probabilities - q.probabilities
    larger = torch.maximum(p.probabilities, q.probabilities)
    return torch.where(difference.abs() > ROUNDING * larger, difference, 0)


def _require_comparable(p: SequenceLaw, q: SequenceLaw) -> None:
    if (p.vocabulary, p.tokens) != (q.vocabulary, q.tokens):
        raise InputError(
            f"laws must be of the same sequences, got {p.vocabulary}^{p.tokens} and "
            f"{q.vocabulary}^{q.tokens}."
        )
