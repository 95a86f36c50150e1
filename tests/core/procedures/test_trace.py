from __future__ import annotations

import pytest
import torch

from capcheck.core.errors import CapcheckError
from capcheck.judging.scaling import loop_order
from capcheck.procedures.probe import State
from capcheck.procedures.trace import Recorder, Traces, classify
from capcheck.results.family import Axes

# Rows are iterations, columns tokens; the class is worked out by hand from the definitions.
STREAMS = {
    "once": [[1, 1, 1]],
    "in_turn": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "sweep": [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    "finish_first": [[1, 1, 1], [0, 1, 1], [0, 1, 1]],
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_class_is_recognised(name: str) -> None:
    written = torch.tensor(STREAMS[name], dtype=torch.bool)[:, None, :]
    assert classify(written).highest == name


def test_one_write_left_after_a_token_is_finished_is_still_a_sweep() -> None:
    # Gauss-Seidel sweeps: token 1 ends one write before token 3 does.
    written = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2, dtype=torch.bool)[:, None, :]
    assert classify(written).highest == "sweep"


def test_a_class_below_five_percent_does_not_decide() -> None:
    assert Traces(once=96, sweep=4).highest == "once"
    assert Traces(once=95, sweep=5).highest == "sweep"


def test_loop_orders_follow_from_trace_and_axes() -> None:
    used = Axes(length="used", steps="used")
    flat = Axes(length="flat", steps="used")
    assert loop_order("sweep", used) == "steps_outer"
    assert loop_order("sweep", flat) == "steps"
    assert loop_order("finish_first", used) == "length_outer"
    assert loop_order("in_turn", used) == "length"
    assert loop_order("once", flat) == "none"


def test_a_probe_that_lies_about_its_writes_is_caught() -> None:
    start = State.start(torch.zeros(2, 3, 1))
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    recorder = Recorder("liar")
    recorder.record(start)
    with pytest.raises(CapcheckError, match="iteration 1 moved tokens"):
        recorder.record(State(tokens=torch.ones(2, 3, 1), placed=~nothing, written=nothing))
    with pytest.raises(CapcheckError, match="nothing placed"):
        Recorder("liar").record(start.write(torch.ones(2, 3, 1)))
