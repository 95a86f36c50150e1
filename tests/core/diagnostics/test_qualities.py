"""The quality of draws of token ids: planted defects, closed forms, and silence for equal laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.errors import InputError, UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import qualities as module
from capcheck.diagnostics.figure import Mean
from capcheck.diagnostics.qualities import Qualities, quality, unigram_entropies
from capcheck.diagnostics.quality import Quality
from capcheck.targets import CategoricalMixture, HiddenMarkov, MarkovChain, from_spec
from capcheck.targets.conditional import conditional
from capcheck.targets.target import Target


def draws(target: Target, name: str, n: int = 2000) -> Tensor:
    return target.sample(n, CounterRandomness(0, name=name))


def measured(target: Target, samples: Tensor, given: tuple[int, ...] = ()) -> Quality:
    return quality(target, samples, draws(target, "target"), given=given)


def random_rows(n: int, m: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(m, 0.3), size=n))


def chain(tokens: int = 12) -> MarkovChain:
    return MarkovChain([torch.full((6,), 1 / 6).double(), random_rows(6, 6, 0)], tokens=tokens)


def hidden(tokens: int = 10) -> HiddenMarkov:
    start = torch.full((3,), 1 / 3).double()
    return HiddenMarkov(start, random_rows(3, 3, 1), random_rows(3, 9, 2), tokens=tokens)


TARGETS: dict[str, Callable[[], Target]] = {
    "chain": chain,
    "hidden": hidden,
    "parity": lambda: from_spec("parity:6"),
    "copy": lambda: from_spec("copy:tokens=4,symbols=3"),
    "mixture": lambda: CategoricalMixture(random_rows(60, 4, 3).reshape(10, 6, 4)),
}


@pytest.mark.parametrize("name", list(TARGETS))
def test_equal_laws_have_nothing_to_say(name: str) -> None:
    target = TARGETS[name]()
    qualities = Qualities(target, draws(target, "target"), level=0.95)
    found = [qualities.of(draws(target, f"fresh {k}")) for k in range(8)]
    assert sum(len(one.sentences()) for one in found) == 0
    assert all(one.valid.value == 1 for one in found)


def test_impossible_sequences_are_counted_exactly() -> None:
    target = from_spec("parity:6")
    x = draws(target, "model", 400)
    x[:37, 0] = 1 - x[:37, 0]
    figure = measured(target, x).valid
    assert figure.value == 363 / 400
    exact = stats.binomtest(363, 400).proportion_ci(0.95, method="exact")
    assert (figure.low, figure.high) == pytest.approx((exact.low, exact.high), rel=1e-9)


def test_perplexity_is_of_the_valid_sequences() -> None:
    # Every valid sequence has probability 2^-5: perplexity 2^(5/6), from 363 of 400 draws.
    target = from_spec("parity:6")
    x = draws(target, "model", 400)
    x[:37, 0] = 1 - x[:37, 0]
    figure = measured(target, x).perplexity
    for value in (figure.value, figure.low, figure.high, figure.target):
        assert value == pytest.approx(2 ** (5 / 6), rel=1e-9)
    assert figure.rows == 363
    assert "with the others infinite" in figure.method


def test_the_perplexity_of_the_target_is_exp_of_its_entropy_rate() -> None:
    target = hidden()
    figure = measured(target, draws(target, "model")).perplexity
    exact = math.exp(-float(target.log_prob(draws(target, "many", 200_000)).mean()) / 10)
    assert figure.target_low is not None
    assert figure.target_high is not None
    assert figure.target_low < exact < figure.target_high
    assert figure.value == pytest.approx(exact, rel=0.03)
    assert figure.target == pytest.approx(exact, rel=0.03)


def test_the_interval_of_a_mean_is_that_of_student() -> None:
    values = CounterRandomness(0).normal((40,))
    mean = Mean.of(values)
    assert mean is not None
    exact = stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.9)
    assert mean.interval(0.9) == pytest.approx((exact.low, exact.high), rel=1e-9)


def test_unigram_entropy_is_of_the_symbols_of_each_row() -> None:
    x = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 2, 3], [2, 2, 2, 5]])
    expected = [0, math.log(2), math.log(4), stats.entropy([3, 1])]
    assert unigram_entropies(x).tolist() == pytest.approx(expected, abs=1e-12)


def test_repetition_lowers_perplexity_and_unigram_entropy() -> None:
    target = from_spec("copy:tokens=6,symbols=2")
    stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    steady = MarkovChain([torch.full((2,), 0.5).double(), stay], tokens=6)
    found = measured(steady, draws(target, "model"))
    assert found.perplexity.value == pytest.approx((2 * 0.9**-5) ** (1 / 6), rel=1e-9)
    assert found.unigram_entropy.value == 0
    assert found.unigram_entropy.target_low is not None
    assert found.unigram_entropy.target_low > 0.1
    near = found.dependence[0].kept
    assert near.value is not None
    assert near.value > 1.1
    assert "exaggerate the dependence" in found.sentences()[0]
    assert "as if at temperature 0 (0 to" in found.sentences()[1]


def test_independent_tokens_keep_no_dependence() -> None:
    target = chain()
    x = draws(target, "model")
    rng = np.random.default_rng(0)
    x = torch.stack([column[torch.from_numpy(rng.permutation(2000))] for column in x.T], 1)
    found = measured(target, x)
    near = found.dependence[0].kept
    assert near.low is not None
    assert near.high is not None
    assert near.low < 0 < near.high
    assert near.high - near.low < 0.2
    assert found.temperature.low is not None
    assert found.temperature.low > 1.2
    said = found.sentences()
    assert "of the dependence of neighbours" in said[0]
    assert "and those of the target" in said[1]


def test_dependence_that_is_kept_far_away_is_said_of_far_away() -> None:
    # All tokens are equal; every second one is taken from another row.
    target = from_spec("copy:tokens=8,symbols=4")
    x = draws(target, "model")
    x[:, 1::2] = x[torch.from_numpy(np.random.default_rng(0).permutation(2000)), 1::2]
    found = measured(target, x)
    assert found.dependence[1].kept.value == pytest.approx(1)  # distance 2
    near = found.dependence[0]
    assert near.impossible == pytest.approx(0.75, abs=0.05)
    # c(equal) = (1/4 - 1/16) / (1/4 + 1/16) = 0.6: c = 0.25 * 0.6 - 0.75 = -0.6, that is 0 kept.
    assert near.kept.value == pytest.approx(0, abs=0.06)
    assert found.sentences()[0].endswith("and all of that at distance 4.")


@pytest.mark.parametrize("wrong", [0, 12])
def test_accuracy_is_the_share_of_right_sequences(wrong: int) -> None:
    target = from_spec("copy:tokens=4,symbols=3")
    x = draws(target, "model", 100)
    x[:wrong, 3] = (x[:wrong, 3] + 1) % 3
    found = measured(target, x, given=(0,))
    assert found.accuracy.value == pytest.approx(1 - wrong / 100)
    assert found.token_accuracy.value == pytest.approx(1 - wrong / 300)  # of three drawn tokens
    exact = stats.binomtest(100 - wrong, 100).proportion_ci(0.95, method="exact")
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((exact.low, exact.high))
    assert any("of the sequences are right" in one for one in found.sentences()) == (wrong > 0)


@pytest.mark.parametrize(("spec", "given"), [("parity:6", (0, 1)), ("copy:tokens=4,symbols=3", ())])
def test_there_is_no_accuracy_where_several_sequences_are_right(
    spec: str, given: tuple[int, ...]
) -> None:
    target = from_spec(spec)
    found = measured(target, draws(target, "model"), given=given)
    assert found.accuracy.value is None
    assert found.token_accuracy.value is None


def test_all_tokens_but_one_of_even_parity_decide_it() -> None:
    target = from_spec("parity:6")
    x = draws(target, "model", 50)
    x[:5, 2] = 1 - x[:5, 2]
    assert measured(target, x, given=(0, 1, 3, 4, 5)).accuracy.value == pytest.approx(0.9)


def test_known_log_probabilities_change_nothing() -> None:
    target = hidden()
    qualities = Qualities(target, draws(target, "target"), level=0.95)
    x = draws(target, "model")
    assert qualities.of(x, target.log_prob(x)) == qualities.of(x)


def test_single_precision_finds_the_same() -> None:
    narrow = hidden().to(device="cpu", dtype=torch.float32)
    x = draws(hidden(), "model")
    ours, theirs = (quality(t, x, draws(hidden(), "target")) for t in (narrow, hidden()))
    for name, figure in theirs.figures().items():
        assert ours.figures()[name].value == pytest.approx(figure.value, rel=1e-3), name


def test_a_record_comes_back_from_json() -> None:
    target = from_spec("parity:6")
    found = measured(target, 1 - draws(target, "model", 50)[:, [0, 1, 2, 3, 4, 4]])
    again = Quality.model_validate(found.to_json())
    assert again == found


def test_costly_conditionals_are_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORK", 1.0)
    target = hidden()
    found = measured(target, draws(target, "model"), given=(0,))
    missing = [found.temperature, found.accuracy, *(at.kept for at in found.dependence)]
    assert len(missing) == 6
    assert {figure.value for figure in missing} == {None}
    assert all("take too long" in figure.method for figure in missing)
    assert found.perplexity.value is not None


def test_a_single_token_has_no_pairs() -> None:
    target = MarkovChain([torch.tensor([0.3, 0.7]).double()], tokens=1)
    found = measured(target, draws(target, "model"))
    assert found.dependence == ()
    assert found.transition_kl.value is None


def test_draws_that_cannot_occur_have_no_perplexity_and_no_temperature() -> None:
    target = from_spec("copy:tokens=4,symbols=3")
    found = measured(target, torch.tensor([[0, 1, 2, 0]]).repeat(20, 1))
    assert found.valid.value == 0
    assert found.perplexity.value is None
    assert found.temperature.value is None
    assert str(found.temperature) == "unavailable: fewer than two draws can occur in the target"


def test_bad_input_is_refused() -> None:
    target = chain()
    with pytest.raises(InputError, match="at least 2 draws, got 1"):
        measured(target, draws(target, "model", 1))
    numbers = from_spec("gaussian:ar1,tokens=3")
    with pytest.raises(InputError, match="must have token ids, got continuous"):
        measured(numbers, draws(numbers, "model"))
    with pytest.raises(InputError, match="shape"):
        measured(target, draws(target, "model")[:, :3])
    given = conditional(target, [0], draws(target, "model")[:, :1])
    with pytest.raises(UnfitError, match="one law for all rows"):
        Qualities(given, draws(target, "model")[:, 1:], level=0.95)
