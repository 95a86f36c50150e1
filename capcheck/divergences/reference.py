"""The reference: the target draws and null floors that all cells of a run are measured against.

All cells share the same target draws, so that the estimates of two cells are paired. Each
divergence of a model is taken from the most exact source available: the exact law that the
procedure samples, else its log-density, else certificates and estimates from its draws.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from capcheck.core.errors import ProbeError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.discrete import compare
from capcheck.divergences.estimate import Estimate, Kind, Term
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.kl import HEAVY, ROUNDINGS, is_same_law, kl_term, tail_index
from capcheck.divergences.lost import lost_clause, lost_rows
from capcheck.divergences.sampled import Measured, SampledMeasure, SampledMMD, SampledWasserstein
from capcheck.divergences.variational import kl_from_below
from capcheck.laws.gaussian import MixtureLaw
from capcheck.procedures.coordinates import ExactLaw
from capcheck.procedures.procedure import ROUNDED_LAW
from capcheck.targets.categorical.sequence_law import SequenceLaw, target_law
from capcheck.targets.target import ContinuousTarget, Target

__all__ = [
    "CHECK_DRAWS",
    "CONTRADICTION_LEVEL",
    "ENUMERATED",
    "KL_ROUNDING",
    "Reference",
]

ENUMERATED = 4096  # largest number of sequences V^N for which every cell enumerates its law
CHECK_DRAWS = 2_000  # draws that test a claimed law or density where MMD is not measured
CONTRADICTION_LEVEL = 0.9999  # confidence at which draws contradict a claimed law or density
VARIATIONAL = "variational bound by a classifier of the draws"
KL_ROUNDING = 1e-3  # nats by which rounding may take an estimated KL below 0


class Reference:
    """The draws of a target, and the estimators of divergences from it that are built on them.

    Args:
        target: The target.
        divergences: Names of the divergences to measure.
        samples: Number n of draws of the target, and of each model; at least 2.
        seed: Seed of all draws.
        replicate: Index of an independent repetition, which has draws of its own.
        level: Confidence of the intervals.
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
    ) -> None:
        self._target = target
        self._level = level
        self._divergences = DIVERGENCES[target.spec.kind]
        self._names = tuple(divergences)
        rng = CounterRandomness(seed, replicate=replicate, name="target", device=target.device)
        self.draws = target.sample(samples, rng)
        """Draws of the target, (n, N, d) or (n, N)."""
        self.log_prob = target.log_prob(self.draws)
        """Log-density of `draws` under the target, (n,), in nats."""
        self._measures: dict[str, SampledMeasure] = {}
        if "wasserstein" in self._names:
            self._measures["wasserstein"] = SampledWasserstein(target, self.draws)
        if "mmd" in self._names:
            self._measures["mmd"] = self._mmd
        self._null: dict[str, Measured] = {}
        if self._measures:
            fresh = target.sample(samples, rng.stream("null"))
            self._null = {name: measure.of(fresh) for name, measure in self._measures.items()}
        self._law = target_law(target) if _is_small(target.spec) else None

    def estimates(self, model: ModelEvidence) -> dict[str, Estimate]:
        """The estimates of all divergences of a model, by name.

        Raises:
            ProbeError: The model's draws contradict the law or density that its probe claims.
        """
        lost = self._lost(model.samples)
        density = model.log_density
        if (
            not lost
            and isinstance(density, LogDensity)
            and not density.bound
            and is_same_law(self.log_prob[: len(density.values)], density.values)
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
        return {
            name: self._exactly(name, exact[name]) if name in exact else self._best(name, model)
            for name in self._names
        }

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

    @property
    def _moments(self) -> tuple[Tensor, Tensor] | None:
        target = self._target
        return target.gaussian() if isinstance(target, ContinuousTarget) else None

    def require_target_draws(self, limit: Tensor, family: str) -> None:
        """Raise ProbeError if the draws of a procedure's limit contradict the target."""
        if self._contradicts(limit, 0.0):
            raise ProbeError(f"{family}: what limit() returns are not draws of the target.")

    def _best(self, name: str, model: ModelEvidence) -> Estimate:
        if name == "kl":
            return self._kl(model)
        if name == "reverse_kl":
            return self._reverse_kl(model)
        if name == "total_variation":
            return self._unavailable(name, "total variation needs laws that can be enumerated")
        return self._sampled(name, model)

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
        if self._lost(samples):
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
            return self._estimate(name, bounds, null=0.0, null_error=0.0)
        return Estimate.exact(
            value,
            level=self._level,
            method=method,
            unit=divergence.unit,
            scale=divergence.scale(self._target.spec),
            power=divergence.power,
        )

    def _kl(self, model: ModelEvidence) -> Estimate:
        density = _of_mixture(model.law, self.draws) or model.log_density
        if density is ROUNDED_LAW:  # its draws are compared with those of the precise run
            return self._unavailable("kl", ROUNDED_LAW.reason)
        if isinstance(density, Unavailable):
            known = not isinstance(model.law, Unavailable)
            reason = "the law that was found has no draws infinitely far out, and there are some"
            return self._kl_from_draws(model.samples, reason if known else density.reason)
        found = self._averaged(
            "kl",
            self.log_prob[: len(density.values)] - density.values,
            density,
            of_bound="upper bound",
            over="target draws",
        )
        if found.kind not in ("upper bound", "unavailable"):
            return found
        below = self._kl_from_draws(model.samples, found.method)
        if below.value is None or found.value is None:
            return below
        return self._estimate(
            "kl",
            Measured(
                kind="two bounds",
                method=f"above: {found.method}; below: {VARIATIONAL}",
                rows=found.samples,
                below=below.terms,
                above=found.terms,
            ),
            null=0.0,
            null_error=0.0,
        )

    def _kl_from_draws(self, samples: Tensor, reason: str) -> Estimate:
        """A lower bound on KL from draws alone, where no density is known for the stated reason."""
        lost = lost_rows(samples, self._target.spec.spread or 1.0)
        log_p = torch.full((len(samples),), -torch.inf, dtype=torch.float64, device=samples.device)
        if not bool(lost.all()):
            log_p[~lost] = self._target.log_prob(samples[~lost]).double()
        term = kl_from_below(self._target.spec, self.draws, samples, self.log_prob, log_p)
        if term is None:
            return self._unavailable("kl", reason)
        return self._estimate(
            "kl",
            Measured(
                kind="lower bound",
                method=f"{VARIATIONAL}; no density: {reason}",
                rows=len(samples),
                terms=[term],
            ),
            null=0.0,
            null_error=0.0,
        )

    def _reverse_kl(self, model: ModelEvidence) -> Estimate:
        if lost := self._lost(model.samples):
            return self._estimate(
                "reverse_kl",
                Measured(
                    kind="estimate",
                    method=f"{lost_clause(lost, len(model.samples))}, where the target has no mass",
                    rows=len(model.samples),
                    terms=[Term.infinite("reverse KL")],
                ),
                null=0.0,
                null_error=0.0,
            )
        density = _of_mixture(model.law, model.samples) or model.own_log_density
        if isinstance(density, Unavailable):
            return self._unavailable("reverse_kl", density.reason)
        log_ratio = density.values - self._target.log_prob(model.samples)
        return self._averaged(
            "reverse_kl", log_ratio, density, of_bound="lower bound", over="the model's draws"
        )

    def _averaged(
        self,
        name: str,
        log_ratio: Tensor,
        density: LogDensity,
        *,
        of_bound: Literal["upper bound", "lower bound"],
        over: str,
    ) -> Estimate:
        """The mean log-ratio as an estimate.

        Args:
            name: Name of the divergence.
            log_ratio: (n,), nats.
            density: The log-density that the log-ratio was computed from.
            of_bound: Kind of the estimate where the log-density is only a lower bound.
            over: The draws averaged over, in words for the method.
        """
        # The density is of all tokens, and auxiliary tokens can only add to a divergence.
        auxiliary = self._target.spec.scored is not None
        notes = ", of all tokens with the auxiliary ones" if auxiliary else ""
        kind: Kind = "upper bound" if auxiliary else "estimate"
        if density.bound:
            kind = of_bound
            if auxiliary and of_bound == "lower bound":
                return self._unavailable(name, f"a bound on each side{notes}")
        tail = tail_index(log_ratio.double().cpu().numpy())
        if tail > HEAVY:
            kind = "lower bound"
            notes += f"; the tail index of the log-ratios is {tail:.2g}: their mean falls short"
            if auxiliary or (density.bound and of_bound == "upper bound"):
                return self._unavailable(name, f"a bound whose mean falls short{notes}")
        term = kl_term(log_ratio)
        if kind != "lower bound" and term.p_within(-KL_ROUNDING) <= 1 - CONTRADICTION_LEVEL:
            return self._unavailable(
                name, f"the log-density does not integrate to 1: KL {term.value:.3g} is below 0"
            )
        return self._estimate(
            name,
            Measured(
                kind=kind,
                method=f"log-density by {density.method}, averaged over {over}{notes}",
                rows=len(log_ratio),
                terms=[term],
            ),
            null=0.0,  # the target's own density gives exactly 0 at every draw
            null_error=0.0,
        )

    def _sampled(self, name: str, model: ModelEvidence) -> Estimate:
        null = self._null[name].terms or self._null[name].below
        return self._estimate(
            name,
            self._measures[name].of(model.samples, model.limit()),
            null=max(term.value for term in null),
            null_error=max(term.standard_error for term in null),
        )

    def _lost(self, samples: Tensor) -> int:
        """Number of lost rows among the draws; see `capcheck.divergences.lost`."""
        counted = samples[:, list(self._target.spec.counted)]
        return int(lost_rows(counted, self._target.spec.spread or 1.0).sum())

    def _estimate(
        self, name: str, measured: Measured, *, null: float, null_error: float
    ) -> Estimate:
        divergence = self._divergences[name]
        return Estimate.of(
            measured.terms,
            below=measured.below,
            above=measured.above,
            level=self._level,
            kind=measured.kind,
            method=measured.method,
            samples=measured.rows,
            null=null,
            null_error=null_error,
            unit=divergence.unit,
            scale=divergence.scale(self._target.spec),
            power=divergence.power,
        )

    def _unavailable(self, name: str, reason: str) -> Estimate:
        return Estimate.unavailable(reason, level=self._level, unit=self._divergences[name].unit)


def _of_mixture(law: ExactLaw | Unavailable, x: Tensor) -> LogDensity | None:
    """The log-density of a `MixtureLaw` at x, or None for any other law.

    The divergences of a mixture have no closed form, so they are averaged from its log-density.
    """
    if not isinstance(law, MixtureLaw):
        return None
    values = law.log_prob(x).to(x)
    return LogDensity(values=values, method=f"the exact mixture over {len(law.laws)} orders")


def _is_small(spec: SequenceSpec) -> bool:
    """Whether a target has at most `ENUMERATED` sequences: its law takes seconds to enumerate."""
    return spec.kind == "categorical" and spec.dim**spec.tokens <= ENUMERATED
