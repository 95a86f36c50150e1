"""How the drafts of a procedure fare under verification, along draws of its base model."""

from __future__ import annotations

from capcheck.procedures.density_cost import affordable_sequences
from capcheck.procedures.procedure import AnyProcedure
from capcheck.results.settings import Settings
from capcheck.results.speculation import Speculation
from capcheck.runs.snapshots import rows_randomness

__all__ = ["SEQUENCES", "speculation_of"]

SEQUENCES = 500  # most sequences: rates of acceptance are then known to some 0.02


def speculation_of(procedure: AnyProcedure, settings: Settings) -> Speculation | None:
    """How the drafts of a procedure fare, or None if it drafts nothing.

    Args:
        procedure: Procedure with its network.
        settings: Settings of the run: samples, seconds of a cell, seed, and level of the intervals.
    """
    if procedure.probe.base_model is None:
        return None
    most, calls = min(settings.samples, SEQUENCES), len(procedure.spec.free)
    n = affordable_sequences(procedure, calls, most, settings.seconds_per_cell)
    rng = rows_randomness(settings, procedure.target.device, "speculation", 0)
    found = procedure.speculation(n, rng)
    return None if found is None else Speculation.of(found, level=settings.level)
