"""The chain-of-thought effect: what room for intermediate results makes representable."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from capcheck import check
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.reference import Reference
from capcheck.results.measurement import Outcome
from capcheck.targets import HiddenMarkov, from_spec

SAMPLES = 1000


def rows_of(target: HiddenMarkov) -> np.ndarray:
    """All sequences of positive probability."""
    spec = target.spec
    x = torch.tensor(list(itertools.product(range(spec.dim), repeat=spec.tokens)))
    return x[target.log_prob(x).isfinite()].numpy()


def scratchpad(spec: str) -> HiddenMarkov:
    target = from_spec(spec)
    assert isinstance(target, HiddenMarkov)
    return target


def test_running_results_follow_from_two_neighbours() -> None:
    rows = rows_of(scratchpad("chain-parity:inputs=4"))
    assert len(rows) == 2**4
    bits, results = rows[:, 0::2], rows[:, 1::2]
    assert (results == bits.cumsum(1) % 2).all()
    short = rows_of(scratchpad("chain-parity:inputs=4,scratch=False"))
    assert (short[:, 4] == short[:, :4].sum(1) % 2).all()


def test_permutations_are_composed_in_their_order() -> None:
    group = np.array(list(itertools.permutations(range(3))))
    rows = rows_of(scratchpad("chain-permutation:inputs=2"))
    assert len(rows) == 36
    first, second, result = rows[:, 0], rows[:, 2], rows[:, 3]
    assert (rows[:, 1] == first).all()
    composed = np.array([group[p][group[g]] for p, g in zip(first, second, strict=True)])
    assert (group[result] == composed).all()
    other_way = np.array([group[g][group[p]] for p, g in zip(first, second, strict=True)])
    assert not (group[result] == other_way).all()  # the group is not commutative


def test_only_inputs_and_the_answer_are_scored() -> None:
    spec = scratchpad("chain-parity:inputs=3").spec
    assert spec.counted == (0, 2, 4, 5)
    assert spec.spread**2 == pytest.approx(4 * 2 * 0.25)  # four fair bits, one-hot
    assert scratchpad("chain-parity:inputs=3,scratch=False").spec.counted == (0, 1, 2, 3)


def test_with_a_scratchpad_two_tokens_of_the_past_are_enough() -> None:
    # p_i follows from p_{i-1} and g_i, the two tokens before it.
    target = from_spec("chain-parity:inputs=4")
    result = check(
        "gpt", target, options={"window": 2}, lengths=[0, 4, 8], steps=[1], samples=SAMPLES
    )
    by_length = {cell.budget.length: cell for cell in result.cells}
    assert by_length[8].outcome is Outcome.REPRESENTABLE
    assert by_length[8].estimates["kl"].value == pytest.approx(0, abs=1e-12)
    assert by_length[0].outcome is Outcome.NOT_REPRESENTABLE
    assert by_length[4].outcome is Outcome.NOT_REPRESENTABLE
    assert result.smallest_budget is not None
    assert result.smallest_budget.length == 8


@pytest.mark.parametrize("window", [1, 2, 3])
def test_without_a_scratchpad_no_length_is_enough_and_ln_2_is_lost(window: int) -> None:
    # p = 2^-4 on its support; all bits look fair through the window, so q = 2^-5: KL = ln 2.
    target = from_spec("chain-parity:inputs=4,scratch=False")
    result = check("gpt", target, options={"window": window}, lengths=[0, 2, 5], samples=SAMPLES)
    assert result.outcome is Outcome.NOT_REPRESENTABLE
    for cell in result.cells:
        assert cell.outcome is Outcome.NOT_REPRESENTABLE
        assert cell.estimates["kl"].value == pytest.approx(math.log(2))
        assert cell.estimates["kl"].kind == "exact"


@pytest.mark.parametrize("window", [4, None])
def test_without_a_scratchpad_all_inputs_must_be_in_the_window(window: int | None) -> None:
    target = from_spec("chain-parity:inputs=4,scratch=False")
    result = check("gpt", target, options={"window": window}, lengths=[0, 5], samples=SAMPLES)
    assert result.outcome is Outcome.REPRESENTABLE
    assert result.smallest_budget is not None
    assert result.smallest_budget.length == 5


def test_given_inputs_lead_to_the_answer_for_who_sees_them_all() -> None:
    # The answer is then certain; a window of 2 sees two of the four bits, and loses ln 2.
    target = from_spec("chain-parity:inputs=4,scratch=False")
    for window, lost in ((None, 0.0), (2, math.log(2))):
        result = check(
            "gpt",
            target,
            options={"window": window},
            given=[0, 1, 2, 3],
            lengths=[1],
            steps=[1],
            samples=SAMPLES,
        )
        assert result.cells[0].estimates["kl"].value == pytest.approx(lost, abs=1e-12)


@pytest.mark.parametrize("family", ["vae", "gan"])
def test_a_family_without_a_window_is_not_given_one(family: str) -> None:
    # Their networks see everything, as the target's own conditionals do.
    target = from_spec("chain-parity:inputs=4,scratch=False")
    cell = check(family, target, lengths=[0], steps=[1], samples=SAMPLES).cells[0]
    assert cell.witness is not None
    assert cell.witness.impossible == 0
    kl = cell.estimates["kl"]
    assert kl.kind != "lower bound"
    assert kl.low is not None
    assert kl.low <= 1e-9
    assert kl.value == pytest.approx(0, abs=1e-9)


def test_no_predictor_with_that_window_could_do_better() -> None:
    # By enumeration: the answer is independent of any proper subset of the inputs.
    rows = rows_of(scratchpad("chain-parity:inputs=4,scratch=False"))
    for size in range(4):
        for seen in itertools.combinations(range(4), size):
            for values in itertools.product(range(2), repeat=size):
                agree = (rows[:, list(seen)] == values).all(1)
                assert rows[agree, 4].mean() == 0.5


def test_permutations_lose_ln_6_without_a_scratchpad_and_nothing_with_one() -> None:
    options = {"window": 2}
    without = from_spec("chain-permutation:inputs=3,scratch=False")
    lost = check("gpt", without, options=options, lengths=[4], steps=[1], samples=SAMPLES)
    assert lost.cells[0].estimates["kl"].value == pytest.approx(math.log(6))
    assert lost.outcome is Outcome.NOT_REPRESENTABLE
    target = from_spec("chain-permutation")
    with_one = check("gpt", target, options=options, lengths=[6], steps=[1], samples=SAMPLES)
    assert with_one.outcome is Outcome.REPRESENTABLE


def test_a_window_that_misses_the_running_result_spoils_the_scratchpad() -> None:
    target = from_spec("chain-parity:inputs=4")
    result = check("gpt", target, options={"window": 1}, lengths=[8], steps=[1], samples=SAMPLES)
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
    assert estimate.above[0].value == pytest.approx(8 * math.log(2))
    assert estimate.below[0].value <= math.log(2)
    assert estimate.kind == "two bounds"
    assert "auxiliary" in estimate.method
    assert estimate.scale == 9
    refusing = [name for name in ("wasserstein", "mmd") if name in result.cells[0].reason]
    assert refusing  # the bound itself refuses nothing
    assert "kl is at least" not in result.cells[0].reason


def test_transport_and_mmd_see_the_scored_tokens_only() -> None:
    target = scratchpad("chain-parity:inputs=4")
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
def test_maskgit_in_order_and_one_by_one_is_the_sampler_from_left_to_right(scratch: bool) -> None:
    target = from_spec(f"chain-parity:inputs=3,scratch={scratch}")
    in_order = {"order": "fixed", "tokens_per_round": 1}
    same = check("maskgit", target, options=in_order, samples=400, steps=[1])
    left_to_right = check("gpt", target, samples=400, steps=[1])
    for one, other in zip(same.cells, left_to_right.cells, strict=True):
        assert one.estimates["kl"].value == pytest.approx(other.estimates["kl"].value, abs=1e-12)
    assert same.outcome is left_to_right.outcome is Outcome.REPRESENTABLE
    one_shot = check("maskgit", target, options={"rounds": 1}, samples=400, steps=[1])
    assert one_shot.outcome is Outcome.NOT_REPRESENTABLE


def model(scored: tuple[int, ...] | None) -> HiddenMarkov:
    return HiddenMarkov(
        torch.full((2,), 0.5), torch.full((2, 2), 0.5), torch.eye(2), tokens=3, scored=scored
    )


def test_scored_tokens_are_part_of_the_identity() -> None:
    twins = [model(None), model((0, 2)), model((0, 1))]
    assert len({twin.fingerprint for twin in twins}) == 3
    single = twins[1].to(device="cpu", dtype=torch.float32)
    assert single.spec.counted == twins[1].spec.counted == (0, 2)
    assert twins[0].spec.counted == (0, 1, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain-parity:inputs=65", "less than or equal to 64, got '65'"),
        ("chain-parity:inputs=0", "greater than or equal to 1"),
        ("chain-parity:scratch=maybe", "scratch: .*got 'maybe'"),
        ("chain-permutation:inputs=17", "less than or equal to 16, got '17'"),
        ("chain-parity:window=2", "has no parameter 'window'"),
    ],
)
def test_bad_scratchpads_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_spec(spec)


def test_forty_inputs_are_composed_as_numpy_composes_them() -> None:
    # Too many to enumerate: p(x) = 2^-40 where the results are the running parity, else 0.
    target = scratchpad("chain-parity:40")
    x = target.sample(300, CounterRandomness(0))
    bits = x[:, 0::2].numpy()
    assert (x[:, 1::2].numpy() == bits.cumsum(1) % 2).all()
    assert stats.binomtest(int(bits.sum()), bits.size).pvalue > 1e-4
    assert target.log_prob(x).numpy() == pytest.approx(-40 * math.log(2))
    x[:, 41] = 1 - x[:, 41]
    assert (target.log_prob(x) == -math.inf).all()


@pytest.mark.parametrize("scored", [(0, 9), (), (-1,), (0, 0), (1, 0)])
def test_tokens_that_cannot_be_scored_are_refused(scored: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="scored must list some of the tokens 0 to 2"):
        model(scored)
