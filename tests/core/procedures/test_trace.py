from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capcheck.core.errors import ProbeError
from capcheck.judging.scaling import loop_order
from capcheck.procedures.probe import State
from capcheck.procedures.trace import Recorder, Traces, Writes
from capcheck.results.family import Axes

# Rows are iterations, columns tokens; the class is worked out by hand from the definitions.
STREAMS = {
    "once": [[1, 1, 1]],
    "in_turn": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "sweep": [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    "finish_first": [[1, 1, 1], [0, 1, 1], [0, 1, 1]],
}


def classify(written: torch.Tensor) -> Traces:
    """Counts of the classes of (iterations, n, N) writes."""
    writes = Writes.none(written.shape[1], written.shape[2], torch.device("cpu"))
    for iteration, of_one in enumerate(written, start=1):
        writes = writes.with_iteration(of_one, iteration)
    return writes.traces()


@pytest.mark.parametrize("name", STREAMS)
def test_every_class_is_recognised(name: str) -> None:
    written = torch.tensor(STREAMS[name], dtype=torch.bool)[:, None, :]
    assert classify(written).highest == name


def test_one_write_left_after_a_token_is_finished_is_still_a_sweep() -> None:
    # Gauss-Seidel sweeps: token 1 ends one write before token 3 does.
    written = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2, dtype=torch.bool)[:, None, :]
    assert classify(written).highest == "sweep"


@given(st.integers(0, 2**32 - 1))
def test_classes_are_those_of_their_definitions(seed: int) -> None:
    written = torch.rand(5, 8, 3, generator=torch.Generator().manual_seed(seed)) < 0.4
    expected = Traces()
    for row in written.unbind(1):  # (iterations, N), one sample, by the words of the definitions
        times = [[k for k in range(5) if row[k, i]] for i in range(3)]
        once = sum(bool(row[k].any()) for k in range(5)) <= 1
        in_turn = all(len(each) <= 1 for each in times)
        finished = [max(each) for each in times if each]
        two_to_come = any(sum(k > end for k in each) >= 2 for end in finished for each in times)
        name = (
            "once" if once
            else "in_turn" if in_turn
            else "finish_first" if two_to_come
            else "sweep"
        )  # fmt: skip
        expected = expected + Traces(**{name: 1})
    assert classify(written) == expected


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


def start_of(n: int, tokens: int) -> State:
    nothing = torch.zeros(n, tokens, dtype=torch.bool)
    return State(tokens=torch.zeros(n, tokens, 1), placed=nothing, written=nothing)


def test_a_probe_that_lies_about_its_writes_is_caught() -> None:
    start = start_of(2, 3)
    recorder = Recorder("liar", start)
    recorder.record(start)
    with pytest.raises(ProbeError, match="iteration 1 moved tokens"):
        recorder.record(replace(start, tokens=torch.ones(2, 3, 1), placed=~start.placed))
    with pytest.raises(ProbeError, match="nothing placed"):
        Recorder("liar", start).record(start.write(torch.ones(2, 3, 1)))


def test_a_probe_that_writes_in_place_is_caught() -> None:
    start = start_of(2, 3)
    recorder = Recorder("vandal", start)
    recorder.record(start)
    state = start.write(torch.ones(2, 3, 1))
    recorder.record(state)
    state.tokens[0, 0] = 7
    with pytest.raises(ProbeError, match="in place"):
        recorder.record(state)


def test_a_given_token_that_moves_is_caught() -> None:
    start = start_of(2, 3).giving(torch.full((2, 3, 1), 5.0), [1])
    recorder = Recorder("thief", start)
    recorder.record(start)
    with pytest.raises(ProbeError, match="given token"):
        recorder.record(start.write(torch.ones(2, 3, 1)))


def test_a_trace_needs_as_much_memory_for_many_states_as_for_few() -> None:
    n, N = 64, 256
    start = start_of(n, N)
    recorder = Recorder("gpt", start)
    recorder.record(start)
    state, peak = start, 0
    for i in range(N):
        where = torch.zeros(n, N, dtype=torch.bool)
        where[:, i] = True
        state = state.write(state.tokens + 1, where)
        recorder.record(state)
        held = sum(x.numel() * x.element_size() for x in _tensors(recorder))
        peak = max(peak, held)
    assert recorder.writes.traces().highest == "in_turn"
    assert peak <= 12 * n * N * 4  # every mask of every state would be 16 times as much


def _tensors(recorder: Recorder) -> list[torch.Tensor]:
    """Every tensor that a recorder refers to."""
    found: dict[int, torch.Tensor] = {}
    waiting: list[object] = [recorder]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            found[id(one)] = one
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif hasattr(one, "__dict__"):
            waiting += vars(one).values()
    return list(found.values())
