"""The routes to KL and reverse KL of a model for which neither has a closed form.

The best route is the mean of the log-ratio over draws, of a mixture that is known exactly or of the
log-density that the procedure states. It is a bound if the log-density is one, if its tail is heavy
or if some tokens do not count. Without a density a classifier bounds KL from below.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.unavailable import Unavailable
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.control import GaussianControl
from capcheck.divergences.estimate import Estimate, Kind, Term
from capcheck.divergences.evidence import CONTRADICTION_LEVEL, ModelEvidence
from capcheck.divergences.kl import HEAVY, kl_term, tail_index
from capcheck.divergences.known_draws import KnownDraws
from capcheck.divergences.lost import lost_clause, lost_count, lost_rows
from capcheck.divergences.measured import Measured
from capcheck.divergences.variational import kl_from_below
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.procedures.coordinates import ExactLaw
from capcheck.procedures.procedure import ROUNDED_LAW
from capcheck.targets.target import Target

__all__ = ["KL_ROUNDING", "KLRoutes"]

VARIATIONAL = "variational bound by a classifier of the draws"
NO_MEAN = 1.0  # tail index from which a law has no mean
KL_ROUNDING = 1e-3  # nats by which rounding may take an estimated KL below 0


class KLRoutes:
    """Estimates KL and reverse KL of models from one target.

    Args:
        target: The target.
        known: Draws of the target, as many as are asked for.
        draws: The draws that models' draws are compared with, (n, N, d) or (n, N).
        level: Confidence of the intervals.
    """

    def __init__(self, target: Target, known: KnownDraws, draws: Tensor, *, level: float) -> None:
        self._target, self._level = target, level
        self._known, self._draws = known, draws
        self._divergences = DIVERGENCES[target.spec.kind]

    @functools.cached_property
    def _control(self) -> GaussianControl | None:
        return GaussianControl.of(self._target)

    def steadied(self, log_ratio: Tensor, draws: Tensor) -> Tensor:
        """Log-ratios (n,) at draws of the target, of less variance and with the same mean."""
        return log_ratio if self._control is None else self._control.subtracted(log_ratio, draws)

    def kl(self, model: ModelEvidence) -> Estimate:
        """KL(p* || q) of a model: from its density, else a lower bound from its draws."""
        density = _of_mixture(model.law, self._draws) or model.log_density
        if density is ROUNDED_LAW:  # its draws are compared with those of the precise run
            return self._unavailable("kl", ROUNDED_LAW.reason)
        if isinstance(density, Unavailable):
            known = not isinstance(model.law, Unavailable)
            reason = "the law that was found has no draws infinitely far out, and there are some"
            return self._from_draws(model.samples, reason if known else density.reason)
        found = self.by_density(density)
        if found.kind not in ("upper bound", "unavailable"):
            return found
        term = self._below_by_density(density)
        if term is not None and found.value is not None:
            return self._between(found, [term], "the same weights")
        below = self._from_draws(model.samples, found.method)
        if found.value is None:
            return below
        if below.value is None:
            return found
        return self._between(found, below.terms, VARIATIONAL)

    def by_density(self, density: LogDensity) -> Estimate:
        """KL by a log-density at draws of the target; of a bound on it, KL from above."""
        rows = len(density.values)
        return self._averaged(
            "kl",
            self._known.log_prob(rows) - density.values,
            density,
            of_bound="upper bound",
            over="target draws",
            draws=self._known.draws(rows),
        )

    def _below_by_density(self, density: LogDensity) -> Term | None:
        """KL from below by upper bounds on the log-density, or None if they say little.

        They say little if they are nearer to KL 0 than to KL from above. Where their excess has a
        heavy tail, its mean falls short, and KL would be overrated.
        """
        if density.above is None or self._target.spec.scored is not None:
            return None
        log_p = self._known.log_prob(len(density.above))
        below, above = log_p - density.above, log_p - density.values
        if not float(below.mean()) >= float(above.mean()) / 2:
            return None
        excess = density.above - density.values
        heavy = tail_index(_numpy(-below)) > HEAVY or tail_index(_numpy(excess)) >= NO_MEAN
        return None if heavy else kl_term(below)

    def _between(self, above: Estimate, below: Sequence[Term], how: str) -> Estimate:
        """KL between an upper bound and terms from below."""
        return self._estimate(
            "kl",
            Measured(
                kind="two bounds",
                method=f"above: {above.method}; below: {how}",
                rows=above.samples,
                below=below,
                above=above.terms,
            ),
        )

    def _from_draws(self, samples: Tensor, reason: str) -> Estimate:
        """A lower bound on KL from draws alone, where no density is known for the stated reason."""
        lost = lost_rows(samples, self._target.spec.spread or 1.0)
        log_p = torch.full((len(samples),), -torch.inf, dtype=torch.float64, device=samples.device)
        if not bool(lost.all()):
            log_p[~lost] = self._target.log_prob(samples[~lost]).double()
        of_target = self._known.log_prob(len(self._draws))
        term = kl_from_below(self._target.spec, self._draws, samples, of_target, log_p)
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
        )

    def reverse_kl(self, model: ModelEvidence) -> Estimate:
        """KL(q || p*) of a model, from its density at its own draws."""
        if lost := lost_count(model.samples, self._target.spec):
            return self._estimate(
                "reverse_kl",
                Measured(
                    kind="estimate",
                    method=f"{lost_clause(lost, len(model.samples))}, where the target has no mass",
                    rows=len(model.samples),
                    terms=[Term.infinite("reverse KL")],
                ),
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
        draws: Tensor | None = None,
    ) -> Estimate:
        """The mean log-ratio as an estimate.

        Args:
            name: Name of the divergence.
            log_ratio: (n,), nats.
            density: The log-density that the log-ratio was computed from.
            of_bound: Kind of the estimate where the log-density is only a lower bound.
            over: The draws averaged over, in words for the method.
            draws: These draws, if they are the target's, so that a control variate applies.
        """
        # The density is of all tokens, and auxiliary tokens can only add to a divergence.
        auxiliary = self._target.spec.scored is not None
        notes = ", of all tokens with the auxiliary ones" if auxiliary else ""
        kind: Kind = "upper bound" if auxiliary else "estimate"
        if density.bound:
            kind = of_bound
            if auxiliary and of_bound == "lower bound":
                return self._unavailable(name, f"a bound on each side{notes}")
        tail = tail_index(_numpy(log_ratio))
        if tail > HEAVY:
            kind = "lower bound"
            notes += f"; the tail index of the log-ratios is {tail:.2g}: their mean falls short"
            if auxiliary or (density.bound and of_bound == "upper bound"):
                return self._unavailable(name, f"a bound whose mean falls short{notes}")
        if draws is not None and self._control is not None:
            log_ratio = self._control.subtracted(log_ratio, draws)
            over += " with a control variate"
        term = kl_term(log_ratio, density.shared)  # influences count without their sign
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
        )

    def _estimate(self, name: str, measured: Measured) -> Estimate:
        return measured.estimate(self._divergences[name], self._target.spec, level=self._level)

    def _unavailable(self, name: str, reason: str) -> Estimate:
        return Estimate.unavailable(reason, level=self._level, unit=self._divergences[name].unit)


def _numpy(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _of_mixture(law: ExactLaw | Unavailable, x: Tensor) -> LogDensity | None:
    """The log-density of a `MixtureLaw` at x, or None for any other law.

    The divergences of a mixture have no closed form, so they are averaged from its log-density.
    """
    if not isinstance(law, MixtureLaw):
        return None
    values = law.log_prob(x).to(x)
    return LogDensity(values=values, method=f"the exact mixture over {len(law.laws)} orders")
