"""The cells of a run: what was measured, found again by everything that its numbers depend on.

A run folder is such a collection that writes down what it is given; see `store`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from capcheck.core.budget import Budget
from capcheck.networks.kinds import RoundedNetwork
from capcheck.results.measurement import Measurement
from capcheck.results.plan import FamilyPlan, NetworkFacts
from capcheck.results.settings import Settings
from capcheck.results.survey import SCHEMA_VERSION, MeasuredBy


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellKey:
    """What tells one cell from all others.

    Attributes:
        plan: Procedure and network.
        budget: What it may spend.
        settings: How it is measured, at one look.
        fingerprint: Of the target.
    """

    plan: FamilyPlan
    budget: Budget
    settings: Settings
    fingerprint: str

    def digest(self, measured_by: MeasuredBy, *, weights: str = "") -> str:
        """SHA-256 of everything that the cell's numbers depend on.

        Args:
            measured_by: The code that measures it.
            weights: Of the network, if it has any.
        """
        settings = self.settings
        unlike = {"grid", "tolerances", "looks", "diagnose", "precisions", "sensitivity"}
        facts: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "code": measured_by.of(self.plan.family),
            "target": self.fingerprint,
            "plan": self.plan.to_json(),
            "weights": weights,
            "budget": self.budget.to_json(),
            "settings": settings.to_json(dict.fromkeys(unlike, True)),
            "divergences": sorted(settings.tolerances),
        }
        if self.plan.network.kind not in ("rounded", "perturbed"):  # those are never diagnosed
            largest = self.budget == settings.grid.largest
            facts["diagnose"] = settings.diagnose if largest else ()
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Cells:
    """Measurements in memory, and what else a result needs.

    Args:
        measured_by: The code that measures them.
    """

    def __init__(self, measured_by: MeasuredBy) -> None:
        self._measured_by = measured_by
        self._cells: dict[str, Measurement] = {}
        self._unfit: dict[str, str] = {}
        self._networks: dict[str, NetworkFacts] = {}

    def get(self, key: CellKey) -> Measurement | None:
        """The cell, if it was measured."""
        return self._cells.get(self._digest(key))

    def keep(self, key: CellKey, measurement: Measurement) -> None:
        """Add a cell."""
        digest = self._digest(key)
        if digest not in self._cells:
            self._write({"key": digest, "cell": measurement.to_json()})
            self._cells[digest] = measurement

    def unfit(self, plan: FamilyPlan) -> str | None:
        """Why a plan cannot be measured on the target, if that was found."""
        return self._unfit.get(_identity(plan))

    def note(self, plan: FamilyPlan, reason: str) -> None:
        """Keep why a plan cannot be measured on the target."""
        name = _identity(plan)
        if self._unfit.get(name) != reason:
            self._write({"unfit": name, "reason": reason})
            self._unfit[name] = reason

    def network(self, plan: FamilyPlan) -> NetworkFacts | None:
        """What stands in the oracle's place, once it is there."""
        network = plan.network
        if isinstance(network, RoundedNetwork):
            plan = plan.with_network(network.of)
        return self._networks.get(_identity(plan))

    def keep_network(self, plan: FamilyPlan, facts: NetworkFacts) -> None:
        """Keep what stands in the oracle's place; cells of other weights are others."""
        name = _identity(plan)
        if self._networks.get(name) != facts:
            self._write({"network": name, "facts": facts.to_json()})
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

    def _digest(self, key: CellKey) -> str:
        facts = self.network(key.plan)
        return key.digest(self._measured_by, weights=facts.weights if facts else "")

    def _write(self, record: dict[str, Any]) -> None:
        """Write a record down, where there is a place for it."""


def _identity(plan: FamilyPlan) -> str:
    return json.dumps(plan.to_json(), sort_keys=True)
