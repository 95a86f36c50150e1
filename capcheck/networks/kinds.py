"""Kinds of networks, as data: oracle, fitted, given, rounded or perturbed.

The plan of a family holds one value of these types. It records how the network is made, and is a
part of the key of every cell that the network is measured in.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capcheck.core.record import Record
from capcheck.networks.perturbed import Perturbation
from capcheck.networks.rounded import Precision

__all__ = [
    "ORACLE",
    "FittedNetwork",
    "GivenNetwork",
    "NetworkKind",
    "Objective",
    "OracleNetwork",
    "PerturbedNetwork",
    "RoundedNetwork",
]

Objective = Literal["oracle", "end_to_end"]


class OracleNetwork(Record):
    """The optimum of the family's own training objective on the target."""

    kind: Literal["oracle"] = "oracle"

    @property
    def name(self) -> str:
        """Name of the network in results."""
        return "oracle"

    def __str__(self) -> str:
        return self.name


class FittedNetwork(Record):
    """A module that is fitted before it is measured.

    Attributes:
        name: Name of an architecture (`mlp:width=128,depth=3`) or of a factory
            (`package.module:name`), or `given` for an object of the caller's.
        objective: Objective of the fit: the answers of the `oracle`, or the target through the
            whole procedure (`end_to_end`).
        steps: Number of optimiser steps of the fit, or None if its duration is limited.
        seconds: Duration of the fit in seconds, or None if its steps are limited.
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
        name: Name of a factory (`package.module:name`), or `given` for an object of the caller's.
    """

    kind: Literal["given"] = "given"
    name: str = "given"

    def __str__(self) -> str:
        return self.name


class PerturbedNetwork(Record):
    """The oracle with errors of a known size.

    Attributes:
        perturbation: Kind of the errors.
        size: Size e of the errors, above 0; see `capcheck.networks.perturbed`.
    """

    kind: Literal["perturbed"] = "perturbed"
    perturbation: Perturbation
    size: float

    @property
    def name(self) -> str:
        """Name of the network in results."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.perturbation} {self.size:g}"


class RoundedNetwork(Record):
    """A network and the procedure around it in fewer digits.

    Attributes:
        of: The network in all digits.
        precision: Precision of tokens, levels, noise and answers; `float8` is that of answers only.
    """

    kind: Literal["rounded"] = "rounded"
    of: Annotated[OracleNetwork | FittedNetwork | GivenNetwork, Field(discriminator="kind")]
    precision: Precision

    @property
    def name(self) -> str:
        """Name of the network in results."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.of} in {self.precision}"


NetworkKind = Annotated[
    OracleNetwork | FittedNetwork | GivenNetwork | RoundedNetwork | PerturbedNetwork,
    Field(discriminator="kind"),
]
ORACLE = OracleNetwork()
