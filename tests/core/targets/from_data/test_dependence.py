from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from capcheck.targets import HeldOut, Provenance, from_samples
from capcheck.targets.from_data import dependence
from capcheck.targets.from_data.dependence import dependence_held, ratio_interval
from capcheck.targets.from_data.fitted_categorical import fit_latent_class, fit_markov_chain
from capcheck.targets.provenance import Dependence
from capcheck.targets.target import Target

Ids = NDArray[np.int64]
STAY = 0.85  # probability that a token repeats the one before it


def sticky(n: int, N: int, *, lag: int = 1, V: int = 4, seed: int = 0) -> Ids:
    """Each token equals the one `lag` before it, or with 1 - STAY is one of the others."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, V, size=(n, N))
    for i in range(lag, N):
        moved = (x[:, i - lag] + rng.integers(1, V, size=n)) % V
        x[:, i] = np.where(rng.random(n) < STAY, x[:, i - lag], moved)
    return x


def told(target: Target) -> Dependence:
    held_out = target.provenance.held_out
    assert held_out is not None
    assert held_out.dependence is not None
    return held_out.dependence


def test_a_chain_of_the_datas_order_holds_all_of_its_dependence() -> None:
    N, rate = 20, -STAY * math.log(STAY) - 0.15 * math.log(0.05)  # of one of three others
    found = told(fit_markov_chain(sticky(4000, N), 1, vocabulary=4))
    assert found.independent == pytest.approx(math.log(4), abs=0.005)
    assert found.law == pytest.approx((math.log(4) + (N - 1) * rate) / N, abs=0.02)
    assert found.ngram == pytest.approx(found.law, abs=0.002)
    assert found.order == 1
    assert found.share == pytest.approx(1, abs=0.005)
    assert found.perplexity == pytest.approx(math.exp(found.law))
    assert found.rows == 800
    assert (found.counted, found.fitted) == (3200, 3200)


def test_a_chain_of_too_low_an_order_holds_none_and_a_mixture_holds_some() -> None:
    x = sticky(3000, 12, lag=2)
    short = told(fit_markov_chain(x, 1, vocabulary=4))
    assert short.order == 2
    assert short.share == pytest.approx(0, abs=0.01)
    known = told(fit_markov_chain(x, 2, vocabulary=4))
    assert known.share == pytest.approx(1, abs=0.01)
    assert known.independent == short.independent
    assert known.ngram == short.ngram
    some = told(fit_latent_class(x, 4, vocabulary=4))
    assert some.share is not None
    assert 0.1 < some.share < 0.9


def test_rows_tell_their_share_from_the_same_split_as_their_score() -> None:
    x = sticky(600, 5)
    target = from_samples(x, vocabulary=4)
    found, held_out = told(target), target.provenance.held_out
    assert held_out is not None
    assert found.law == pytest.approx(-held_out.log_likelihood / 5)
    assert found.independent == pytest.approx(-held_out.baseline / 5)
    assert found.fitted == 480
    weighted = from_samples(x, vocabulary=4, weights=np.full(600, 3.0))
    assert told(weighted).fitted == 3 * 480


def test_copies_beyond_the_nearest_tokens_are_found_by_rows_alone() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2, size=(20, 24))[rng.integers(0, 20, size=800)]
    found = told(from_samples(x, vocabulary=2))
    assert found.low is not None
    assert found.low > 1
    assert "more than any n-gram finds" in found.sentence


def test_too_little_to_tell_is_none() -> None:
    assert fit_markov_chain(sticky(45, 8), 1, vocabulary=4).provenance.held_out is not None
    few = fit_markov_chain(sticky(45, 8), 1, vocabulary=4).provenance.held_out
    assert few is not None
    assert few.dependence is None  # of 9 held-out rows
    one = fit_markov_chain(sticky(400, 1), 0, vocabulary=4).provenance.held_out
    assert one is not None
    assert one.dependence is None  # of 1 token
    x = sticky(40, 4)
    broken = np.full(40, -math.inf)
    assert dependence_held(x, x, broken, np.zeros(40), vocabulary=4) is None


def test_independent_tokens_have_no_share() -> None:
    x = np.random.default_rng(0).integers(0, 4, size=(500, 6))
    found = told(fit_markov_chain(x, 1, vocabulary=4))
    assert (found.share, found.low, found.high) == (None, None, None)
    assert found.sentence.startswith("no n-gram clearly finds dependence in unseen rows: the law 1")


def test_a_cap_on_the_tokens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependence, "COUNTED", 8000)
    monkeypatch.setattr(dependence, "SCORED_TOKENS", 800)
    found = told(fit_markov_chain(sticky(3000, 8), 1, vocabulary=4))
    assert (found.counted, found.fitted, found.rows) == (1000, 2400, 100)
    assert found.sentence.endswith("(n-grams of 1,000 of 2,400 rows)")


def test_the_ratio_is_that_of_the_means_with_fiellers_interval() -> None:
    x, y, w = np.array([1.0, 2, 3, 4]), np.array([3.0, 3, 5, 5]), np.ones(4)
    found = ratio_interval(x, y, w)
    assert found is not None
    assert found[0] == pytest.approx(2.5 / 4)
    t = 3.182446305284263  # the quantile 0.975 with 3 degrees of freedom
    for end in found[1:]:  # x - r y is just not distinguished from 0
        rest = x - end * y
        assert abs(rest.mean()) == pytest.approx(t * rest.std(ddof=1) / 2)
    tripled = ratio_interval(x, y, 3 * w)
    assert tripled == pytest.approx(found)
    assert ratio_interval(x, y - 4, w) is None  # a mean of 0
    assert ratio_interval(x, -y, w) is None
    assert ratio_interval(x, np.array([-9.0, 9, 9, 9]), w) is None


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_covers_the_true_ratio(weighted: bool) -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        y = rng.gamma(2.0, 1.0, size=60)  # mean 2
        x = 0.7 * y + rng.normal(0, 0.8, size=60)
        w = rng.uniform(0.5, 1.5, size=60) if weighted else np.ones(60)
        interval = ratio_interval(x, y, w)
        assert interval is not None
        covered += interval[1] <= 0.7 <= interval[2]
    assert 0.93 < covered / 1000 < 0.97


def fact(**changes: float | None) -> Dependence:
    facts = {"independent": 2.87, "law": 2.31, "ngram": 2.08, "share": 0.709, "low": 0.68}
    facts |= {"high": 0.74, "order": 4, "rows": 100, "level": 0.95, "counted": 9, "fitted": 9}
    return Dependence.model_validate(facts | changes)


def test_the_sentence_tells_share_cross_entropies_and_perplexity() -> None:
    known = "2.31 nats per token, independent tokens 2.87, 5-gram 2.08; perplexity 10.1"
    assert fact().sentence == (
        "the law holds 71% (68% to 74%) of the dependence that a 5-gram finds in unseen rows: "
        + known
    )
    assert " that an 8-gram finds " in fact(order=7).sentence
    assert "rows, more than any n-gram finds: 2.31" in fact(share=1.1, low=1.05, high=1.2).sentence
    worse = fact(share=-0.2, low=-0.3, high=-0.1).sentence
    assert worse.startswith("the law predicts unseen rows worse than independent tokens, and holds")
    assert "perplexity 1.01e+304" in fact(law=1e9).sentence


def test_saved_facts_are_read_again_also_those_from_before_there_was_a_share() -> None:
    data = fact().to_json()
    assert data["sentence"] == fact().sentence
    assert Dependence.model_validate(data) == fact()
    assert Dependence.model_validate_json(json.dumps(data)) == fact()
    old = {"rows": 3, "log_likelihood": -1.0, "in_sample": -1.0, "baseline": -2.0}
    held_out = HeldOut.model_validate(old | {"baseline_name": "independent tokens"})
    assert held_out.dependence is None
    whole = Provenance(description="x", held_out=held_out.model_copy(update={"dependence": fact()}))
    assert Provenance.model_validate_json(whole.model_dump_json()) == whole


def test_the_share_changes_nothing_of_the_law() -> None:
    x = sticky(300, 6)
    target = fit_markov_chain(x, 2, vocabulary=4)
    bare = target.with_provenance(held_out=None)
    assert bare.fingerprint == target.fingerprint
    rows = torch.from_numpy(x)
    assert bool((bare.log_prob(rows) == target.log_prob(rows)).all())
