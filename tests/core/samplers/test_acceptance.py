"""Acceptance rules: the published one is lossless, and planted mistakes are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from capcheck import check_acceptance
from capcheck.cli.app import cli
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.samplers import acceptance
from capcheck.samplers.drawing import Drawing, others_code

Generator = torch.Generator


def at(law: Tensor, token: Tensor) -> Tensor:
    return law.gather(1, token[:, None])[:, 0]


def kept(target: Tensor, accept: Tensor, token: Tensor, residual: Tensor, rng: Generator) -> Tensor:
    u = torch.rand(len(token), generator=rng, dtype=target.dtype)
    instead = torch.multinomial(residual, 1, generator=rng)[:, 0]
    return torch.where(u < accept, token, instead)


def residual_of(target: Tensor, draft: Tensor) -> Tensor:
    left = (target - draft).clamp(min=0)
    return torch.where(left.sum(1, keepdim=True) > 0, left, target)


def lossless(target: Tensor, draft: Tensor, token: Tensor, rng: Generator) -> Tensor:
    accept = at(target, token) / at(draft, token)
    return kept(target, accept, token, residual_of(target, draft), rng)


def by_gumbel(target: Tensor, draft: Tensor, token: Tensor, rng: Generator) -> Tensor:
    """The target's own draw by exponential races, as fast samplers make it."""
    race = torch.empty_like(target).exponential_(generator=rng)
    return (target / race).argmax(1)


def draft_is_certain(target: Tensor, draft: Tensor, token: Tensor, rng: Generator) -> Tensor:
    return kept(target, at(target, token), token, residual_of(target, draft), rng)


def by_equality(target: Tensor, draft: Tensor, token: Tensor, rng: Generator) -> Tensor:
    best = target.argmax(1)
    accept = (token == best).to(target)
    return kept(target, accept, token, residual_of(target, draft), rng)


def not_renormalised(target: Tensor, draft: Tensor, token: Tensor, rng: Generator) -> Tensor:
    left = (target - draft).clamp(min=0)
    u = torch.rand(len(token), 2, generator=rng, dtype=target.dtype)
    found = (left.cumsum(1) < u[:, 1:]).sum(1).clamp(max=target.shape[1] - 1)
    return torch.where(u[:, 0] < at(target, token) / at(draft, token), token, found)


def residual_is_the_target(target: Tensor, draft: Tensor, token: Tensor, rng: Generator) -> Tensor:
    return kept(target, at(target, token) / at(draft, token), token, target, rng)


@pytest.mark.parametrize("rule", [lossless, by_gumbel])
def test_lossless_rules_pass(rule: acceptance.Rule) -> None:
    found = check_acceptance(rule)
    assert found.lossless, found.sentence
    assert {cell.vocabulary for cell in found.cells} == {3, 50, 1000}
    assert "no distance is seen" in found.sentence


@pytest.mark.parametrize(
    "rule", [draft_is_certain, by_equality, not_renormalised, residual_is_the_target]
)
@pytest.mark.parametrize("vocabulary", [3, 30, 1000])
def test_planted_mistakes_are_refused(rule: acceptance.Rule, vocabulary: int) -> None:
    found = check_acceptance(rule, vocabularies=[vocabulary])
    assert not found.lossless
    assert found.sentence.startswith("not lossless: beside laws of")


def test_the_share_of_accepted_drafts_is_that_of_the_laws() -> None:
    found = check_acceptance(lossless, vocabularies=[50])
    for cell in found.cells:
        rng = CounterRandomness(0, name=f"50, {cell.laws}").stream("laws")
        target, draft = acceptance._laws(50, cell.laws, rng)
        overlap = float(torch.minimum(target, draft).sum())
        again = (target - draft).clamp(min=0) @ torch.minimum(draft, draft - target).clamp(min=0)
        assert cell.accepted == pytest.approx(overlap + float(again), abs=0.02)


def test_a_lossless_rule_is_refused_no_more_often_than_stated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(acceptance, "LEVEL", 0.5)
    refused = [
        not check_acceptance(lossless, vocabularies=[3], draws=2000, seed=seed).lossless
        for seed in range(40)
    ]
    assert sum(refused) <= 27  # 20 are allowed on average, and 28 come about once in a hundred


def test_what_is_no_rule_is_refused() -> None:
    with pytest.raises(InputError, match="must return 40000 token ids from 0 to 2"):
        check_acceptance(lambda p, q, x, g: p, vocabularies=[3])
    with pytest.raises(InputError, match="vocabularies must be from 2"):
        check_acceptance(lossless, vocabularies=[1])
    with pytest.raises(InputError, match="draws must be at least 1000"):
        check_acceptance(lossless, draws=10)


RULE = """
def rule(target, draft, token, generator):
    return {answer}
"""


def test_the_command_says_whether_a_rule_is_lossless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers = {"own": "target.multinomial(1, generator=generator)[:, 0]", "drafts": "token"}
    for name, answer in answers.items():
        (tmp_path / f"{name}_rule.py").write_text(RULE.format(answer=answer))

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["sampler", *words, "--acceptance"], standalone_mode=False)

    good = run("own_rule:rule")
    assert (good.return_value, "own_rule:rule is lossless" in good.output) == (0, True)
    bad = run("drafts_rule:rule", "--json")
    assert bad.return_value == 1
    assert json.loads(bad.output)["lossless"] is False


def test_draws_in_place_and_by_weights_come_from_the_source() -> None:
    rng, again = (CounterRandomness(3) for _ in range(2))
    weights = torch.tensor([[0.0, 0.3, 0.7]]).expand(500, 3)
    with Drawing(rng, 500) as drawing:
        chosen = torch.multinomial(weights, 2)
        wide = torch.empty(500, 2).double().uniform_(-1, 3)
        normal = torch.empty(500, 2).double().normal_(mean=1, std=2)
        race = torch.empty(500, 2).double().exponential_(2.0)
    assert set(chosen[:, 0].tolist()) == {1, 2}
    assert bool((chosen.sum(1) == 3).all())
    again.uniform((500, 1)), again.uniform((500, 1))
    u, v, w = (again.uniform((500, 2)) for _ in range(3))
    torch.testing.assert_close(wide, 4 * u - 1)
    torch.testing.assert_close(normal, 1 + 2 * torch.special.ndtri(v))
    torch.testing.assert_close(race, -w.log() / 2)
    assert (drawing.draws, drawing.unguided) == (4, 4)


def test_other_draws_come_from_the_source_and_the_callers_generator_is_left_alone() -> None:
    rng, again = (CounterRandomness(4) for _ in range(2))
    p = torch.full((500, 2), 0.3)
    before = torch.get_rng_state()
    with others_code(rng, 500) as drawing:
        coins = torch.bernoulli(p)
        shaped = torch.normal(torch.full((500, 2), 1.0).double(), 2.0)
        sized = torch.normal(1.0, 2.0, size=(500, 2), generator=torch.Generator())
        other = torch.empty(50).cauchy_()
    u, v, w = (again.uniform((500, 2)) for _ in range(3))
    torch.testing.assert_close(coins.double(), (u < 0.3).double())
    torch.testing.assert_close(shaped, 1 + 2 * torch.special.ndtri(v))
    torch.testing.assert_close(sized.double(), 1 + 2 * torch.special.ndtri(w), atol=1e-5, rtol=0)
    assert (drawing.draws, drawing.unguided) == (3, 2)
    with others_code(rng, 500):
        assert torch.equal(torch.empty(50).cauchy_(), other)
    assert torch.equal(torch.get_rng_state(), before)


def test_single_precision_never_draws_1() -> None:
    class Largest(CounterRandomness):
        def uniform(self, shape: tuple[int, ...]) -> Tensor:
            return torch.full(shape, 1 - 2.0**-53, dtype=torch.float64)

    with Drawing(Largest(0), 3):
        drawn = [torch.rand(3), torch.randn(3), torch.empty(3).uniform_()]
        drawn += [torch.empty(3).exponential_(), torch.empty(3).normal_()]
    assert all(bool(each.isfinite().all()) for each in drawn)
    assert bool((drawn[0] < 1).all())
    assert bool((drawn[2] < 1).all())
    assert bool((drawn[3] > 0).all())
