"""The network of a procedure: oracle, fitted, given, rounded or perturbed, as data.

A plan holds one value of this type. It tells how a network is made, and is a part of what tells one
cell of a run from another.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capcheck.core.record import Record
from capcheck.networks.perturbed import Perturbation
from capcheck.networks.rounded import Precision

Objective = Literal["oracle", "end_to_end"]


class OracleNetwork(Record):
    """The optimum of the family's own training objective on the target."""

    kind: Literal["oracle"] = "oracle"

    @property
    def name(self) -> str:
        """What results call it."""
        return "oracle"

    def __str__(self) -> str:
        return self.name


class FittedNetwork(Record):
    """A module that is fitted before it is measured.

    Attributes:
        name: An architecture (`mlp:width=128,depth=3`), a factory (`package.module:name`), or
            `given` for an object of the caller's.
        objective: What it is fitted to: the oracle's answers, or the target `end_to_end` through
            the procedure.
        steps: Steps of the fit, or None if its time is limited.
        seconds: Time of the fit, or None if its steps are counted.
    """

    kind: Literal["fitted"] = "fitted"
    name: str
    objective: Objective = "oracle"
    steps: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.name} end to end" if self.objective == "end_to_end" else self.name


class GivenNetwork(Record):
    """A network that is measured as it is.

    Attributes:
        name: A factory (`package.module:name`), or `given` for an object of the caller's.
    """

    kind: Literal["given"] = "given"
    name: str = "given"

    def __str__(self) -> str:
        return self.name


class PerturbedNetwork(Record):
    """The oracle with errors of a known size.

    Attributes:
        perturbation: Kind of the errors.
        size: Their size, above 0.
    """

    kind: Literal["perturbed"] = "perturbed"
    perturbation: Perturbation
    size: float

    @property
    def name(self) -> str:
        """What results call it."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.perturbation} {self.size:g}"


class RoundedNetwork(Record):
    """A network, and the procedure around it, in fewer digits.

    Attributes:
        of: The network.
        precision: Of tokens, levels, noise and answers; `float8` of answers only.
    """

    kind: Literal["rounded"] = "rounded"
    of: Annotated[OracleNetwork | FittedNetwork | GivenNetwork, Field(discriminator="kind")]
    precision: Precision

    @property
    def name(self) -> str:
        """What results call it."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.of} in {self.precision}"


NetworkKind = Annotated[
    OracleNetwork | FittedNetwork | GivenNetwork | RoundedNetwork | PerturbedNetwork,
    Field(discriminator="kind"),
]
ORACLE = OracleNetwork()
