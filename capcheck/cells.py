"""The cells of a run: what was measured, found again by everything that its numbers depend on.

A run folder is such a collection that writes down what it is given; see `store`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from capcheck.budget import Budget
from capcheck.precision import Precision
from capcheck.records import SCHEMA_VERSION, FamilyPlan, Measurement, NetworkFacts, Settings
from capcheck.sensitivity import Perturbation
from capcheck.version import __version__


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a cell differs from the plain one of its plan.

    Attributes:
        precision: In fewer digits, or None.
        perturbation: With errors of the oracle, or None.
        size: Of the errors.
    """

    precision: Precision | None = None
    perturbation: Perturbation | None = None
    size: float = 0.0

    def __str__(self) -> str:
        return self.precision or f"{self.perturbation} {self.size:g}"


PLAIN = Variant()


@dataclasses.dataclass(frozen=True)
class Place:
    """Which cell: a plan at a budget, measured in a way, of a target.

    Attributes:
        plan: Procedure and network.
        budget: What it may spend.
        settings: How it is measured, at one look.
        fingerprint: Of the target.
        variant: What is different from the plain cell.
    """

    plan: FamilyPlan
    budget: Budget
    settings: Settings
    fingerprint: str
    variant: Variant = PLAIN


class Cells:
    """Measurements in memory, and what else a result needs."""

    def __init__(self) -> None:
        self._cells: dict[str, Measurement] = {}
        self._unfit: dict[str, str] = {}
        self._networks: dict[str, NetworkFacts] = {}

    def get(self, place: Place) -> Measurement | None:
        """The cell, if it was measured."""
        return self._cells.get(self._key(place))

    def keep(self, place: Place, measurement: Measurement) -> None:
        """Add a cell."""
        key = self._key(place)
        if key not in self._cells:
            self._write({"key": key, "cell": measurement.model_dump(mode="json")})
            self._cells[key] = measurement

    def unfit(self, plan: FamilyPlan, variant: Variant = PLAIN) -> str | None:
        """Why a plan cannot be measured on the target, if that was found."""
        return self._unfit.get(_identity(plan, variant))

    def note(self, plan: FamilyPlan, reason: str, variant: Variant = PLAIN) -> None:
        """Keep why a plan cannot be measured on the target."""
        name = _identity(plan, variant)
        if self._unfit.get(name) != reason:
            self._write({"unfit": name, "reason": reason})
            self._unfit[name] = reason

    def network(self, plan: FamilyPlan) -> NetworkFacts | None:
        """What stands in the oracle's place, once it is there."""
        return self._networks.get(_identity(plan))

    def keep_network(self, plan: FamilyPlan, facts: NetworkFacts) -> None:
        """Keep what stands in the oracle's place; cells of other weights are others."""
        name = _identity(plan)
        if self._networks.get(name) != facts:
            self._write({"network": name, "facts": facts.model_dump(mode="json")})
            self._networks[name] = facts

    def take(self, record: Any) -> None:
        """Take up what was written down; a record of another kind is as good as missing."""
        try:
            if "unfit" in record:
                self._unfit[str(record["unfit"])] = str(record["reason"])
            elif "network" in record:
                facts = NetworkFacts.model_validate(record["facts"])
                self._networks[str(record["network"])] = facts
            else:
                self._cells[str(record["key"])] = Measurement.model_validate(record["cell"])
        except (ValueError, KeyError, TypeError):
            return

    def _key(self, place: Place) -> str:
        facts = self.network(place.plan)
        return cell_key(place, weights=facts.weights if facts else "")

    def _write(self, record: dict[str, Any]) -> None:
        """Write a record down, where there is a place for it."""


def cell_key(place: Place, *, weights: str = "") -> str:
    """Content hash of everything that a cell's numbers depend on."""
    plan, settings = place.plan, place.settings
    unlike = {"grid", "tolerances", "looks", "diagnose", "precisions", "sensitivity"}
    facts: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "capcheck": __version__,
        "target": place.fingerprint,
        "plan": plan.model_dump(include=set(FamilyPlan.model_fields)),
        "weights": weights,
        "budget": place.budget.model_dump(),
        "settings": settings.model_dump(exclude=unlike),
        "divergences": sorted(settings.tolerances),
        "variant": dataclasses.asdict(place.variant),
    }
    if place.variant == PLAIN:  # other cells are the same with and without
        facts["diagnose"] = diagnosed(settings, place.budget)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def diagnosed(settings: Settings, budget: Budget) -> tuple[str, ...]:
    """The diagnoses of a budget's draws: those that were asked for, at the largest budget."""
    return settings.diagnose if budget == settings.grid.largest else ()


def _identity(plan: FamilyPlan, variant: Variant = PLAIN) -> str:
    facts = plan.model_dump(mode="json", include=set(FamilyPlan.model_fields))
    if variant != PLAIN:
        facts["variant"] = dataclasses.asdict(variant)
    return json.dumps(facts, sort_keys=True)
