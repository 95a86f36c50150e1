"""The reference: the target draws and null floors that all cells of a run are measured against.

All cells share the same target draws, so that the estimates of two cells are paired. Each
divergence of a model is taken from the most exact source available: the exact law that the
procedure samples, else its log-density, else certificates and estimates from its draws.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from capcheck.core.errors import ProbeError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.discrete import compare
from capcheck.divergences.estimate import Estimate, Term
from capcheck.divergences.evidence import CONTRADICTION_LEVEL, ModelEvidence
from capcheck.divergences.kl import ROUNDINGS, is_same_law
from capcheck.divergences.kl_routes import KLRoutes
from capcheck.divergences.known_draws import KnownDraws
from capcheck.divergences.lost import lost_count
from capcheck.divergences.measured import Measured
from capcheck.divergences.sampled import SampledMeasure, SampledMMD, SampledWasserstein
from capcheck.targets.categorical.sequence_law import SequenceLaw, target_law
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["CHECK_DRAWS", "ENUMERATED", "Reference"]

ENUMERATED = 4096  # largest number of sequences V^N for which every cell enumerates its law
CHECK_DRAWS = 2_000  # draws that test a claimed law or density where MMD is not measured


class Reference:
    """The draws of a target, and the estimators of divergences from it that are built on them.

    Args:
        target: The target.
        divergences: Names of the divergences to measure.
        samples: Number n of draws of the target, and of each model; at least 2.
        seed: Seed of all draws.
        replicate: Index of an independent repetition, which has draws of its own.
        level: Confidence of the intervals.
        tolerances: Tolerances of the divergences, in their tolerance units, or None for the
            defaults. Rows that could not resolve one are not transported.
    """

    def __init__(
        self,
        target: Target,
        *,
        divergences: Sequence[str],
        samples: int,
        seed: int,
        replicate: int = 0,
        level: float = 0.95,
        tolerances: Mapping[str, float] | None = None,
    ) -> None:
        self._target = target
        self._level = level
        self._divergences = DIVERGENCES[target.spec.kind]
        self._names = tuple(divergences)

        def from_row(row: int) -> CounterRandomness:
            return CounterRandomness(
                seed, replicate=replicate, first_row=row, name="target", device=target.device
            )

        self._known = KnownDraws(target, samples, from_row)
        self.draws = self._known.draws(samples)
        """Draws of the target, (n, N, d) or (n, N)."""
        self.log_prob = self._known.log_prob(samples)
        """Log-density of `draws` under the target, (n,), in nats."""
        self._kl_routes = KLRoutes(target, self._known, self.draws, level=level)
        self._measures: dict[str, SampledMeasure] = {}
        if "wasserstein" in self._names:
            divergence = self._divergences["wasserstein"]
            tolerance = (tolerances or {}).get("wasserstein", divergence.tolerance)
            bound = tolerance**divergence.power * divergence.scale(target.spec)
            self._measures["wasserstein"] = SampledWasserstein(target, self.draws, bound=bound)
        if "mmd" in self._names:
            self._measures["mmd"] = self._mmd
        self._null: dict[str, Measured] = {}
        if self._measures:
            fresh = target.sample(samples, from_row(0).stream("null"))
            self._null = {name: measure.of(fresh) for name, measure in self._measures.items()}
        self._law = target_law(target) if _is_small(target.spec) else None

    @property
    def fewest_draws(self) -> int:
        """Fewest draws of a model with which all divergences are measured as with all of them."""
        return max((measure.fewest_draws for measure in self._measures.values()), default=0)

    def first_draws(self, rows: int | None) -> Tensor:
        """The first draws of the target, or more than `draws`; None stands for these."""
        return self._known.draws(len(self.draws) if rows is None else rows)

    def steadied(self, log_ratio: Tensor, draws: Tensor) -> Tensor:
        """Log-ratios at draws of the target as KL takes their mean; see `KLRoutes`."""
        return self._kl_routes.steadied(log_ratio, draws)

    def kl_by_density(self, density: LogDensity) -> Estimate:
        """KL by a log-density at draws of the target; an upper bound by a bound on it."""
        return self._kl_routes.by_density(density)

    def estimates(self, model: ModelEvidence) -> dict[str, Estimate]:
        """The estimates of all divergences of a model, by name.

        Raises:
            ProbeError: The model's draws contradict the law or density that its probe claims.
        """
        lost = lost_count(model.samples, self._target.spec)
        density = model.log_density
        if (
            not lost
            and isinstance(density, LogDensity)
            and not density.bound
            and is_same_law(self._known.log_prob(len(density.values)), density.values)
        ):
            self._require_agreement(model.samples, 0.0)
            return {name: self._same(name) for name in self._names}
        exact = self._exact(model)
        if lost:  # an exact law, which is over finite numbers, does not describe lost rows
            exact = {"kl": math.inf} if exact.get("kl") == math.inf else {}
        rounding = ROUNDINGS * torch.finfo(self._target.dtype).eps
        exact_kl = exact.get("kl")
        if isinstance(exact_kl, float) and exact_kl <= rounding and not lost:
            self._require_agreement(model.samples, 0.0)
            return {name: self._same(name) for name in self._names}
        if isinstance(mmd := exact.get("mmd"), float):
            self._require_agreement(model.samples, mmd)
        found: dict[str, Estimate] = {}
        for name in sorted(self._names, key=lambda name: name != "kl"):  # others may need no more
            if name in exact:
                found[name] = self._exactly(name, exact[name])
            else:
                found[name] = self._best(name, model, found.get("kl"))
        return {name: found[name] for name in self._names}

    @functools.cached_property
    def _mmd(self) -> SampledMMD:
        """The MMD estimator, built when MMD is measured or a claim is first tested.

        A test alone uses `CHECK_DRAWS` draws and no closed forms, which cost too much for a target
        of many components.
        """
        if "mmd" in self._names:
            return SampledMMD(self._target, self.draws)
        return SampledMMD(self._target, self.draws[:CHECK_DRAWS], known=False)

    @property
    def bandwidths(self) -> tuple[float, ...]:
        """Bandwidth h of each MMD kernel, in token units."""
        return self._mmd.bandwidths

    @functools.cached_property
    def has_law(self) -> bool:
        """Whether divergences of an exact law can be computed.

        The target must be a single Gaussian, or categorical with at most `ENUMERATED` sequences.
        """
        return isinstance(self._law, SequenceLaw) or self._moments is not None

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor] | None:
        target = self._target  # always the same tensors, of which laws keep what they found out
        return target.gaussian() if isinstance(target, ContinuousTarget) else None

    def require_target_draws(self, limit: Tensor, family: str) -> None:
        """Raise ProbeError if the draws of a procedure's limit contradict the target."""
        if self._contradicts(limit, 0.0):
            raise ProbeError(f"{family}: what limit() returns are not draws of the target.")

    def _best(self, name: str, model: ModelEvidence, kl: Estimate | None) -> Estimate:
        if name == "kl":
            return self._kl_routes.kl(model)
        if name == "reverse_kl":
            return self._kl_routes.reverse_kl(model)
        if name == "total_variation":
            reason = "total variation needs laws that can be enumerated"
            return Estimate.unavailable(
                reason, level=self._level, unit=self._divergences[name].unit
            )
        return self._sampled(name, model, kl)

    def _exact(self, model: ModelEvidence) -> Mapping[str, float | tuple[float, float]]:
        """The divergences of the model's exact law, by name; a pair is a lower and upper bound."""
        if isinstance(model.law, SequenceLaw) and isinstance(self._law, SequenceLaw):
            return self._of_sequences(self._law, model.law)
        moments = self._moments
        if moments is None or isinstance(model.law, (Unavailable, SequenceLaw)):
            return {}
        mmd = model.law.mmd_squared(*moments, bandwidths=self._mmd.bandwidths)
        found: dict[str, float | Unavailable] = {
            "kl": model.law.kl_from(*moments),
            "reverse_kl": model.law.kl_to(*moments),
            "wasserstein": model.law.w2_squared(*moments),
            "mmd": max((mmd / torch.tensor(self._mmd.variances)).tolist()),
        }
        return {name: value for name, value in found.items() if isinstance(value, float)}

    def _of_sequences(
        self, target: SequenceLaw, law: SequenceLaw
    ) -> Mapping[str, float | tuple[float, float]]:
        counted = self._target.spec.counted
        found = compare(target.onto(counted), law.onto(counted), bandwidths=self._mmd.bandwidths)
        shares = [m / v for m, v in zip(found.mmd_squared, self._mmd.variances, strict=True)]
        return {
            "kl": found.kl,
            "reverse_kl": found.reverse_kl,
            "total_variation": found.total_variation,
            "wasserstein": (found.w1_low, found.w1_high) if found.w1 is None else found.w1,
            "mmd": max(shares),
        }

    def _require_agreement(self, samples: Tensor, mmd: float) -> None:
        if self._contradicts(samples, mmd):
            raise ProbeError(
                "run() of the probe and the law that follows from it or from its log_density() "
                f"disagree: the law is at MMD squared {mmd:.3g} from the target, and the samples "
                "are not."
            )

    def _contradicts(self, samples: Tensor, mmd: float) -> bool:
        """Whether draws contradict a claimed squared MMD from the target, or some draws are lost.

        Args:
            samples: The model's draws.
            mmd: Claimed squared MMD as a share of the kernel variance, the largest over bandwidths.
        """
        if lost_count(samples, self._target.spec):
            return True
        some = samples if "mmd" in self._names else samples[:CHECK_DRAWS]
        ends = [term.interval(CONTRADICTION_LEVEL) for term in self._mmd.of(some).terms]
        slack = self._divergences["mmd"].tolerance
        low, high = (max(side) for side in zip(*ends, strict=True))
        return not low - slack <= mmd <= high + slack

    def _same(self, name: str) -> Estimate:
        method = "exact: the sampled law equals the target up to rounding"
        return self._exactly(name, 0.0, method)

    def _exactly(
        self, name: str, value: float | tuple[float, float], method: str | None = None
    ) -> Estimate:
        divergence = self._divergences[name]
        how = {
            "categorical": "exact: both laws enumerated",
            "continuous": "exact: the procedure is affine in its normal draws",
        }
        method = method or how[self._target.spec.kind]
        if isinstance(value, tuple):
            low, high = (
                Term(label=side, value=end, standard_error=0, degrees=1, groups=())
                for side, end in zip(("below", "above"), value, strict=True)
            )
            bounds = Measured(
                kind="two bounds", method=f"{method}, W1 between bounds", rows=0, below=[low],
                above=[high],
            )  # fmt: skip
            return bounds.estimate(divergence, self._target.spec, level=self._level)
        return Estimate.exact(
            value,
            level=self._level,
            method=method,
            unit=divergence.unit,
            scale=divergence.scale(self._target.spec),
            power=divergence.power,
        )

    def sampled(self, samples: Tensor) -> dict[str, Estimate]:
        """The divergences that are estimated from draws of a model alone, by name."""
        model = ModelEvidence(samples=samples)
        return {name: self._sampled(name, model, None) for name in self._measures}

    def _sampled(self, name: str, model: ModelEvidence, kl: Estimate | None) -> Estimate:
        null = self._null[name].terms or self._null[name].below
        fewer = math.sqrt(max(1.0, len(self.draws) / len(model.samples)))
        limit = model.limit(kl) if name == "wasserstein" else None
        measured = self._measures[name].of(model.samples, limit)
        return measured.estimate(
            self._divergences[name],
            self._target.spec,
            level=self._level,
            null=max(term.value for term in null),
            null_error=fewer * max(term.standard_error for term in null),
        )


def _is_small(spec: SequenceSpec) -> bool:
    """Whether a target has at most `ENUMERATED` sequences: its law takes seconds to enumerate."""
    return spec.kind == "categorical" and spec.dim**spec.tokens <= ENUMERATED
