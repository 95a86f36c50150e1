"""A plan names a measured procedure by its family, its options and its network."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from capcheck.core.errors import InputError
from capcheck.core.record import Record
from capcheck.networks.kinds import ORACLE, NetworkKind, PerturbedNetwork, RoundedNetwork
from capcheck.networks.rounded import Precision
from capcheck.procedures.errors import named_errors
from capcheck.procedures.probe import AnyProbe, Failure
from capcheck.procedures.rows import Row

__all__ = ["FamilyEntry", "FamilyPlan", "FitFacts", "NetworkFacts", "SuspectPlan", "plan_of"]


class FamilyPlan(Record):
    """A procedure to be measured, with its network.

    Attributes:
        family: Name of the family.
        options: Options of the family, defaults included.
        network: The network that the procedure calls.
    """

    family: str
    options: dict[str, Any]
    network: NetworkKind = ORACLE

    @property
    def title(self) -> str:
        """Name of the family, followed by the network and its objective if it is not the oracle."""
        return self.family if self.network.kind == "oracle" else f"{self.family}, {self.network}"

    def with_network(self, network: NetworkKind) -> FamilyPlan:
        """The same procedure with another network."""
        return self.model_copy(update={"network": network})

    def rounded(self, precision: Precision) -> FamilyPlan:
        """The same procedure and network in fewer digits."""
        network = self.network
        assert not isinstance(network, (RoundedNetwork, PerturbedNetwork))
        return self.with_network(RoundedNetwork(of=network, precision=precision))

    def with_oracle(self) -> FamilyPlan:
        """The same procedure with its oracle."""
        return self.with_network(ORACLE)


class SuspectPlan(Record):
    """A possible cause of a family's floor, and the procedure that lacks this cause.

    Attributes:
        failure: Class of the cause.
        cure: The change that removes the cause, as a phrase to follow "with".
        plan: The changed procedure.
    """

    failure: Failure
    cure: str
    plan: FamilyPlan


class FamilyEntry(Record):
    """The record of a family in a run, which allows reading results without the family's code.

    Attributes:
        plan: The measured procedure and network.
        row: The family's row in the paper's table, or the row that its procedure belongs to if the
            table does not list the family.
        in_paper: Whether the paper's table lists the family.
        suspects: Possible causes of a floor, each with the procedure that lacks it.
    """

    plan: FamilyPlan
    row: Row
    in_paper: bool
    suspects: tuple[SuspectPlan, ...] = ()

    @classmethod
    def of(cls, probe: AnyProbe) -> FamilyEntry:
        """The entry of a probe with its oracle."""
        with named_errors(probe):
            found = probe.suspects()
        suspects = tuple(
            SuspectPlan(failure=one.failure, cure=one.cure, plan=plan_of(one.probe))
            for one in found
        )
        return cls(
            plan=plan_of(probe),
            row=probe.row,
            in_paper=probe.in_paper,
            suspects=suspects,
        )

    def with_network(self, network: NetworkKind) -> FamilyEntry:
        """The same procedure with another network."""
        return self.model_copy(update={"plan": self.plan.with_network(network)})


def plan_of(probe: AnyProbe) -> FamilyPlan:
    """The plan of a probe with its oracle."""
    facts = dataclasses.asdict(probe)
    try:
        options = to_jsonable_python(facts)  # with lists, as JSON has no tuples
    except PydanticSerializationError as error:
        raise InputError(
            f"options of {probe.family} must be data that JSON can hold, got {facts}: {error}; "
            "make an option a number, a text or a list."
        ) from None
    return FamilyPlan(family=probe.family, options=options)


class FitFacts(Record):
    """The outcome of fitting a network; see `capcheck.fit`.

    Attributes:
        validation: Loss on held-out rows minus that of the oracle, after the fit.
        start: Loss on held-out rows minus that of the oracle, before the fit.
        steps: Steps of the optimiser.
        seconds: Wall-clock time of the fit, in seconds.
        diverged: Whether the loss rose or became NaN or infinite.
        too_short: Whether no step improved the loss, or the time sufficed only for the minimum
            number of steps.
        reason: How the fit ended, as a clause.
    """

    validation: float
    start: float
    steps: int
    seconds: float
    diverged: bool
    too_short: bool
    reason: str

    @property
    def failure(self) -> str | None:
        """The reason why the fit says nothing about the network's capacity, or None."""
        if self.diverged:
            return f"the fit diverged: {self.reason}"
        return f"the fit was too short: {self.reason}" if self.too_short else None

    def __str__(self) -> str:
        return (
            f"validation {self.start:.3g} to {self.validation:.3g} in {self.steps:,} steps and "
            f"{self.seconds:.0f} s ({self.failure or self.reason})"
        )


class NetworkFacts(Record):
    """Size, weights and fit of a network that replaces the oracle.

    Attributes:
        parameters: Number of parameters, or None if they cannot be counted.
        weights: SHA-256 of structure and weights, or empty if the weights are not accessible.
        fit: Outcome of the fit, or None if the network is measured as it is.
    """

    parameters: int | None = None
    weights: str = ""
    fit: FitFacts | None = None
