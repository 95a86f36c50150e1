"""Cells: the measurements of a run, each under a key that holds all its numbers depend on.

`CellKey` makes the key of a cell, and `Cells` keeps measurements in memory. The run folder of
`capcheck.runs.store` is a subclass of `Cells` that also writes every record to a file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from capcheck.core.budget import Budget
from capcheck.networks.kinds import RoundedNetwork
from capcheck.results.decoding import DecodingPlan
from capcheck.results.measurement import Measurement
from capcheck.results.plan import FamilyPlan, NetworkFacts
from capcheck.results.settings import Settings
from capcheck.results.speculation import Speculation
from capcheck.results.survey import SCHEMA_VERSION, MeasuredBy

__all__ = ["CellKey", "Cells"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellKey:
    """The facts that identify one cell of a run.

    Attributes:
        plan: Procedure and network that are measured.
        budget: Budget of the procedure.
        settings: Settings of the measurement, with the number of samples of one look.
        fingerprint: Content hash of the target.
    """

    plan: FamilyPlan
    budget: Budget
    settings: Settings
    fingerprint: str

    def digest(self, measured_by: MeasuredBy, *, weights: str = "") -> str:
        """SHA-256 of everything that the numbers of the cell depend on, as hexadecimal digits.

        Args:
            measured_by: Digest of the code that measures the cell.
            weights: Digest of the network's weights, or empty for an oracle.
        """
        settings = self.settings
        left_out = {
            *("grid", "tolerances", "looks", "diagnose", "precisions", "sensitivity"),
            "seconds_per_run",
        }
        facts: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "code": measured_by.of(self.plan.family),
            "target": self.fingerprint,
            "plan": self.plan.to_json(),
            "weights": weights,
            "budget": self.budget.to_json(),
            "settings": settings.to_json(dict.fromkeys(left_out, True)),
            "divergences": sorted(settings.tolerances),
        }
        # Cells of rounded and perturbed networks are never diagnosed.
        if self.plan.network.kind not in ("rounded", "perturbed"):
            largest = self.budget == settings.grid.largest
            facts["diagnose"] = settings.diagnose if largest else ()
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Cells:
    """The measurements of a run in memory, with facts on networks and reasons for missing cells.

    Args:
        measured_by: Digest of the code that measures the cells.
    """

    def __init__(self, measured_by: MeasuredBy) -> None:
        self._measured_by = measured_by
        self._cells: dict[str, Measurement] = {}
        self._unfit: dict[str, str] = {}
        self._networks: dict[str, NetworkFacts] = {}
        self._made: set[str] = set()  # networks that this process made
        self._decoding: DecodingPlan | None = None
        self._speculations: dict[str, Speculation] = {}

    def get(self, key: CellKey) -> Measurement | None:
        """The measurement of a cell, or None if the cell was not measured."""
        return self._cells.get(self._digest(key))

    def keep(self, key: CellKey, measurement: Measurement) -> None:
        """Add the measurement of a cell, unless the cell is already there."""
        digest = self._digest(key)
        if digest not in self._cells:
            self._write({"key": digest, "cell": measurement.to_json()})
            self._cells[digest] = measurement

    def refresh(self) -> bool:
        """Take in what other processes have measured, and tell whether there was anything.

        Cells that are kept in memory have no others.
        """
        return False

    def unfit(self, plan: FamilyPlan) -> str | None:
        """The reason why a plan cannot be measured on the target, or None if none is noted."""
        return self._unfit.get(self._note_key(plan))

    def note(self, plan: FamilyPlan, reason: str) -> None:
        """Keep the reason why a plan cannot be measured on the target."""
        name = self._note_key(plan)
        if self._unfit.get(name) != reason:
            self._write({"unfit": name, "reason": reason})
            self._unfit[name] = reason

    def network(self, plan: FamilyPlan) -> NetworkFacts | None:
        """Facts on the network of a plan, or None before the network was made or for an oracle."""
        network = plan.network
        if isinstance(network, RoundedNetwork):
            plan = plan.with_network(network.of)
        return self._networks.get(_identity(plan))

    def keep_network(self, plan: FamilyPlan, facts: NetworkFacts) -> None:
        """Keep facts on the network of a plan; its weights are a part of the keys of its cells."""
        name = _identity(plan)
        self._made.add(name)
        if self._networks.get(name) != facts:
            self._write({"network": name, "facts": facts.to_json()})
            self._networks[name] = facts

    @property
    def decoding(self) -> DecodingPlan | None:
        """The decoding plan of the target, or None if none was made."""
        return self._decoding

    def keep_decoding(self, plan: DecodingPlan) -> None:
        """Keep the decoding plan of the target."""
        if self._decoding != plan:
            self._write({"decoding": plan.to_json(), "code": self._measured_by.code})
            self._decoding = plan

    def speculation(self, plan: FamilyPlan) -> Speculation | None:
        """How the drafts of a plan fare, or None if it drafts nothing or was not asked."""
        return self._speculations.get(self._note_key(plan))

    def keep_speculation(self, plan: FamilyPlan, found: Speculation) -> None:
        """Keep how the drafts of a plan fare."""
        name = self._note_key(plan)
        if name not in self._speculations:
            self._write({"speculation": name, "found": found.to_json()})
            self._speculations[name] = found

    def take(self, record: Any) -> None:
        """Add a record that was read from a file; a record that cannot be read is ignored."""
        try:
            if "unfit" in record:
                self._unfit[str(record["unfit"])] = str(record["reason"])
            elif "network" in record:
                facts, name = NetworkFacts.model_validate(record["facts"]), str(record["network"])
                # A fit for some seconds ends in other weights elsewhere, which are not measured
                # here.
                if name not in self._made:
                    self._networks[name] = facts
            elif "speculation" in record:
                drafts = Speculation.model_validate(record["found"])
                self._speculations[str(record["speculation"])] = drafts
            elif "decoding" in record:
                if record["code"] == self._measured_by.code:
                    self._decoding = DecodingPlan.model_validate(record["decoding"])
            else:
                self._cells[str(record["key"])] = Measurement.model_validate(record["cell"])
        except (ValueError, KeyError, TypeError):
            return

    def _note_key(self, plan: FamilyPlan) -> str:
        """The plan and the code that could not measure it: other code may be able to."""
        return f"{_identity(plan)} {self._measured_by.of(plan.family)}"

    def _digest(self, key: CellKey) -> str:
        facts = self.network(key.plan)
        return key.digest(self._measured_by, weights=facts.weights if facts else "")

    def _write(self, record: dict[str, Any]) -> None:
        """Write a record to a file; cells that are only kept in memory have none."""


def _identity(plan: FamilyPlan) -> str:
    return json.dumps(plan.to_json(), sort_keys=True)
