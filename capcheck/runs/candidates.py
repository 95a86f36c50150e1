"""Candidates: a candidate is a probe with a network, which a run measures.

`checked_network` makes the network of a candidate and checks it in a few calls, and
`fitted_network` fits it where the plan says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, ControlFlow, InputError, UnfitError
from capcheck.core.version import __version__, class_digest, code_digest
from capcheck.fitting.checkpoint import content_key
from capcheck.fitting.fit import Fitted, fit_procedure
from capcheck.fitting.named import (
    Named,
    is_architecture,
    make,
    placed,
    require_fittable,
    require_named,
)
from capcheck.fitting.network_check import check_network, require_density
from capcheck.fitting.networks import Network
from capcheck.fitting.session import Progress
from capcheck.networks.kinds import FittedNetwork
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import AnyProcedure
from capcheck.procedures.registry import build_probe
from capcheck.results.plan import FamilyEntry, FamilyPlan, FitFacts, NetworkFacts
from capcheck.results.survey import MeasuredBy

__all__ = ["Candidate", "CheckedNetwork", "checked_network", "fitted_network", "measured_by"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A probe with a network, to be measured.

    Attributes:
        probe: The family's procedure.
        entry: Record of the candidate that the run folder keeps.
        network: Source of the plan's network (a name or a callable), or None for the oracle.
    """

    probe: AnyProbe
    entry: FamilyEntry
    network: Named | None = None

    @property
    def plan(self) -> FamilyPlan:
        """The procedure, options and network that are measured."""
        return self.entry.plan

    @classmethod
    def again(cls, entry: FamilyEntry, *, allowed: Sequence[str]) -> Candidate:
        """The candidate that a manifest's entry records.

        Args:
            entry: Entry of the manifest.
            allowed: Names of the functions (`package.module:function`) that may be imported.

        Raises:
            InputError: The network is an object of a program, or a function that is not allowed.
        """
        plan = entry.plan
        probe = build_probe(plan.family, plan.options)
        if plan.network.kind == "oracle":
            return cls(probe=probe, entry=entry)
        name = plan.network.name
        if name == "given":
            raise InputError(
                f"the run measures a network of {plan.family} that a program gave as an object; "
                "only that program can measure it."
            )
        if not is_architecture(name) and name not in allowed:
            raise InputError(
                f"the run measures the network {name}, a function; name it with networks "
                f"(--network {name}), since nothing that a file names is executed."
            )
        return cls(probe=probe, entry=entry, network=require_named(name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedNetwork:
    """A candidate's network before it is fitted.

    Attributes:
        module: The object that was made or given, with which a fit begins.
        network: The same network in the form that a procedure calls.
        name: Name of the network in messages.
        answers: Digest of the network's answers, which tells it from others of the same structure
            and weights; empty for capcheck's own architectures.
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
        candidate: Candidate that has a network.
        procedure: Procedure of the candidate's probe, with its oracle.
        budgets: Budgets of the run.
        seed: Seed of the network's first weights.

    Raises:
        UnfitError: There is no such network, or it fails the check.
    """
    plan, named = candidate.plan, candidate.network
    assert named is not None
    with _unfit():
        module = make(named, procedure, seed=seed)
        name = plan.network.name if isinstance(named, str) else type(module).__name__
        network = placed(module, procedure.spec, name=name)
        answers = check_network(network, procedure, budgets, name=name)
        require_density(network, procedure, name=name)
        if isinstance(plan.network, FittedNetwork):
            require_fittable(module, name=name)
    # The weights alone identify a module of one of capcheck's own architectures.
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
    """Fit the network of a candidate if its plan says so, and describe the network.

    Args:
        candidate: Candidate that has a network.
        checked: The network before it is fitted.
        procedure: Procedure of the candidate's probe, with its oracle.
        budgets: Budgets of the run.
        seed: Seed of the fit.
        folder: Folder that fits are kept in, or None to keep none.
        progress: Function that is called with the progress of the fit.

    Returns:
        The network to measure in place of the oracle, and the facts about it that results show.

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
            # The fit has changed the density that was checked before.
            require_density(fitted.network, procedure, name=checked.name)
    except (CapcheckError, ControlFlow):
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
    """Turn an InputError about a network into an UnfitError, a reason not to measure it."""
    try:
        yield
    except (UnfitError, ControlFlow):
        raise
    except InputError as error:
        raise UnfitError(str(error)) from error


def _facts_of(network: Callable[..., Any], fitted: Fitted | None, *, answers: str) -> NetworkFacts:
    """Describe a network by its number of parameters, the digest of its weights and its fit.

    Args:
        network: The network in the form that a procedure calls.
        fitted: Result of the fit, or None if the network is measured as it is.
        answers: Digest of the network's answers; see `CheckedNetwork`.
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


def measured_by(candidates: Sequence[Candidate]) -> MeasuredBy:
    """The version and the digests of the code that measures some candidates."""
    probes = [one.probe for one in candidates]
    probes += [suspect.probe for probe in probes for suspect in probe.suspects()]
    families = {probe.family: class_digest(type(probe)) for probe in probes}
    return MeasuredBy(version=__version__, code=code_digest(), families=families)
