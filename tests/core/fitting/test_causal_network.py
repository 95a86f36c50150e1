"""A language model in the oracle's place, against laws computed from it directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import language_models as reference
import numpy as np
import pytest
import torch
from language_models import Array

from capcheck import check
from capcheck.core.errors import InputError
from capcheck.fitting.causal_lm import CausalNetwork
from capcheck.fitting.named import is_architecture, require_named
from capcheck.targets import MarkovChain, from_causal_lm, from_spec
from capcheck.targets.categorical.language_model import LanguageModel
from capcheck.targets.categorical.model_folder import ModelFolder

V, N = 4, 4
ONCE: dict[str, Any] = {"samples": 200, "lengths": [N], "objective": "none"}


@pytest.fixture
def chain() -> MarkovChain:
    rng = np.random.default_rng(0)
    tables = [rng.dirichlet(np.ones(V)), rng.dirichlet(np.ones(V), size=V)]
    return MarkovChain([torch.tensor(table) for table in tables], tokens=N)


def first_symbols(model: Any, contexts: list[list[int]]) -> Array:
    """The laws of the next token among the first V symbols."""
    laws = reference.next_laws(model, contexts)[:, :V]
    kept: Array = laws / laws.sum(1, keepdims=True)
    return kept


def sampled_law(model: Any, *, window: int) -> Array:
    """The law of gpt with a model that is shown the prompt 4 and the last tokens, (V^N,)."""
    x = torch.cartesian_prod(*[torch.arange(V)] * N).tolist()
    q = np.ones(len(x))
    for i in range(N):
        laws = first_symbols(model, [[4, *row[max(0, i - window) : i]] for row in x])
        q = q * laws[np.arange(len(x)), [row[i] for row in x]]
    return q


@pytest.mark.parametrize("window", [1, N])
def test_the_kl_of_a_model_from_a_chain_is_that_of_enumeration(
    window: int, chain: MarkovChain, tmp_path: Path
) -> None:
    model = reference.saved(tmp_path, symbols=V + 1, bos_token_id=V)
    name = f"causal-lm:folder={tmp_path}"
    found = check("gpt", chain, network=name, options={"window": window}, steps=[1], **ONCE)
    x = torch.cartesian_prod(*[torch.arange(V)] * N)
    log_p = chain.log_prob(x).numpy()
    q = sampled_law(model, window=window)
    expected = float((np.exp(log_p) * (log_p - np.log(q))).sum())
    kl = found.found.cells[0].estimates["kl"]
    assert kl.kind == "exact"
    assert kl.value == pytest.approx(expected, abs=1e-9)
    assert expected > 0.1
    assert found.found.plan.network.name == name


def test_a_model_is_its_own_law(tmp_path: Path) -> None:
    reference.saved(tmp_path, symbols=40)
    target, name = from_causal_lm(tmp_path, tokens=N), f"causal-lm:folder={tmp_path}"
    for family in ("gpt", "parallel_solve"):
        result = check(family, target, network=name, steps=[N], **ONCE)
        assert result.found.cells[0].estimates["kl"].value == 0.0
    # The oracle of a window skips 40^2 tokens or more, and the model is measured all the same.
    cut = check("gpt", target, network=name, options={"window": 0}, steps=[1], **ONCE)
    oracle, given = cut.survey.families
    assert "skips 3 earlier tokens" in oracle.reason
    kl = given.cells[0].estimates["kl"]
    assert kl.value is not None
    assert kl.low is not None
    assert kl.low > 0.05


def test_answers_depend_on_the_known_tokens_before_each_token_only(tmp_path: Path) -> None:
    model = reference.saved(tmp_path, symbols=V + 1)
    network = CausalNetwork(LanguageModel(ModelFolder.open(tmp_path), prompt=[2, 3]), V)
    tokens = torch.tensor([[3, 1, 2, 0], [1, 1, 0, 3]])
    known = torch.tensor([[True, False, True, False], [False, True, True, True]])
    p = network(tokens, known).mean()
    assert p.shape == (2, N, V)
    contexts = [[[], [3], [3], [3, 2]], [[], [], [1], [1, 0]]]
    for row, shown in enumerate(contexts):
        for i, before in enumerate(shown):
            direct = first_symbols(model, [[2, 3, *before]])[0]
            assert p[row, i].numpy() == pytest.approx(direct, abs=1e-12)


def test_names_of_models_are_kept_as_they_are(tmp_path: Path) -> None:
    reference.saved(tmp_path, symbols=V)
    name = f"causal-lm:folder={tmp_path},prompt=1 2"
    assert require_named(name) == name
    assert not is_architecture(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("causal-lm:", "network causal-lm has no ''"),
        ("causal-lm:prompt=1", "network causal-lm needs a folder, got 'causal-lm:prompt=1'"),
        ("causal-lm:foldr=x", "did you mean 'folder'"),
        ("causal-lm:folder=x,folder=y", "is given folder twice"),
        ("causal-lm:folder=nowhere", "'nowhere' must hold a config.json, got none"),
    ],
)
def test_names_that_name_no_model_are_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_named(name)


@pytest.mark.parametrize(
    ("family", "spec", "symbols", "objective", "words"),
    [
        ("ebm", "copy:tokens=4,symbols=4", V, "none", "its network is Energy; take gpt, blockwise"),
        ("gpt", "gaussian:tokens=4", V, "none", "needs categorical tokens, got continuous ones"),
        (
            "gpt",
            "copy:tokens=4,symbols=4",
            3,
            "none",
            "the 4 symbols of the target, got 3",
        ),
        ("gpt", "copy:tokens=81,symbols=2", V, "none", "tokens must be at most 80"),
        ("gpt", "copy:tokens=4,symbols=4", V, "oracle", "measure it as it is, with objective none"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    family: str, spec: str, symbols: int, objective: Any, words: str, tmp_path: Path
) -> None:
    reference.saved(tmp_path, symbols=symbols)
    name, target = f"causal-lm:folder={tmp_path}", from_spec(spec)
    with pytest.raises(InputError, match=words):
        check(family, target, network=name, objective=objective, samples=200, steps=[1])
