"""Blocks from independent heads against entropies of an enumerated law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from reference.groups import covariance_of_groups, law_of_groups
from reference.information import of_blocks, of_gaussian, of_table
from reference.sequences import weighed
from reference.speculation import all_accepted, expected_rounds, overlaps

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.length.multi_token import MultiToken
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.results.speculation import Speculation
from capcheck.targets import GaussianMixture, ProductMixture, from_spec, from_table


def blocks(heads: int, length: int, tokens: int) -> list[list[int]]:
    """The first `length` tokens by `heads`, then everything else at once."""
    placed = [list(range(a, min(a + heads, length))) for a in range(0, length, heads)]
    return [*placed, list(range(length, tokens))]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 7])
def test_kl_is_the_sum_of_the_blocks_total_correlations(heads: int) -> None:
    p = np.random.default_rng(0).random((2, 2, 2, 2, 2)) ** 2
    p /= p.sum()
    found = check(
        "multi_token",
        from_table(torch.tensor(p)),
        options={"heads": heads},
        lengths=range(6),
        steps=[1],
        samples=200,
        divergences=["kl"],
    )
    for cell in found.cells:
        length = cell.budget.length
        expected = of_blocks(of_table(p), blocks(heads, length, 5))
        assert cell.estimates["kl"].value == pytest.approx(expected, abs=1e-9)
        assert cell.model_calls == -(-length // heads) + (length < 5)
    assert ((found.cells[-1].estimates["kl"].value or 0) > 0.01) == (heads > 1)


def test_on_a_gaussian_kl_is_that_of_determinants() -> None:
    C = 0.8 ** np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    target = GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(C)[None])
    options = {"heads": 2}
    found = check("multi_token", target, options=options, lengths=[5], steps=[1], samples=200)
    expected = of_blocks(of_gaussian(C), blocks(2, 5, 5))
    # AR(1): two blocks of two, each of correlation 0.8 given the past's last token, whose
    # residual covariance is [[0.36, 0.288], [0.288, 0.5904]]; and the first block's ln 1/0.36 / 2.
    by_hand = -0.5 * np.log(0.36) - 0.5 * np.log(1 - 0.288**2 / (0.36 * 0.5904))
    assert expected == pytest.approx(by_hand, abs=1e-12)
    assert found.cells[0].estimates["kl"].value == pytest.approx(expected, abs=1e-9)


def test_copies_drawn_at_once_disagree() -> None:
    # Every block after the first knows the symbol: (heads - 1) ln V.
    found = check(
        "multi_token", from_spec("copy:tokens=6,symbols=3"), options={"heads": 3}, samples=200,
        lengths=[6], steps=[1], divergences=["kl"],
    )  # fmt: skip
    assert found.cells[0].estimates["kl"].value == pytest.approx(2 * np.log(3), abs=1e-9)


def test_one_head_is_gpt(three: ProductMixture) -> None:
    one, gpt = build_probe("multi_token", {"heads": 1}), build_probe("gpt")
    two, budget = build_probe("multi_token", {"heads": 2}), Budget(length=3, steps=1)
    ends = [
        list(Procedure.of(probe, three).run(budget, 20, CounterRandomness(0)))
        for probe in (one, gpt, two)
    ]
    assert [len(states) for states in ends] == [4, 4, 3]
    for state, other in zip(ends[0], ends[1], strict=True):
        assert torch.equal(state.tokens, other.tokens)
        assert torch.equal(state.written, other.written)
    assert not torch.equal(ends[1][-1].tokens, ends[2][-1].tokens)


def test_the_suspect_is_one_head() -> None:
    probe = build_probe("multi_token", {"heads": 3})
    (suspect,) = probe.suspects()
    assert suspect.failure == "wrong factorisation"
    assert suspect.probe == build_probe("multi_token", {"heads": 1})
    assert suspect.probe.suspects() == ()


def free_blocks(
    given: tuple[int, ...], heads: int, length: int, tokens: int
) -> list[tuple[list[int], list[int]]]:
    """Blocks of the tokens that are not given, each shown what lies before its first token."""
    free = [i for i in range(tokens) if i not in given][:length]
    blocks = [free[a : a + heads] for a in range(0, len(free), heads)]
    return [(block, list(range(block[0]))) for block in blocks]


@pytest.mark.parametrize("given", [(0,), (1,), (0, 3)])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_beside_given_tokens_a_wrong_network_makes_the_law_written_out(
    given: tuple[int, ...], heads: int
) -> None:
    p, q = table(4, 2), table(4, 2, seed=1)
    plain = Procedure.of(MultiToken(heads=heads), from_table(torch.tensor(p)), given=given)
    procedure = plain.with_network(TablePredictor(q))
    for length in range(5 - len(given)):
        groups = free_blocks(given, heads, length, 4)
        expected, budget = law_of_groups(p, q, given, groups), Budget(length=length, steps=1)
        assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
        assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-12
    of_all = law_of_groups(p, q, (), free_blocks((), heads, 4, 4))
    assert np.abs(expected - of_all).max() > 1e-3


def test_beside_given_numbers_the_law_is_that_of_regressions() -> None:
    C, Q = (r ** np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))) for r in (0.8, -0.5))
    target, other = (
        GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None]) for S in (C, Q)
    )
    plain = Procedure.of(MultiToken(heads=2), target, given=(1,))
    procedure = plain.with_network(TokenPredictorSignature().oracle(other))
    law = procedure.exact_law(Budget(length=3, steps=1))
    assert isinstance(law, GaussianLaw)
    expected = covariance_of_groups(C, Q, (1,), [([0, 2], []), ([3], [0, 1, 2])])
    assert np.allclose(law.covariance, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - C).max() > 1e-2


@pytest.mark.parametrize("heads", [2, 3, 5])
def test_a_verification_would_accept_what_every_draft_written_out_shows(heads: int) -> None:
    q = table(5, 2, seed=2)
    law, spec = weighed(lambda x: float(q[x]), 5, 2), from_table(torch.tensor(q)).spec
    x = torch.tensor(list(np.ndindex(*q.shape)))  # all sequences, with their probabilities
    found = MultiToken(heads=heads).speculation(TablePredictor(q), spec, x)
    weight, starts = torch.tensor(q.ravel()), range(0, 5, heads)
    rounds = sum(expected_rounds(law, i, min(i + heads, 5)) for i in starts)
    assert float(weight @ found.rounds) == pytest.approx(rounds, abs=1e-12)
    full = [(i, i + heads) for i in starts if i + heads <= 5]
    reached = np.mean([all_accepted(law, *ends) for ends in full], 0)
    assert (weight @ found.reached).tolist() == pytest.approx(reached.tolist(), abs=1e-12)
    kept = np.mean([overlaps(law, *ends) for ends in full], 0)
    assert (weight @ found.kept).tolist() == pytest.approx(kept.tolist(), abs=1e-12)
    assert kept.max() < 0.99


def test_heads_that_copy_are_accepted_where_they_know_the_symbol() -> None:
    # Heads 2 and 3 of the first block guess one of three symbols, later ones have seen it.
    target = from_spec("copy:tokens=6,symbols=3")
    procedure = Procedure.of(MultiToken(heads=3), target)
    x = target.sample(50, CounterRandomness(0))
    found = Speculation.of(MultiToken(heads=3).speculation(procedure.network, procedure.spec, x))
    assert [one.value for one in found.overlap] == pytest.approx([(1 / 3 + 1) / 2] * 2)
    # P(both accepted) = (1/9 + 1) / 2, of P(the first is accepted) = (1/3 + 1) / 2.
    conditional = [one and one.value for one in found.acceptance]
    assert conditional == pytest.approx([2 / 3, (10 / 18) / (2 / 3)])
    # A second round follows a refusal at place 2: 1 + 2/3 rounds, and one of the second block.
    assert found.tokens_per_round.value == pytest.approx(6 / (2 + 2 / 3))


def test_one_head_has_no_drafts(three: ProductMixture) -> None:
    probe, procedure = MultiToken(heads=1), Procedure.of(MultiToken(), three)
    x = three.sample(5, CounterRandomness(0))
    found = probe.speculation(procedure.network, procedure.spec, x)
    assert found.kept.shape == (5, 0)
    assert found.rounds.tolist() == [3.0] * 5
    assert probe.base_model == MultiToken(heads=4).base_model == probe
