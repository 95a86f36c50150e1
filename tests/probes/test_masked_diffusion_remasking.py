"""Masked diffusion with remasking against an enumeration of partly masked sequences."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from reference.remasking import Array, law_of_remasking
from reference.unmasking import kl
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.enumeration import Route
from capcheck.probes.steps.masked_diffusion import MaskedDiffusion
from capcheck.procedures import remasking_law
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec, from_table

RULES: list[tuple[str, float | None]] = [
    ("full", None),
    ("max", None),
    ("cap", 0.3),
    ("rescale", 0.4),
    ("loop", 0.05),
]


def holes(N: int, V: int) -> Array:
    """A table about a third of whose sequences are impossible."""
    p = table(N, V, seed=N)
    p = np.where(np.random.default_rng(N).random(p.shape) < 0.67, p, 0)
    law: Array = p / p.sum()
    return law


TABLES = {"positive3": table(3, 2), "ternary3": holes(3, 3), "holes4": holes(4, 2)}


def procedure_of(p: Array, rule: str, eta: float | None, **options: Any) -> Procedure[Any]:
    probe = build_probe("masked_diffusion", {"remasking": rule, "eta": eta, **options})
    return Procedure.of(probe, from_table(torch.tensor(p)))


def law(p: Array, rule: str, eta: float | None, k: int, route: Route = "density") -> Array:
    return law_of(procedure_of(p, rule, eta), Budget(length=0, steps=k), route)


@pytest.mark.parametrize(("rule", "eta"), RULES)
@pytest.mark.parametrize("name", TABLES)
def test_the_law_of_every_rule_is_that_of_the_enumeration(
    name: str, rule: str, eta: float | None
) -> None:
    p = TABLES[name]
    for k in (1, 2, 3, 5):
        expected = law_of_remasking(p, rule, k, eta)
        assert expected.sum() == pytest.approx(1, abs=1e-12)
        assert np.abs(law(p, rule, eta, k) - expected).max() < 1e-10
        assert np.abs(law_of_remasking(p, rule, k + 1, eta) - expected).max() > 1e-4


@pytest.mark.parametrize(("rule", "eta"), RULES)
def test_the_law_of_six_tokens_is_that_of_the_enumeration(rule: str, eta: float | None) -> None:
    p = table(6, 2, seed=3)
    expected = law_of_remasking(p, rule, 3, eta)
    assert np.abs(law(p, rule, eta, 3) - expected).max() < 1e-10
    assert np.abs(law(p, rule, eta, 2) - expected).max() > 1e-4


def test_the_rules_are_told_apart() -> None:
    p = TABLES["ternary3"]
    laws = [law_of_remasking(p, rule, 5, eta) for rule, eta in [*RULES, ("none", None)]]
    for one, other in itertools.combinations(laws, 2):
        assert np.abs(one - other).max() > 1e-4
    without = law_of(procedure_of(p, "full", None, remask=False), Budget(length=0, steps=5))
    for rule in ("cap", "rescale"):
        assert np.abs(law(p, rule, 0.0, 5) - without).max() < 1e-12
        assert np.abs(law(p, rule, 1.0, 5) - law(p, "max", None, 5)).max() < 1e-12
    for rule, eta in RULES[:-1]:  # a loop reveals more in its first step
        two = law_of(procedure_of(p, "full", None, remask=False), Budget(length=0, steps=2))
        assert np.abs(law(p, rule, eta, 2) - two).max() < 1e-12


@pytest.mark.parametrize(("rule", "eta"), RULES)
def test_what_is_sampled_has_the_law_of_the_enumeration(rule: str, eta: float | None) -> None:
    p = table(2, 3, seed=1)
    branched = law(p, rule, eta, 3, "branching")
    assert np.abs(branched - law_of_remasking(p, rule, 3, eta)).max() < 1e-10
    assert np.abs(branched - law_of_remasking(p, rule, 4, eta)).max() > 1e-4


@pytest.mark.parametrize("draw", ["inverse_cdf", "gumbel"])
@pytest.mark.parametrize(("rule", "eta"), RULES)
def test_frequencies_of_samples_agree(rule: str, eta: float | None, draw: str) -> None:
    p, n = table(4, 2, seed=4), 20_000
    procedure = procedure_of(p, rule, eta, draw=draw)
    x = procedure.sample(Budget(length=0, steps=4), n, CounterRandomness(5)).numpy()
    counts = np.bincount(np.ravel_multi_index(tuple(x.T), p.shape), minlength=p.size)
    expected = law_of(procedure, Budget(length=0, steps=4), "density")
    assert np.abs(expected - law_of_remasking(p, rule, 4, eta)).max() < 1e-10
    assert stats.chisquare(counts, n * expected.ravel()).pvalue > 1e-3
    assert stats.chisquare(counts, n * p.ravel()).pvalue < 1e-6


@pytest.mark.parametrize("given", [(0,), (1, 2)])
@pytest.mark.parametrize(("rule", "eta"), RULES)
def test_beside_given_tokens_a_wrong_network_makes_the_law_of_the_enumeration(
    rule: str, eta: float | None, given: tuple[int, ...]
) -> None:
    p, q, k = table(3, 2), table(3, 2, seed=1), 3
    probe = build_probe("masked_diffusion", {"remasking": rule, "eta": eta})
    plain = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
    procedure, budget = plain.with_network(TablePredictor(q)), Budget(length=0, steps=k)
    expected = law_of_remasking(p, rule, k, eta, q, given)
    assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-10
    assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-9
    assert np.abs(law_of_remasking(p, rule, k, eta, p, given) - expected).max() > 1e-3


def test_given_tokens_are_never_masked_again() -> None:
    probe = MaskedDiffusion(remasking="max")
    procedure = Procedure.of(probe, from_spec("copy:tokens=4,symbols=3"), given=(1,))
    first, *_, last = procedure.run(Budget(length=0, steps=5), 200, CounterRandomness(0))
    assert torch.equal(first.tokens[:, 1], last.tokens[:, 1])
    assert bool(last.placed.all())


@pytest.mark.parametrize("rule", ["full", "max"])
def test_remasking_is_of_order_one_half(rule: str) -> None:
    p, steps = table(3, 3, seed=2), [32, 64, 128]
    distances = [np.abs(law(p, rule, None, k) - p).sum() / 2 for k in steps]
    slope = -np.polyfit(np.log(steps), np.log(distances), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.2)
    assert distances[-1] > 1e-3


@pytest.mark.parametrize(("rule", "eta"), [RULES[0], RULES[2]])
def test_a_check_states_exact_numbers(rule: str, eta: float | None) -> None:
    p = TABLES["ternary3"]
    found = check(
        "masked_diffusion", from_table(torch.tensor(p)), samples=200, steps=[4],
        options={"remasking": rule, "eta": eta},
        divergences=["kl", "wasserstein", "total_variation"],
    )  # fmt: skip
    estimates, expected = found.cells[-1].estimates, law_of_remasking(p, rule, 4, eta)
    assert {name: each.kind for name, each in estimates.items()} == dict.fromkeys(
        ("kl", "wasserstein", "total_variation"), "exact"
    )
    assert estimates["kl"].value == pytest.approx(kl(p, expected), abs=1e-9)
    tv = np.abs(p - expected).sum() / 2
    assert estimates["total_variation"].value == pytest.approx(tv, abs=1e-9)
    wide = check(
        "masked_diffusion", from_spec("copy:tokens=4,symbols=20"), samples=200, steps=[4],
        options={"remasking": rule, "eta": eta}, divergences=["kl"],
    )  # fmt: skip
    assert wide.cells[-1].estimates["kl"].kind != "exact"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 0.5}, "eta must be set with remasking=cap, rescale and loop"),
        ({"remasking": "max", "eta": 0.5}, "and with no other rule"),
        ({"remasking": "cap"}, "eta must be set"),
        ({"remasking": "rescale", "eta": 1.5}, "less than or equal to 1"),
        ({"remasking": "cap", "eta": -0.1}, "greater than or equal to 0"),
        ({"remasking": "max", "remask": False}, "needs remask=yes"),
        ({"remasking": "max", "reveal": "one"}, "needs remask=yes and reveal=independent"),
        ({"remasking": "loop"}, "eta must be set"),
        ({"remasking": "loop", "eta": 0.1, "loop_to": 0.6}, "loop_from must be above loop_to"),
        ({"remasking": "conf"}, "'full', 'max', 'cap', 'rescale' or 'loop'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_probe("masked_diffusion", options)


def test_the_suspect_reveals_one_token_in_each_step() -> None:
    (suspect,) = MaskedDiffusion(remasking="cap", eta=0.1).suspects()
    assert suspect.probe == MaskedDiffusion(reveal="one")


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    procedure, x = procedure_of(TABLES["holes4"], "max", None), torch.zeros(1, 4).long()

    def reason(k: int) -> str:
        found = procedure.log_density(Budget(length=0, steps=k), x, CounterRandomness(0))
        return found.reason if isinstance(found, Unavailable) else ""

    assert reason(10) == ""
    monkeypatch.setattr(remasking_law, "WORK", 10 * 5**4 - 1)
    assert "10 steps are too many" in reason(10)
    assert reason(9) == ""
    monkeypatch.setattr(remasking_law, "STATES", 3**4 - 1)
    assert "3^4 partly masked sequences are more than the 80 followed" in reason(9)


def test_a_network_is_shown_a_sequence_once() -> None:
    p, rows = TABLES["holes4"], []
    predictor = TablePredictor(p + 1e-3)

    def network(tokens: torch.Tensor, known: torch.Tensor) -> Any:
        rows.extend(torch.where(known, tokens + 1, 0).tolist())
        return predictor(tokens, known)

    procedure = procedure_of(p, "max", None).with_network(network)
    procedure.log_density(Budget(length=0, steps=6), torch.zeros(1, 4).long(), CounterRandomness(0))
    assert len(rows) == len({tuple(row) for row in rows}) == 3**4 - 2**4
