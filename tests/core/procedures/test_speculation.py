"""Acceptances, rounds and speed-ups against closed forms, published figures and hand counts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from capcheck.core.errors import InputError
from capcheck.procedures.speculation import (
    MOST_BLOCKS,
    Acceptances,
    acceptances,
    accepted_length,
    improvement_factor,
    operations_factor,
)
from capcheck.results.decoding import Quantity
from capcheck.results.speculation import COSTS, Speculation


def along(
    x: torch.Tensor, overlap: list[float], *, block: int = 4, exact: bool = False
) -> Acceptances:
    """Fair coins x (n, N), whose draft of token i overlaps the base law by overlap[i] >= 1/2.

    A draft has the law (1/2 + d, 1/2 - d) with d = 1 - overlap, behind any prefix.
    """

    def log_prob(tokens: list[int]) -> torch.Tensor:
        shares = [overlap[i] if i > tokens[0] else 1.0 for i in tokens]
        d = 1 - torch.tensor(shares, dtype=torch.float64)
        return (0.5 + torch.where(x[:, tokens] == 0, d, -d)).log()

    places = list(range(len(overlap)))
    blocks = [places[i : i + block] for i in range(0, len(places), block)]
    return acceptances(log_prob, blocks, method="coins", exact=exact)


def two_symbols(overlap: list[float], block: int = 4) -> Acceptances:
    """The same along all sequences, which are equally likely."""
    x = torch.tensor(list(itertools.product(range(2), repeat=len(overlap))))  # (2^N, N)
    return along(x, overlap, block=block, exact=True)


@pytest.mark.parametrize(
    ("alpha", "gamma", "operations", "speed"),
    [
        (0.6, 2, 1.53, 1.96),
        (0.7, 3, 1.58, 2.53),
        (0.8, 2, 1.23, 2.44),
        (0.8, 5, 1.63, 3.69),
        (0.9, 2, 1.11, 2.71),
        (0.9, 10, 1.60, 6.86),
    ],
)
def test_closed_forms_are_those_of_the_papers_table_1(
    alpha: float, gamma: int, operations: float, speed: float
) -> None:
    assert improvement_factor(alpha, gamma, 0) == pytest.approx(speed, abs=0.005)
    assert operations_factor(alpha, gamma, 0) == pytest.approx(operations, abs=0.005)
    power = 1 - alpha ** (gamma + 1)
    assert accepted_length(alpha, gamma) == pytest.approx(power / (1 - alpha), rel=1e-12)
    theorem = power / ((1 - alpha) * (gamma * 0.05 + 1))
    assert improvement_factor(alpha, gamma, 0.05) == pytest.approx(theorem, rel=1e-12)
    theorem = (1 - alpha) * (gamma * 0.05 + gamma + 1) / power
    assert operations_factor(alpha, gamma, 0.05) == pytest.approx(theorem, rel=1e-12)
    assert abs(improvement_factor(alpha, gamma + 1, 0) - speed) > 0.01


def test_closed_forms_end_where_all_or_no_drafts_are_accepted() -> None:
    assert accepted_length(1, 3) == 4
    assert accepted_length(0, 3) == accepted_length(0.9, 0) == 1
    assert math.isnan(accepted_length(math.nan, 3))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"alpha must be a probability, got 1\.1"):
        accepted_length(1.1, 2)
    with pytest.raises(InputError, match="gamma must be a whole number, got -1"):
        accepted_length(0.5, -1)
    with pytest.raises(InputError, match=r"gamma must be a whole number, got 1\.5"):
        operations_factor(0.5, 1.5, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cost must be finite and at least 0, got -1"):
        improvement_factor(0.5, 2, -1)
    with pytest.raises(InputError, match="costs must be finite and at least 0, got inf"):
        Speculation.of(two_symbols([1, 0.5]), costs=[math.inf])


def test_independent_acceptances_make_the_closed_forms() -> None:
    a = 0.7
    found = Speculation.of(two_symbols([1, a, a, a]))
    assert found.alpha is not None
    assert found.alpha.value == pytest.approx(a, abs=1e-12)
    assert [one and one.value for one in found.acceptance] == pytest.approx([a] * 3, abs=1e-12)
    assert [one.value for one in found.overlap] == pytest.approx([a] * 3, abs=1e-12)
    expected = (1 - a**4) / (1 - a)  # 2.533, of three drafts and the base model's token
    assert found.accepted_length.value == pytest.approx(expected, abs=1e-12)
    assert found.independent_length == pytest.approx(expected, abs=1e-12)
    for one in found.speed_ups:
        theorem = expected / (3 * one.cost + 1)
        assert one.token_drafter.value == pytest.approx(theorem, abs=1e-12)
    # A second round follows a refusal at place 2 or 3, and fills the block: 4 / (1 + 0.3 + 0.21).
    per_round = 4 / (1 + (1 - a) + a * (1 - a))
    assert found.tokens_per_round.value == pytest.approx(per_round, abs=1e-12)
    assert found.tokens_per_call.value == pytest.approx(per_round / 2, abs=1e-12)
    assert [one.block_drafter.value for one in found.speed_ups] == pytest.approx(
        [per_round / (1 + c) for c in COSTS], abs=1e-12
    )


def test_dependent_acceptances_do_not_make_the_closed_form() -> None:
    found = Speculation.of(two_symbols([1, 0.9, 0.7, 0.5]))
    assert found.alpha is not None
    assert found.alpha.value == pytest.approx(0.7, abs=1e-12)
    assert found.accepted_length.value == pytest.approx(1 + 0.9 + 0.63 + 0.315, abs=1e-12)
    assert found.independent_length == pytest.approx((1 - 0.7**4) / 0.3, abs=1e-12)
    # Behind a refusal at place 2, the draft of place 4 is a second one, which fills the block.
    per_round = 4 / (1 + 0.1 + 0.9 * 0.3)
    assert found.tokens_per_round.value == pytest.approx(per_round, abs=1e-12)


def test_a_third_round_follows_two_refusals() -> None:
    a = 0.6
    found = Speculation.of(two_symbols([1, a, a, a, a], block=5))
    # After a refusal at place 2 three tokens are left, of which the second may be refused again.
    rounds = 1 + (1 - a) * (1 + (1 - a)) + a * (1 - a) + a * a * (1 - a)
    assert found.tokens_per_round.value == pytest.approx(5 / rounds, abs=1e-12)


def test_a_shorter_last_block_counts_in_rounds_only() -> None:
    found = two_symbols([1, 0.5, 0.5, 1, 0.6], block=3)
    assert (found.sizes, found.blocks) == ((3, 2), 2)
    assert found.kept.mean(0).tolist() == pytest.approx([0.5, 0.5])
    assert float(found.rounds.mean()) == pytest.approx(1 + 0.5 + 1)


def test_drafts_that_are_never_reached_have_no_acceptance() -> None:
    found = Speculation.of(two_symbols([1, 1, 1, 1]))
    assert found.acceptance == (Quantity(value=1, low=1, high=1),) * 3

    def refused(tokens: list[int]) -> torch.Tensor:
        return torch.tensor([[0.0, *[-torch.inf] * (len(tokens) - 1)]]).double()

    found = Speculation.of(acceptances(refused, [[0, 1, 2]], method="one", exact=True))
    assert found.acceptance == (Quantity(value=0, low=0, high=0), None)
    assert found.tokens_per_round.value == 3 / 2  # the first, its correction; then the last


def test_blocks_of_one_token_have_no_drafts() -> None:
    found = Speculation.of(two_symbols([1, 1], block=1))
    assert (found.alpha, found.independent_length, found.acceptance) == (None, None, ())
    assert found.tokens_per_round.value == found.accepted_length.value == 1


def test_many_blocks_are_looked_at_in_evenly_spread_places() -> None:
    seen: set[int] = set()

    def log_prob(tokens: list[int]) -> torch.Tensor:
        seen.update(tokens)
        return torch.zeros(2, len(tokens)).double()

    blocks = [list(range(i, i + 4)) for i in range(0, 1024, 4)]
    found = acceptances(log_prob, blocks, method="")
    assert (len(found.sizes), found.blocks) == (MOST_BLOCKS, 256)
    starts = sorted(i for i in seen if i % 4 == 0)
    assert starts == [4 * (8 + 16 * k) for k in range(16)]  # the middle one of every 16 blocks


def test_a_sequence_that_the_base_model_cannot_draw_is_refused() -> None:
    def log_prob(tokens: list[int]) -> torch.Tensor:
        return torch.tensor([[-torch.inf if i == 1 else -1.0 for i in tokens]]).double()

    with pytest.raises(InputError, match="x must be draws of the base model's law"):
        acceptances(log_prob, [[0, 1]], method="")


def drawn(n: int, generator: torch.Generator, overlap: float = 0.7) -> Acceptances:
    """The same along n draws of four tokens."""
    return along(torch.randint(2, (n, 4), generator=generator), [1, *[overlap] * 3])


def test_intervals_cover_the_known_numbers() -> None:
    generator, runs = torch.Generator().manual_seed(0), 200
    exact = Speculation.of(two_symbols([1, 0.7, 0.7, 0.7]))
    covered = dict.fromkeys(["alpha", "accepted_length", "tokens_per_round", "last"], 0)
    for _ in range(runs):
        found = Speculation.of(drawn(60, generator), level=0.9)
        last = found.acceptance[-1]
        pairs = [
            ("alpha", found.alpha, 0.7),
            ("accepted_length", found.accepted_length, exact.accepted_length.value),
            ("tokens_per_round", found.tokens_per_round, exact.tokens_per_round.value),
            ("last", last, 0.7),
        ]
        for name, one, value in pairs:
            assert one is not None
            covered[name] += one.low <= value <= one.high
    # 0.9 within 3.5 standard errors of sqrt(0.9 x 0.1 / 200) = 0.021.
    assert all(0.825 < count / runs < 0.975 for count in covered.values()), covered


def test_one_draw_says_nothing_and_equal_draws_not_everything() -> None:
    one = Speculation.of(drawn(1, torch.Generator().manual_seed(0)))
    assert one.alpha is not None
    assert (one.alpha.low, one.alpha.high, one.samples) == (0, 1, 1)
    assert (one.tokens_per_round.low, one.tokens_per_round.high) == (2, 4)
    equal = Speculation.of(drawn(100, torch.Generator().manual_seed(0), overlap=1.0))
    assert equal.alpha is not None
    assert equal.alpha.low == pytest.approx(1 - 1.984 / 100, abs=1e-3)  # t quantile, 99 degrees
    assert equal.alpha.high == 1
