"""Candidates: procedures with their networks, which are made, checked and fitted here."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, InputError, UnfitError
from capcheck.fitting.checkpoint import content_key
from capcheck.fitting.fit import Fitted, fit_procedure
from capcheck.fitting.named import Named, is_architecture, make, placed, require_fittable
from capcheck.fitting.network_check import answers_of, require_density
from capcheck.fitting.networks import Network
from capcheck.fitting.session import Progress
from capcheck.networks.kinds import FittedNetwork
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.plan import FamilyEntry, FamilyPlan, FitFacts, NetworkFacts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A probe with a network, to be measured.

    Attributes:
        probe: The procedure.
        entry: What a run keeps of it.
        network: Where the plan's network comes from, or None for the oracle.
    """

    probe: AnyProbe
    entry: FamilyEntry
    network: Named | None = None

    @property
    def plan(self) -> FamilyPlan:
        """What is measured of it."""
        return self.entry.plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedNetwork:
    """A candidate's network before it is fitted.

    Attributes:
        module: What a fit begins with.
        network: As a procedure calls it.
        name: For sentences.
        answers: What tells it from others of the same structure and weights.
    """

    module: Any
    network: Callable[..., Any]
    name: str
    answers: str


def checked_network(
    candidate: Candidate, procedure: AnyProcedure, budgets: Sequence[Budget], *, seed: int
) -> CheckedNetwork:
    """Make the network of a candidate, and check it in a few calls.

    Args:
        candidate: With a network.
        procedure: Of the candidate's probe, with its oracle.
        budgets: Of the run.
        seed: Of first weights.

    Raises:
        UnfitError: There is no such network, or something is wrong with it.
    """
    plan, named = candidate.plan, candidate.network
    assert named is not None
    with _unfit():
        module = make(named, procedure, seed=seed)
        name = plan.network.name if isinstance(named, str) else type(module).__name__
        network = placed(module, procedure.spec, name=name)
        answers = answers_of(network, procedure, budgets, name=name)
        require_density(network, procedure, name=name)
        if isinstance(plan.network, FittedNetwork):
            require_fittable(module, name=name)
    # Of capcheck's own modules the weights say everything, to the last digit.
    answers = "" if is_architecture(named) else answers
    return CheckedNetwork(module=module, network=network, name=name, answers=answers)


def fitted_network(
    candidate: Candidate,
    checked: CheckedNetwork,
    procedure: AnyProcedure,
    budgets: Sequence[Budget],
    *,
    seed: int,
    folder: Path | None,
    progress: Progress,
) -> tuple[Callable[..., Any], NetworkFacts]:
    """What stands in the oracle's place, fitted or as it is, and what there is to know of it.

    Args:
        candidate: With a network.
        checked: The network before it is fitted.
        procedure: Of the candidate's probe, with its oracle.
        budgets: Of the run.
        seed: Of the fit.
        folder: Where fits are kept, if they are.
        progress: Told how far the fit is.

    Raises:
        UnfitError: The network cannot be fitted.
    """
    kind = candidate.plan.network
    if not isinstance(kind, FittedNetwork):
        return checked.network, _facts_of(checked.network, None, answers=checked.answers)
    try:
        with _unfit():
            fitted = fit_procedure(
                procedure,
                checked.module,
                budgets=budgets,
                seed=seed,
                folder=folder,
                progress=progress,
                objective=kind.objective,
                distinction=checked.answers,
                steps=kind.steps,
                seconds=kind.seconds,
            )
            require_density(fitted.network, procedure, name=checked.name)  # it has moved
    except CapcheckError:
        raise
    except Exception as error:
        if is_architecture(candidate.network or ""):
            raise
        raise UnfitError(
            f"network {checked.name} could not be fitted, and raised {type(error).__name__}: "
            f"{error}."
        ) from error
    return fitted.network, _facts_of(fitted.network, fitted, answers=checked.answers)


@contextlib.contextmanager
def _unfit() -> Iterator[None]:
    """Turn what is wrong with a network on this target into the reason why it is not measured."""
    try:
        yield
    except UnfitError:
        raise
    except InputError as error:
        raise UnfitError(str(error)) from error


def _facts_of(network: Callable[..., Any], fitted: Fitted | None, *, answers: str) -> NetworkFacts:
    """What there is to know of a network: its size, its weights, its fit.

    Args:
        network: As a procedure calls it.
        fitted: What its fit came to, if there was one.
        answers: What tells it from others of the same structure and weights.
    """
    module = network.module if isinstance(network, Network) else network
    fit = None
    if fitted is not None:
        fit = FitFacts(**{name: getattr(fitted, name) for name in FitFacts.model_fields})
    if not isinstance(module, nn.Module):
        return NetworkFacts(weights=answers, fit=fit)
    return NetworkFacts(
        parameters=sum(p.numel() for p in module.parameters()),
        weights=content_key(module, (answers,)),
        fit=fit,
    )
