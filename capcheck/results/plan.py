"""What is measured of a family: its procedure, its options and the network in it."""

from __future__ import annotations

import dataclasses
from typing import Any

from capcheck.core.record import Record
from capcheck.networks.kinds import ORACLE, NetworkKind, PerturbedNetwork, RoundedNetwork
from capcheck.networks.rounded import Precision
from capcheck.procedures.probe import AnyProbe, Failure, Row


class FamilyPlan(Record):
    """Which procedure is measured, and with which network.

    Attributes:
        family: Its name.
        options: Its options, defaults included.
        network: Stands behind its signature.
    """

    family: str
    options: dict[str, Any]
    network: NetworkKind = ORACLE

    @property
    def title(self) -> str:
        """The family, the network if it is not the oracle, and how it was fitted if not to it."""
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
    """A possible cause of a family's floor, and the procedure that lacks it.

    Attributes:
        failure: Class of the cause.
        cure: What is changed, to follow "with".
        plan: The changed procedure.
    """

    failure: Failure
    cure: str
    plan: FamilyPlan


class FamilyEntry(Record):
    """All that a run keeps of a family, so that results can be read without its code.

    Attributes:
        plan: What is measured.
        row: Where the paper's table puts it, or where it belongs if the table does not have it.
        in_paper: Whether the table has it.
        suspects: What may keep the procedure from the target.
    """

    plan: FamilyPlan
    row: Row
    in_paper: bool
    suspects: tuple[SuspectPlan, ...] = ()

    @classmethod
    def of(cls, probe: AnyProbe) -> FamilyEntry:
        """The entry of a probe with its oracle."""
        suspects = tuple(
            SuspectPlan(failure=one.failure, cure=one.cure, plan=plan_of(one.probe))
            for one in probe.suspects()
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
    options = {name: list(x) if isinstance(x, tuple) else x for name, x in facts.items()}
    return FamilyPlan(family=probe.family, options=options)  # as JSON gives it back


class FitFacts(Record):
    """What a fit came to; see `capcheck.fit`.

    Attributes:
        validation: Loss on held-out rows less the oracle's own; 0 is the oracle.
        start: The same before the fit.
        steps: Of the optimiser.
        seconds: Wall-clock time.
        diverged: The loss rose or broke.
        too_short: No step made it better, or there was time for the fewest steps only.
        reason: How it ended.
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
        """Why it shows nothing of what the network could do, or None if it does."""
        if self.diverged:
            return f"the fit diverged: {self.reason}"
        return f"the fit was too short: {self.reason}" if self.too_short else None

    def __str__(self) -> str:
        return (
            f"validation {self.start:.3g} to {self.validation:.3g} in {self.steps:,} steps and "
            f"{self.seconds:.0f} s ({self.failure or self.reason})"
        )


class NetworkFacts(Record):
    """What stands in the oracle's place.

    Attributes:
        parameters: Numbers that can be fitted, or None if they cannot be counted.
        weights: SHA-256 of structure and weights, or empty if there are none to be seen.
        fit: What the fit came to, or None if the network is measured as it is.
    """

    parameters: int | None = None
    weights: str = ""
    fit: FitFacts | None = None
