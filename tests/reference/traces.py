"""The trace of a run, from the states that it has made."""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.procedures.probe import State
from capcheck.procedures.trace import Recorder, Traces


def traces_of(states: Sequence[State]) -> Traces:
    """Classes of the rows of a whole run, its start included."""
    recorder = Recorder("family under test", states[0])
    for state in states:
        recorder.record(state)
    return recorder.writes.traces()
