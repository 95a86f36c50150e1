"""What is measured beside the grid of a family: its oracle, suspects, precisions and errors."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

from capcheck.core.budget import Budget
from capcheck.core.errors import ControlFlow, UnfitError, reason_of
from capcheck.core.pace import time_limit
from capcheck.judging.causes import has_floor, more_draws_would_show, settings_of_suspects
from capcheck.networks.kinds import PerturbedNetwork
from capcheck.networks.perturbed import PERTURBATIONS, NotPerturbed
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell
from capcheck.results.plan import FamilyPlan
from capcheck.results.settings import Settings
from capcheck.runs.assembly import Assembly, sensitive_budget
from capcheck.runs.candidates import Candidate
from capcheck.runs.cells import Cells
from capcheck.runs.claims import Busy, Claims, claim_name
from capcheck.runs.drafts import speculation_of
from capcheck.runs.log import logger
from capcheck.runs.looks import Looks
from capcheck.runs.making import Maker

__all__ = ["SHARE_OF_CAUSES", "Beside"]

SHARE_OF_CAUSES = 0.1  # of --seconds-per-run, for a run of a suspect: no verdict depends on it


class Beside:
    """Measures the cells that stand beside the grids of a run's families.

    Args:
        settings: Settings of the run.
        cells: Cells of the run.
        assembly: The assembly of the run's results.
        looks: Measures cells.
        maker: Makes procedures.
        claims: Claims of this process, by which others learn which suspects cannot be measured.
        hopeless: Names of such suspects, to which those that this process learns of are added.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        cells: Cells,
        assembly: Assembly,
        looks: Looks,
        maker: Maker,
        claims: Claims,
        hopeless: set[str],
    ) -> None:
        self._settings, self._cells, self._assembly = settings, cells, assembly
        self._looks, self._maker = looks, maker
        self._claims, self._hopeless = claims, hopeless
        self._busy = False

    def measure(
        self, candidate: Candidate, procedure: AnyProcedure, look: int, found: FamilyResult
    ) -> None:
        """Measure what belongs to a candidate at a look.

        Args:
            candidate: The candidate.
            procedure: Its procedure, with its network.
            look: Number of the look, 0 for the first.
            found: What its grid shows.

        Raises:
            Busy: Other processes are measuring some of it; all else is measured.
        """
        self._busy = False
        plan, settings = candidate.plan, self._settings.at(look)
        if candidate.network is not None:
            self._measure_oracle_of(candidate, settings)
        elif has_floor(found):
            tried = settings_of_suspects(self._settings, look, found.cells[-1])
            self._measure_suspects(candidate, tried, found.cells[-1])
        self._verify_drafts(plan, procedure)
        self._measure_rounded(plan, procedure, settings)
        if candidate.network is None:
            self._measure_perturbed(plan, procedure, settings, sensitive_budget(found))
        if self._busy:
            raise Busy

    def _measure_oracle_of(self, candidate: Candidate, settings: Settings) -> None:
        """Measure the oracle at the same look as its network.

        Both then have equal sample sizes, and their difference, the gap, is paired.
        """
        plan = candidate.plan.with_oracle()
        if self._cells.unfit(plan) is not None:
            return
        try:
            with self._deferred():
                procedure = self._maker.procedure(candidate.probe)
                self._looks.measure(plan, procedure, settings)
        except ControlFlow:
            raise
        except Exception as error:  # the oracle's own result states the reason
            logger.exception("%s has no oracle to be compared with", candidate.plan.title)
            self._cells.note(plan, reason_of(error))

    def _measure_suspects(
        self, candidate: Candidate, tried: Sequence[Settings], floor: Cell
    ) -> None:
        """Measure the budget of a floor with each suspected cause removed, until it is clear."""
        for suspect, named in zip(
            candidate.probe.suspects(), candidate.entry.suspects, strict=True
        ):
            plan = named.plan
            name = claim_name(suspect=plan.to_json(), of=candidate.plan.to_json())
            if self._claims.given_up(name):
                self._hopeless.add(name)
            if name in self._hopeless:  # it may have taken a minute to find out
                continue
            try:
                with self._deferred(), time_limit(SHARE_OF_CAUSES * self._settings.seconds_per_run):
                    procedure = self._maker.procedure(suspect.probe)
                    label = f"{plan.title} with {suspect.cure}"
                    before: Settings | None = None
                    for settings in tried:
                        if not self._should_show(plan, settings, floor, before):
                            break
                        self._looks.measure(plan, procedure, settings, [floor.budget], label=label)
                        if self._assembly.cause(named, settings, floor) is not None:
                            break
                        before = settings
            except UnfitError as error:  # it has no oracle on this target, or takes too long
                logger.info("%s is no suspect: %s", plan.title, error)
                self._hopeless.add(name)
                self._claims.give_up(name)
            except ControlFlow:
                raise
            except Exception:  # the family itself was measured, and keeps its result
                logger.exception("%s, a suspect, failed", plan.title)

    def _should_show(
        self, plan: FamilyPlan, settings: Settings, floor: Cell, before: Settings | None
    ) -> bool:
        """Whether settings should show what a suspect does, which those before did not."""
        if before is None or settings.samples <= before.samples:
            return True
        tried = self._cells.get(self._assembly.key(plan, floor.budget, before))
        assert tried is not None
        return more_draws_would_show(tried, floor, self._settings, samples=settings.samples)

    def _verify_drafts(self, plan: FamilyPlan, procedure: AnyProcedure) -> None:
        """Tell how a procedure's drafts fare under verification, unless the run knows it."""
        self._cells.refresh()
        if self._cells.speculation(plan) is not None:
            return
        try:
            found = speculation_of(procedure, self._settings)
        except ControlFlow:
            raise
        except Exception:  # the family itself was measured, and keeps its result
            logger.exception("the drafts of %s cannot be verified", plan.title)
            return
        if found is not None:
            self._cells.keep_speculation(plan, found)

    def _measure_rounded(
        self, plan: FamilyPlan, procedure: AnyProcedure, settings: Settings
    ) -> None:
        """Measure the whole grid again in each precision that the settings name."""
        for precision in self._settings.precisions:
            rounded = plan.rounded(precision)
            with self._failures_noted(rounded), self._deferred():
                self._looks.measure(
                    rounded, procedure.rounded(precision), settings, precise=procedure
                )

    def _measure_perturbed(
        self, plan: FamilyPlan, procedure: AnyProcedure, settings: Settings, budget: Budget
    ) -> None:
        """Measure one budget with oracle errors of each kind and size that the settings name."""
        for kind, size in itertools.product(PERTURBATIONS, self._settings.sensitivity):
            perturbed = plan.with_network(PerturbedNetwork(perturbation=kind, size=size))
            with (
                self._failures_noted(perturbed),
                self._deferred(),
                contextlib.suppress(NotPerturbed),
            ):
                self._looks.measure(perturbed, procedure.perturbed(kind, size), settings, [budget])

    @contextlib.contextmanager
    def _deferred(self) -> Iterator[None]:
        """Go on with other cells while another process measures some of these."""
        try:
            yield
        except Busy:
            self._busy = True

    @contextlib.contextmanager
    def _failures_noted(self, plan: FamilyPlan) -> Iterator[None]:
        """Keep the reason why an additional measurement failed; the result stands without it."""
        try:
            yield
        except ControlFlow:
            raise
        except Exception as error:
            logger.exception("%s failed", plan.title)
            self._cells.note(plan, reason_of(error))
