"""The chain-of-thought effect: what room for intermediate results makes representable."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats

from capcheck import check
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.reference import ModelEvidence, Reference
from capcheck.results.measurement import Outcome
from capcheck.targets import Windowed, from_spec, from_table

SAMPLES = 1000


def rows_of(target: Windowed) -> np.ndarray:
    """All sequences of positive probability."""
    spec = target.spec
    x = torch.tensor(list(itertools.product(range(spec.dim), repeat=spec.tokens)))
    return x[target.log_prob(x).isfinite()].numpy()


def windowed(spec: str) -> Windowed:
    target = from_spec(spec)
    assert isinstance(target, Windowed)
    return target


def test_running_results_follow_from_two_neighbours() -> None:
    rows = rows_of(windowed("chain-parity:inputs=4"))
    assert len(rows) == 2**4
    bits, results = rows[:, 0::2], rows[:, 1::2]
    assert (results == bits.cumsum(1) % 2).all()
    short = rows_of(windowed("chain-parity:inputs=4,scratch=False"))
    assert (short[:, 4] == short[:, :4].sum(1) % 2).all()


def test_permutations_are_composed_in_their_order() -> None:
    group = np.array(list(itertools.permutations(range(3))))
    rows = rows_of(windowed("chain-permutation:inputs=2"))
    assert len(rows) == 36
    first, second, result = rows[:, 0], rows[:, 2], rows[:, 3]
    assert (rows[:, 1] == first).all()
    composed = np.array([group[p][group[g]] for p, g in zip(first, second, strict=True)])
    assert (group[result] == composed).all()
    other_way = np.array([group[g][group[p]] for p, g in zip(first, second, strict=True)])
    assert not (group[result] == other_way).all()  # the group is not commutative


def test_only_inputs_and_the_answer_are_scored() -> None:
    spec = windowed("chain-parity:inputs=3").spec
    assert spec.counted == (0, 2, 4, 5)
    assert spec.spread**2 == pytest.approx(4 * 2 * 0.25)  # four fair bits, one-hot
    assert windowed("chain-parity:inputs=3,scratch=False").spec.counted == (0, 1, 2, 3)


@pytest.mark.parametrize("window", [0, 1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_the_predictor_conditions_on_what_its_window_holds(window: int, causal: bool) -> None:
    joint = torch.tensor(np.random.default_rng(0).uniform(size=(2,) * 5))
    law = from_table(joint)
    target = Windowed(law, window=window)
    sequences = np.array(list(itertools.product(range(2), repeat=5)))
    p = (joint / joint.sum()).flatten().numpy()
    x = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]])
    known = np.array([[True, False, True, True, False], [True, True, False, True, True]])
    got = target.marginals(x, torch.tensor(~known).double(), causal=causal).mean().numpy()
    for row, i in itertools.product(range(2), range(5)):
        seen = [
            j
            for j in range(5)
            if known[row, j] and abs(i - j) <= window and not (causal and j >= i)
        ]
        agrees = (sequences[:, seen] == x[row].numpy()[seen]).all(1)
        expected = [(p * agrees * (sequences[:, i] == v)).sum() for v in range(2)]
        assert got[row, i] == pytest.approx(np.array(expected) / sum(expected))


def test_with_a_scratchpad_the_answer_can_be_produced_at_full_length() -> None:
    result = check("gpt", from_spec("chain-parity:inputs=4"), lengths=[0, 4, 8], samples=SAMPLES)
    by_length = {cell.budget.length: cell for cell in result.cells if cell.budget.steps == 1}
    assert by_length[8].outcome is Outcome.REPRESENTABLE
    assert by_length[8].estimates["kl"].value == pytest.approx(0, abs=1e-12)
    assert by_length[0].outcome is Outcome.NOT_REPRESENTABLE
    assert by_length[4].outcome is Outcome.NOT_REPRESENTABLE
    assert result.smallest_budget is not None
    assert result.smallest_budget.length == 8


@pytest.mark.parametrize("window", [1, 2, 3])
def test_without_a_scratchpad_no_length_is_enough_and_ln_2_is_lost(window: int) -> None:
    # p = 2^-4 on its support; all bits look fair through the window, so q = 2^-5: KL = ln 2.
    target = from_spec(f"chain-parity:inputs=4,scratch=False,window={window}")
    result = check("gpt", target, lengths=[0, 2, 5], samples=SAMPLES)
    assert result.outcome is Outcome.NOT_REPRESENTABLE
    for cell in result.cells:
        assert cell.outcome is Outcome.NOT_REPRESENTABLE
        assert cell.estimates["kl"].value == pytest.approx(math.log(2))
        assert cell.estimates["kl"].kind == "exact"


def test_without_a_scratchpad_all_inputs_must_be_in_the_window() -> None:
    target = from_spec("chain-parity:inputs=4,scratch=False,window=4")
    result = check("gpt", target, lengths=[0, 5], samples=SAMPLES)
    assert result.outcome is Outcome.REPRESENTABLE
    assert result.smallest_budget is not None
    assert result.smallest_budget.length == 5


def test_no_predictor_with_that_window_could_do_better() -> None:
    # By enumeration: the answer is independent of any proper subset of the inputs.
    rows = rows_of(windowed("chain-parity:inputs=4,scratch=False"))
    for size in range(4):
        for seen in itertools.combinations(range(4), size):
            for values in itertools.product(range(2), repeat=size):
                agree = (rows[:, list(seen)] == values).all(1)
                assert rows[agree, 4].mean() == 0.5


def test_permutations_lose_ln_6_without_a_scratchpad_and_nothing_with_one() -> None:
    without = from_spec("chain-permutation:inputs=3,scratch=False,window=2")
    lost = check("gpt", without, lengths=[4], steps=[1], samples=SAMPLES)
    assert lost.cells[0].estimates["kl"].value == pytest.approx(math.log(6))
    assert lost.outcome is Outcome.NOT_REPRESENTABLE
    with_one = check("gpt", from_spec("chain-permutation"), lengths=[6], steps=[1], samples=SAMPLES)
    assert with_one.outcome is Outcome.REPRESENTABLE


def test_a_window_that_misses_the_running_result_spoils_the_scratchpad() -> None:
    target = from_spec("chain-parity:inputs=4,window=1")
    result = check("gpt", target, lengths=[8], steps=[1], samples=SAMPLES)
    assert result.outcome is Outcome.NOT_REPRESENTABLE


def test_auxiliary_tokens_are_summed_out_of_an_exact_law() -> None:
    # All 8 tokens look like fair bits: 4 ln 2 in all, of which ln 2 is about the scored ones.
    result = check("gpt", from_spec("chain-parity:inputs=4"), lengths=[0], samples=SAMPLES)
    estimate = result.cells[0].estimates["kl"]
    assert estimate.value == pytest.approx(math.log(2))
    assert estimate.kind == "exact"


def test_where_no_law_is_enumerated_kl_with_auxiliary_tokens_is_an_upper_bound() -> None:
    target = from_spec("chain-parity:inputs=8")
    result = check("gpt", target, lengths=[0], steps=[1], samples=SAMPLES)
    estimate = result.cells[0].estimates["kl"]
    # All 16 tokens look like fair bits: 8 ln 2 in all, of which only ln 2 is about scored tokens.
    assert estimate.value == pytest.approx(8 * math.log(2))
    assert estimate.kind == "upper bound"
    assert "auxiliary" in estimate.method
    assert estimate.scale == 9
    refusing = [name for name in ("wasserstein", "mmd") if name in result.cells[0].reason]
    assert refusing  # the bound itself refuses nothing
    assert "kl is at least" not in result.cells[0].reason


def test_transport_and_mmd_see_the_scored_tokens_only() -> None:
    target = windowed("chain-parity:inputs=4")
    reference = Reference(target, divergences=("wasserstein", "mmd"), samples=400, seed=0)
    x = target.sample(400, CounterRandomness(0, name="model"))
    scrambled, answered = x.clone(), x.clone()
    scrambled[:, [1, 3, 5]] = 1 - x[:, [1, 3, 5]]
    answered[:, 7] = 1 - x[:, 7]
    true, aux, wrong = (
        reference.estimates(ModelEvidence(samples=y)) for y in (x, scrambled, answered)
    )
    for name in ("wasserstein", "mmd"):
        assert aux[name].value == true[name].value
        value, other = wrong[name].value, true[name].value
        assert value is not None
        assert other is not None
        assert value > other
    # Every answer is wrong, and one flip repairs a row: W1 = 1, which transport approaches from
    # below.
    assert 0.5 < float(str(wrong["wasserstein"]).strip("≥ ").split()[0]) < 1.1


@pytest.mark.parametrize("scratch", [True, False])
def test_maskgit_runs_on_a_scratchpad(scratch: bool) -> None:
    target = from_spec(f"chain-parity:inputs=3,scratch={scratch}")
    result = check("maskgit", target, samples=400, steps=[1])
    for cell in result.cells:
        for estimate in cell.estimates.values():
            assert estimate.value is None or math.isfinite(estimate.value)
    if not scratch:
        assert result.outcome is Outcome.NOT_REPRESENTABLE
    # In order, one token a round, it is the sampler from left to right.
    in_order = {"order": "fixed", "tokens_per_round": 1}
    same = check("maskgit", target, options=in_order, samples=400, steps=[1])
    left_to_right = check("gpt", target, samples=400, steps=[1])
    assert same.outcome is left_to_right.outcome


def test_windows_and_scored_tokens_are_part_of_the_identity() -> None:
    law = from_table(torch.ones(2, 2, 2))
    twins = [
        Windowed(law, window=1),
        Windowed(law, window=2),
        Windowed(law, window=1, scored=(0, 2)),
    ]
    assert len({twin.fingerprint for twin in twins}) == 3
    single = twins[2].to(device="cpu", dtype=torch.float32)
    assert single.dtype == torch.float32
    assert single.spec.counted == (0, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain-parity:inputs=65", "less than or equal to 64, got '65'"),
        ("chain-parity:inputs=0", "greater than or equal to 1"),
        ("chain-parity:scratch=maybe", "scratch: .*got 'maybe'"),
        ("chain-permutation:inputs=17", "less than or equal to 16, got '17'"),
        ("chain-parity:window=-1", "greater than or equal to 0"),
    ],
)
def test_bad_scratchpads_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_spec(spec)


@pytest.mark.parametrize("window", [-1, 1.5, True])
def test_windows_that_are_no_distance_are_refused(window: Any) -> None:
    with pytest.raises(InputError, match=f"window must be a whole number .*, got {window}"):
        Windowed(from_table(torch.ones(2, 2)), window=window)


def test_numbers_are_not_seen_through_a_window() -> None:
    with pytest.raises(InputError, match="law must be of categorical tokens, got a ProductMixture"):
        Windowed(cast(Any, from_spec("gaussian:tokens=3")), window=1)


def test_forty_inputs_are_composed_as_numpy_composes_them() -> None:
    # Too many to enumerate: p(x) = 2^-40 where the results are the running parity, else 0.
    target = windowed("chain-parity:40,window=3")
    x = target.sample(300, CounterRandomness(0))
    bits = x[:, 0::2].numpy()
    assert (x[:, 1::2].numpy() == bits.cumsum(1) % 2).all()
    assert stats.binomtest(int(bits.sum()), bits.size).pvalue > 1e-4
    assert target.log_prob(x).numpy() == pytest.approx(-40 * math.log(2))
    x[:, 41] = 1 - x[:, 41]
    assert (target.log_prob(x) == -math.inf).all()


@pytest.mark.parametrize("scored", [(0, 9), (), (-1,), (0, 0)])
def test_tokens_that_cannot_be_scored_are_refused(scored: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="scored"):
        Windowed(from_table(torch.ones(2, 2)), window=1, scored=scored)
