"""The sentence that answers a survey, and the clauses of its table."""

from __future__ import annotations

import math
from typing import Any

import pytest
from judged import between, cell, exact, family, sampled, survey_of, unfinished, unsupported

from capcheck import survey
from capcheck.divergences.estimate import Estimate
from capcheck.judging.answer import CLAUSE, FEW, LONGEST, answer, because, printable, shortened
from capcheck.networks.kinds import FittedNetwork
from capcheck.procedures.probe import Failure
from capcheck.results.family import Cause, FamilyResult
from capcheck.results.measurement import Outcome
from capcheck.results.plan import FitFacts, NetworkFacts
from capcheck.targets import from_spec


def can(name: str, calls: int, kl: float = 0.25, **facts: Any) -> FamilyResult:
    return family(cell(calls, kl=exact(kl)), name=name, **facts)


def cannot(name: str, kl: float = 1.0, cause: Failure | None = None) -> FamilyResult:
    found = family(cell(4, kl=exact(kl)), name=name)
    if cause is None:
        return found
    lifted = family(cell(4, kl=exact(0.0))).cells[0]
    one = Cause(
        failure=cause, cure="a cure", plan=found.plan, cell=lifted, removed=True, sentence=""
    )
    return found.model_copy(update={"causes": (one,)})


def slow(name: str) -> FamilyResult:
    """8 / k steps of tolerance 1/2: 16 steps would suffice."""
    return family(*(cell(k, k, kl=exact(8 / k)) for k in (1, 2, 4, 8)), name=name)


def undecided(name: str) -> FamilyResult:
    return family(cell(4, kl=between(0.1, 2.0)), name=name)


def fitted(found: FamilyResult, **facts: Any) -> FamilyResult:
    plan = found.plan.with_network(FittedNetwork(name="mlp", steps=10))
    return found.model_copy(update={"plan": plan, **facts})


# The sentence


def test_each_of_a_few_families_is_told_in_one_sentence() -> None:
    result = survey_of(
        can("gpt", 64),
        can("flow_map", 1),
        cannot("maskgit", cause="wrong factorisation"),
        slow("diffusion"),
    )
    assert answer(result) == (
        "On latents.npy: flow_map can at 1 model call, gpt at 64; "
        "diffusion needs about 16 [16, 16] steps; "
        "maskgit cannot: it loses the dependence between tokens."
    )


def test_a_cause_that_is_not_known_is_replaced_by_the_divergence() -> None:
    assert answer(survey_of(cannot("var"))) == (
        "On latents.npy: var cannot: KL at least 2 times its tolerance."  # 1.0 / 0.5
    )


def test_an_undecided_family_says_what_would_decide_it() -> None:
    said = answer(survey_of(undecided("ebm")))
    assert said == (
        "On latents.npy: ebm is undecided: bounds on KL on both sides of its tolerance."
    )


def test_many_families_are_counted_and_grouped_by_cause() -> None:
    result = survey_of(
        *(can(name, calls) for name, calls in (("gpt", 8), ("flow", 1), ("gan", 1))),
        *(cannot(name, cause="wrong factorisation") for name in ("maskgit", "var")),
        cannot("consistency", cause="limited emission"),
        cannot("mar"),
        slow("diffusion"),
        undecided("ebm"),
    )
    assert answer(result) == (
        "On latents.npy: 3 of 9 families can: flow, gan at 1 model call, gpt at 8; "
        "with more steps diffusion about 16 [16, 16] steps; "
        "4 cannot (wrong factorisation: maskgit, var; limited emission: consistency; "
        "cause unknown: mar); undecided: ebm."
    )


def test_families_beyond_the_named_ones_are_counted_with_their_calls() -> None:
    able = [can(f"f{i}", 2 ** min(i, 8)) for i in range(12)]  # 1, 2, ..., 256 four times
    said = answer(survey_of(*able))
    assert said == (
        "On latents.npy: 12 of 12 families can: f0 at 1 model call, f1 at 2, f2 at 4, f3 at 8, "
        "f4 at 16, f5 at 32, 6 more at up to 256."
    )


def test_none_of_many_is_said_and_not_left_out() -> None:
    said = answer(survey_of(*(cannot(f"f{i}") for i in range(FEW + 1))))
    assert said.startswith("On latents.npy: none of 6 families can; 6 cannot (cause unknown: f0")


def test_sixty_families_of_long_names_stay_one_short_sentence() -> None:
    of_each = [
        *(can(f"an_able_family_{i}", i + 1) for i in range(20)),
        *(cannot(f"an_unable_family_{i}", cause="unadjusted step") for i in range(20)),
        *(undecided(f"an_undecided_family_{i}") for i in range(20)),
    ]
    said = answer(survey_of(*of_each, target="a name of a file " * 9))
    assert len(said) <= LONGEST
    assert "20 of 60 families can" in said
    assert "an_able_family_0" in said
    assert "20 cannot (unadjusted step: " in said
    assert "more" in said


def test_a_run_that_was_killed_half_way_says_so() -> None:
    started = unfinished(cell(1, 1, kl=exact(2.0)), of=3, name="mar")
    said = answer(survey_of(can("gpt", 8), started))
    assert said == ("So far, on latents.npy: gpt can at 8 model calls; mar lacks 2 of its 3 cells.")
    many = answer(survey_of(*(can(f"f{i}", 1) for i in range(FEW)), started))
    assert many.startswith("So far, on latents.npy: 5 of 5 families can")
    assert many.endswith("1 of 6 results lack cells.")
    assert "So far" not in answer(survey_of(can("gpt", 8)))


def test_what_is_not_defined_for_the_target_is_not_counted() -> None:
    reason = "masked is defined for categorical tokens, not continuous ones."
    said = answer(survey_of(can("gpt", 8), unsupported("masked", reason)))
    assert said == "On latents.npy: gpt can at 8 model calls."
    assert because(unsupported("masked", reason), survey_of(can("gpt", 8)).settings) == (
        "defined for categorical tokens, not continuous ones"
    )


def test_networks_are_named_with_their_family() -> None:
    oracle = can("flow", 1)
    failed = fitted(cannot("flow"), oracle_outcome=Outcome.REPRESENTABLE)
    assert failed.blame == "network"
    said = answer(survey_of(oracle, failed))
    assert said == (
        "On latents.npy: flow can at 1 model call; flow with mlp cannot, though its oracle can."
    )
    settings = survey_of(oracle).settings
    assert because(failed, settings) == "network or fit; KL at least 2 times its tolerance"
    many = answer(survey_of(*(can(f"f{i}", 1) for i in range(FEW)), failed))
    assert many.startswith("On latents.npy: 5 of 5 families can")
    assert many.endswith("with networks 0 of 1 can.")


def test_more_steps_are_no_cure_for_a_network() -> None:
    settings = survey_of(slow("f")).settings
    assert because(slow("f"), settings).startswith("about 16 [16, 16] steps")
    failed = fitted(slow("f"), oracle_outcome=Outcome.REPRESENTABLE)
    assert because(failed, settings) == "network or fit; KL at least 2 times its tolerance"


@pytest.mark.parametrize("hostile", ["a\u202eb", "a\x1b[31mb", "a\nb", "a" * 200])
def test_names_neither_steer_the_terminal_nor_fill_the_line(hostile: str) -> None:
    said = answer(survey_of(can("gpt", 8), target=hostile))
    assert said.isprintable()
    assert len(said) < 100
    assert said.endswith("gpt can at 8 model calls.")
    assert "\u202e" not in printable(hostile)
    assert len(shortened("a" * 200, 40)) == 40


# The clauses


def of(found: FamilyResult) -> str:
    said = because(found, survey_of(found).settings)
    assert len(said) <= CLAUSE
    return said


def test_a_pass_says_how_far_below_its_tolerance_it_is() -> None:
    assert of(can("gpt", 8, kl=0.4)) == "KL at most 0.8 times its tolerance"
    assert of(can("gpt", 8, kl=0.0)) == "KL is 0"
    sure = family(cell(8, kl=sampled(0.1, 0.05)))  # 0.1 + 1.96 * 0.05 = 0.198
    assert of(sure) == "KL at most 0.396 times its tolerance"


def test_a_refusal_says_why_and_by_how_much() -> None:
    refused = cannot("maskgit", cause="wrong factorisation")
    assert of(refused) == "wrong factorisation; KL at least 2 times its tolerance"
    assert of(cannot("maskgit")) == "KL at least 2 times its tolerance"
    assert of(cannot("maskgit", kl=math.inf)) == "KL is infinite"
    assert of(cannot("maskgit", kl=123456.0)) == "KL at least 247,000 times its tolerance"
    assert of(slow("diffusion")) == "about 16 [16, 16] steps, if KL falls on as fitted"


def test_a_clause_and_the_reason_of_the_verdict_state_the_same_number() -> None:
    found = family(cell(4, kl=sampled(1.0, 0.1)))
    assert found.reason.endswith("kl is at least 1.61 times its tolerance")  # (1 - 0.196) / 0.5
    assert of(found) == "KL at least 1.61 times its tolerance"


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        # (1.96 * 0.2 / 0.2)^2 * 100 draws
        (sampled(0.7, 0.2), "about 390 draws would decide KL"),
        (sampled(0.1, 0.3, null_error=0.25), "about 400 draws would decide KL"),  # (1/2 / 1/4)^2
        (between(0.1, 2.0), "bounds on KL on both sides of its tolerance"),
        (sampled(0.2, 0.01, "lower bound"), "needs a bound on KL from above"),
        (sampled(2.0, 0.01, "upper bound"), "only an upper bound on KL, above its tolerance"),
        (sampled(0.5, 0.1), "KL sits at its tolerance"),
        (exact(math.nan), "KL is not a number"),
        (
            sampled(0.7, 0.2, samples=50),
            "3.8 times --seconds-per-cell would decide KL",  # (0.392 / 0.2)^2
        ),
    ],
)
def test_an_undecided_family_says_what_would_decide(estimate: Estimate, said: str) -> None:
    found = family(cell(4, kl=estimate))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert of(found) == said


def test_a_fit_that_failed_decides_nothing_and_says_so() -> None:
    fit = FitFacts(
        validation=1.0, start=1.0, steps=9, seconds=1.0, diverged=False, too_short=True,
        reason="no step improved the loss",
    )  # fmt: skip
    found = fitted(undecided("flow"), facts=NetworkFacts(fit=fit))
    assert of(found) == "the fit was too short: no step improved the loss"


def test_a_run_says_the_same_of_what_it_measured() -> None:
    at_once = {"maskgit": {"tokens_per_round": 3}}
    target = from_spec("modes:tokens=3")
    how: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [0, 3]}
    result = survey(target, ["gpt", "maskgit"], options=at_once, **how)
    said = answer(result)
    assert said.endswith(
        ": gpt can at 3 model calls; maskgit cannot: it loses the dependence between tokens."
    )
    clauses = [because(found, result.settings) for found in result.families]
    assert clauses[0] == "KL is 0"
    assert clauses[1].startswith("wrong factorisation; KL at least ")
