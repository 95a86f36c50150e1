"""Replay finds the exact law of a procedure that is affine in the standard normals it draws.

    x = b + A z,  z ~ N(0, I)   implies   x ~ N(b, A A^T)

The procedure is run with z = 0, which gives b, and with each unit vector, which gives the columns
of A. On a Gaussian target nearly every procedure is affine, because every conditional law is
Gaussian with a mean linear in the known tokens. A procedure with a random order has one such law
per order, and its law is their mixture.

Normals that do not matter, as those of the tokens that a round does not place, need no columns.

Affinity is checked, not assumed. Check rows with other z must return b + A z, and check rows with
other uniform draws must return the same points; otherwise the procedure is refused with the reason.

The unchanged procedure is run on a second implementation of `Randomness`, and completed as in a
measurement. A stream that is opened twice gives the same draws twice, as in a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.normals_that_matter import BLOCK, normals_that_matter
from capcheck.exact.replay_plan import ReplayPlan
from capcheck.exact.sampler import RefusedError, Sampler
from capcheck.exact.tape import DRAWS, DrawKind, Replay, Rows, Tape
from capcheck.laws.gaussian import ROUNDINGS, GaussianLaw
from capcheck.laws.gaussian_orders import MixtureLaw

__all__ = [
    "AFFINE",
    "DIMENSIONS",
    "LEAST_SPREAD",
    "NUMBERS",
    "ORDERS",
    "RECORDED",
    "ROWS",
    "replayed_law",
]

DIMENSIONS = 4096  # largest D: a covariance has 128 MiB, and its eigenvectors take half a minute
ORDERS = 720  # most orders that are enumerated, which are those of six tokens
ROWS = 1 << 17  # most rows that are replayed, over all orders
NUMBERS = 1 << 25  # most numbers in the covariances of all orders, 256 MiB
RECORDED = 1 << 17  # most normal numbers of one sample row, whether they matter or not
AFFINE = 1e-9  # largest deviation of a check row, as a share of |A| |z|
LEAST_SPREAD = 100  # least standard deviation of a coordinate, in units of the rounding error


def replayed_law(
    sample: Sampler, spec: SequenceSpec, *, rounding: float = 0.0
) -> GaussianLaw | MixtureLaw | Unavailable:
    """Finds the law that a procedure samples, if it is Gaussian for every order it may draw.

    A check row may deviate from b + A z by 1e-9 |A| |z|, coordinate by coordinate, or by 64
    rounding errors of the largest number involved. In float64 this refuses a relative cubic term of
    1e-10. In float32 the share 1e-9 becomes 64 rounding errors, 8e-6: a cubic term of 1e-5 is
    refused, and the law carries the rounding, so that float64 is preferable.

    Args:
        sample: The procedure at one budget: (n, rng) -> (n, N, d) sequences.
        spec: Specification of the sequences, whose tokens are continuous.
        rounding: Relative rounding error of the arithmetic inside the procedure, if it is coarser
            than that of the tokens: it takes the place of the floating-point type's, where that
            refuses. Both are judged by the same runs.

    Returns:
        The law, a mixture if orders are drawn and their laws differ; or the reason why the law is
        not found.
    """
    if spec.kind != "continuous":
        return Unavailable(reason="a replay needs continuous tokens")
    D = spec.tokens * spec.dim
    if D > DIMENSIONS:
        return Unavailable(reason=f"{D} dimensions are more than the {DIMENSIONS} of a replay")
    eps = torch.finfo(spec.mean.dtype).eps
    procedure = _Replayed(sample=sample, spec=spec, roundings=sorted({eps, max(eps, rounding)}))
    try:
        procedure.record()
        _require_affordable(procedure.tape, D)
        orders = list(procedure.tape.orders())
        active = normals_that_matter(procedure.result, procedure.tape, orders)
        if len(active) > DRAWS:
            raise RefusedError(
                f"{len(active)} normal draws per sample are more than the {DRAWS} of a replay"
            )
        laws, eps = _laws_given_orders(procedure, orders, active)
    except RefusedError as refusal:
        return Unavailable(reason=str(refusal))
    return _merged(laws, spec, eps)


@dataclass(frozen=True, kw_only=True)
class _Replayed:
    """A procedure at a budget as a function of the draws of its rows."""

    sample: Sampler
    spec: SequenceSpec
    roundings: Sequence[float]
    tape: Tape = field(default_factory=Tape)

    def record(self) -> None:
        """Runs the procedure once to record which draws it makes."""
        self._run(Rows(n=2, columns={}, device=self.spec.mean.device))
        self.tape.sealed = True

    def result(self, z: Tensor, u: Tensor, order: Tensor) -> Tensor:
        """The result (n, D) of rows with normals z (n, K), uniforms u (n, U) and orders (n, W)."""
        columns: dict[DrawKind, Tensor] = {"normal": z, "uniform": u, "order": order}
        rows = Rows(n=len(z), columns=columns, device=self.spec.mean.device)
        tokens = self._run(rows)
        if len(rows.made) < len(self.tape.draws):
            missing = next(key for key in self.tape.draws if key not in rows.made)
            raise RefusedError(
                "which draws are made is not the same in all runs: "
                f"draw {missing[1]} of stream {missing[0]!r} was made in one and not in another"
            )
        return tokens.flatten(1).detach().to("cpu", torch.float64)

    def _run(self, rows: Rows) -> Tensor:
        return self.sample(rows.n, Replay(self.tape, rows))


def _require_affordable(tape: Tape, D: int) -> None:
    K, orders = tape.width("normal"), math.prod(math.factorial(size) for size in tape.sizes())
    if K > RECORDED:
        raise RefusedError(f"{K} normal draws per sample are more than a replay records")
    if orders > ORDERS:
        raise RefusedError(f"{orders} orders are more than the {ORDERS} that are enumerated")
    if orders * (1 + K) > ROWS or orders * D**2 > NUMBERS:
        raise RefusedError(
            f"{orders} orders of {K} normal draws in {D} dimensions are more than a replay holds"
        )


@dataclass(kw_only=True)
class _Sums:
    """The sums over the rows of one order, which are run block by block.

    Attributes:
        b: (D,) result at z = 0.
        covariance: (D, D), A A^T, summed over blocks of columns of A, which is never held whole.
        linear: (C, D), A z of the check rows.
        reach: (C, D), |A| |z| of the check rows.
        found: Results of the check rows, block by block.
    """

    b: Tensor
    covariance: Tensor
    linear: Tensor
    reach: Tensor
    found: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, C: int, D: int) -> _Sums:
        """The sums before the first block."""
        b, covariance, linear, reach = (
            torch.zeros(*shape, dtype=torch.float64) for shape in ((D,), (D, D), (C, D), (C, D))
        )
        return cls(b=b, covariance=covariance, linear=linear, reach=reach)

    def add(self, x: Tensor, start: int, plan: ReplayPlan) -> None:
        """Adds the results x (r, D) of the rows of the plan from `start` on."""
        if not bool(x.isfinite().all()):
            raise RefusedError("some results are not finite")
        A, stop = len(plan.active), start + len(x)
        self.b = x[0] if start == 0 else self.b
        first, last = max(start, 1), max(1, min(stop, 1 + A))  # rows of unit vectors
        columns = x[first - start : max(last, first) - start] - self.b
        z = plan.z[:, plan.active[first - 1 : first - 1 + len(columns)]]
        self.covariance += columns.T @ columns
        self.linear += z @ columns
        self.reach += z.abs() @ columns.abs()
        self.found.append(x[max(0, 1 + A - start) :])

    def law(self, spec: SequenceSpec, plan: ReplayPlan, eps: float) -> GaussianLaw:
        """The law N(b, A A^T), if all check rows return b + A z."""
        miss = torch.cat(self.found) - self.b - self.linear
        noise = _require_affine(spec, plan, self.b, miss, self.reach, eps)
        covariance = self.covariance.clone()
        still = covariance.diagonal() <= noise**2  # these coordinates vary by rounding only
        covariance[still], covariance[:, still] = 0, 0
        return GaussianLaw(mean=self.b, covariance=covariance)


def _laws_given_orders(
    procedure: _Replayed, orders: Sequence[Tensor], active: Tensor
) -> tuple[list[GaussianLaw], float]:
    """The law for each order (W,), and the finest rounding error at which all are affine.

    One run replays as many orders as a block holds.
    """
    plan, spec = ReplayPlan.of(procedure.tape, active), procedure.spec
    (C, K), D = plan.z.shape, spec.tokens * spec.dim
    size = max(2, BLOCK // max(K, plan.u.shape[1], D))  # rows of one run
    rows = 1 + len(active) + C
    count = max(1, size // rows)
    laws: dict[float, list[GaussianLaw]] = {eps: [] for eps in procedure.roundings}
    for first in range(0, len(orders), count):
        some = torch.stack(list(orders[first : first + count]))  # (m, W)
        sums = [_Sums.of(C, D) for _ in some]
        for start in range(0, rows, size):
            z, u = plan.rows(start, min(start + size, rows))
            m, r = len(some), len(z)
            x = procedure.result(z.repeat(m, 1), u.repeat(m, 1), some.repeat_interleave(r, 0))
            for one, part in zip(sums, x.split(r), strict=True):
                one.add(part, start, plan)
        for eps in list(laws):
            try:
                laws[eps] += [one.law(spec, plan, eps) for one in sums]
            except RefusedError:
                del laws[eps]
                if not laws:
                    raise
    finest = min(laws)
    return laws[finest], finest


def _require_affine(
    spec: SequenceSpec, plan: ReplayPlan, b: Tensor, miss: Tensor, reach: Tensor, eps: float
) -> float:
    """Refuses unless all check rows return b + A z; returns the rounding error of results.

    Args:
        spec: Specification of the sequences.
        plan: The plan with the check rows.
        b: (D,) result at z = 0.
        miss: (C, D) results of the check rows minus b + A z.
        reach: (C, D) |A| |z| of the check rows.
        eps: Relative rounding error of the arithmetic.
    """
    mean, spread = spec.mean.flatten().double().cpu(), spec.variance.flatten().double().cpu().sqrt()
    level = torch.maximum(b.abs(), mean.abs())
    noise = ROUNDINGS * eps * float((level + spread).max())
    if not bool((spread >= LEAST_SPREAD * noise).all()):
        raise RefusedError(
            f"results are rounded to about {noise:.2g}, too coarse for a coordinate whose "
            f"deviation is {float(spread.min()):.2g}"
        )
    z_max = plan.z.abs().amax(1) if plan.z.shape[1] else plan.z.new_zeros(len(plan.z))  # (C,)
    largest = (level + reach + spread * z_max[:, None]).amax(1, keepdim=True)  # (C, 1)
    allowed = max(AFFINE, ROUNDINGS * eps) * reach + ROUNDINGS * eps * largest
    excess = miss.abs() / allowed
    for rows, what in (
        (slice(0, plan.settled), "the result is not affine in the normal draws"),
        (slice(plan.settled, None), "the result depends on uniform draws"),
    ):
        worst = float(excess[rows].max()) if len(excess[rows]) else 0.0
        if worst > 1:
            deviation = float(miss[rows].abs().max())
            raise RefusedError(
                f"{what}: check rows miss by up to {deviation:.3g}, {worst:.3g} times what "
                "rounding allows"
            )
    return noise


def _merged(
    laws: Sequence[GaussianLaw], spec: SequenceSpec, eps: float
) -> GaussianLaw | MixtureLaw:
    """The mixture of equally likely laws, with laws that are equal up to rounding merged."""
    same, rounding = max(AFFINE, ROUNDINGS * eps), ROUNDINGS * eps
    distinct: list[GaussianLaw] = []
    counts: list[int] = []
    spread = spec.variance.flatten().double().cpu().sqrt()
    for law in laws:
        unit = torch.maximum(law.covariance.diagonal().sqrt(), spread)  # (D,)
        of_mean, of_covariance = same * unit + rounding * law.mean.abs(), same * unit.outer(unit)
        for i, other in enumerate(distinct):
            near = (law.mean - other.mean).abs() <= of_mean
            if bool(near.all()) and bool(
                ((law.covariance - other.covariance).abs() <= of_covariance).all()
            ):
                counts[i] += 1
                break
        else:
            distinct.append(law)
            counts.append(1)
    if len(distinct) == 1:
        return distinct[0]
    weights = torch.tensor(counts, dtype=torch.float64) / len(laws)
    return MixtureLaw(weights=weights, laws=tuple(distinct))
