"""Causal language models as targets, against `transformers` itself and brute-force enumeration."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import language_models as reference
import numpy as np
import pytest
import torch
from language_models import Array
from safetensors.torch import load_file, save_file
from scipy import stats

from capcheck import check, decoding_plan, survey
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics.observer import Observer
from capcheck.divergences.sampled import SampledWasserstein
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import CausalLM, from_causal_lm, from_spec
from capcheck.targets.categorical import causal_lm, language_model
from capcheck.targets.categorical.model_folder import ModelFolder

V, FEW, MANY = 5, 3, 6  # 5^3 sequences are listed, and 5^6 are not


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reference.saved(tmp_path / "model", symbols=V)
    return tmp_path / "model"


def model_of(folder: Path, seed: int = 0) -> Any:
    return reference.saved(folder, symbols=V, seed=seed)


def all_sequences(tokens: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(V)] * tokens).reshape(-1, tokens)


def given_window(table: Array, i: int, seen: list[int]) -> Array:
    """The law p(x_i | x_seen) for every sequence of the seen tokens and of x_i, by summation."""
    others = tuple(j for j in range(table.ndim) if j not in (*seen, i))
    pair: Array = table.sum(others, keepdims=True)
    law: Array = pair / pair.sum(i, keepdims=True)
    return law


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_conditionals_and_joint_log_probabilities_are_those_of_the_model(
    kind: str, tmp_path: Path
) -> None:
    prompt = (3, 1)
    model = reference.saved(tmp_path, kind, symbols=V)
    target = from_causal_lm(tmp_path, tokens=MANY, prompt=prompt)
    assert target.left_to_right
    x = target.sample(7, CounterRandomness(0))
    law = target.marginals(x, torch.zeros(x.shape, dtype=torch.float64), causal=True)
    total = np.zeros(7)
    for i in range(MANY):
        direct = reference.next_laws(model, [[*prompt, *row[:i]] for row in x.tolist()])
        assert law.mean()[:, i].numpy() == pytest.approx(direct, abs=1e-7)
        total += np.log(direct[np.arange(7), x[:, i].numpy()])
    tolerance = 1e-12 if kind == "gpt2" else 1e-6  # the norms of Llama compute in float32
    assert target.log_prob(x).numpy() == pytest.approx(total, abs=tolerance)
    for i, one in enumerate(target.one_by_one(x)):
        assert torch.allclose(one.mean()[:, 0], law.mean()[:, i], atol=1e-7)


def test_another_model_has_other_conditionals_and_another_fingerprint(tmp_path: Path) -> None:
    targets = []
    for seed in range(2):
        model_of(tmp_path / str(seed), seed)
        targets.append(from_causal_lm(tmp_path / str(seed), tokens=MANY))
    x = all_sequences(MANY)[:50]
    one, other = targets
    assert not torch.allclose(one.log_prob(x), other.log_prob(x), atol=0.1)
    ways: list[Any] = [{"tokens": 5}, {"tokens": MANY, "prompt": [1]}]
    marks = {from_causal_lm(tmp_path / "0", **how).fingerprint for how in ways}
    assert len({one.fingerprint, other.fingerprint, *marks}) == 4
    assert one.to(device="cpu", dtype=torch.float32).fingerprint == one.fingerprint
    (tmp_path / "0" / "README.md").write_text("not a part of the law")
    assert from_causal_lm(tmp_path / "0", tokens=MANY).fingerprint == one.fingerprint


@pytest.mark.parametrize("tokens", [FEW, 5])
def test_draws_have_the_enumerated_law(tokens: int, folder: Path) -> None:
    table = reference.joint(model_of(folder), tokens=tokens, symbols=V).flatten()
    target = from_causal_lm(folder, tokens=tokens)
    n = 20_000
    x = target.sample(n, CounterRandomness(1)).numpy()
    index = x @ V ** np.arange(tokens)[::-1]
    expected = n * table
    often = expected >= 5
    found = np.bincount(index, minlength=V**tokens)
    counts = [*found[often], found[~often].sum()]
    wanted = [*expected[often], expected[~often].sum()]
    assert stats.chisquare(counts, wanted).pvalue > 1e-3
    tilted = np.roll(wanted[:-1], 1)
    assert stats.chisquare(counts[:-1], tilted * sum(counts[:-1]) / sum(tilted)).pvalue < 1e-9


def test_rows_do_not_depend_on_the_tiles_that_they_are_computed_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = from_causal_lm(folder, tokens=MANY)
    x = target.sample(20, CounterRandomness(2))
    whole = target.log_prob(x)
    monkeypatch.setattr(language_model, "LOGITS", 1)
    monkeypatch.setattr(language_model, "STATES", 1)
    assert torch.equal(target.sample(20, CounterRandomness(2)), x)
    assert torch.allclose(target.log_prob(x), whole, atol=1e-12)
    assert torch.equal(target.sample(5, CounterRandomness(2, first_row=4)), x[4:9])


def test_memory_is_bounded_by_tiles_at_a_large_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference.saved(tmp_path, symbols=20_000)
    most, run = 1 << 21, language_model.LanguageModel._run
    sizes: list[int] = []

    def watched(self: Any, ids: torch.Tensor, **options: Any) -> Any:
        found = run(self, ids, **options)
        sizes.append(found.logits.numel())
        return found

    monkeypatch.setattr(language_model.LanguageModel, "_run", watched)
    monkeypatch.setattr(language_model, "LOGITS", most)
    monkeypatch.setattr(language_model, "STATES", most)
    target = from_causal_lm(tmp_path, tokens=64)
    x = target.sample(60, CounterRandomness(0))
    assert bool(target.log_prob(x).isfinite().all())
    law = target.marginals(x, torch.zeros(x.shape, dtype=torch.float64), causal=True)
    assert law.select([63]).mean().shape == (60, 1, 20_000)
    assert max(sizes) <= most
    assert target.rows_at_once == 13  # 2^24 / (64 * 20,000)


def procedure(family: str, target: CausalLM, **options: Any) -> AnyProcedure:
    return Procedure.of(build_probe(family, options), target)


def log_q(of: AnyProcedure, x: torch.Tensor, **budget: int) -> Array:
    at = Budget(**{"length": x.shape[1], "steps": 1} | budget)
    found: Any = of.log_density(at, x, CounterRandomness(0))
    values: Array = found.values.numpy()
    return values


def test_a_window_has_the_law_of_brute_force_enumeration(folder: Path) -> None:
    w = 2
    table = reference.joint(model_of(folder), tokens=MANY, symbols=V)
    q = np.ones(table.shape)
    for i in range(MANY):
        q = q * given_window(table, i, list(range(max(0, i - w), i)))
    x = all_sequences(MANY)
    some = torch.arange(0, len(x), 31)
    target = from_causal_lm(folder, tokens=MANY)
    found = log_q(procedure("gpt", target, window=w), x[some])
    assert found == pytest.approx(np.log(q.flatten()[some]), abs=1e-9)
    whole = log_q(procedure("gpt", target), x[some])
    assert whole == pytest.approx(target.log_prob(x[some]).numpy(), abs=1e-12)
    assert np.abs(found - whole).max() > 0.1


def test_heads_have_the_law_of_brute_force_enumeration(folder: Path) -> None:
    table = reference.joint(model_of(folder), tokens=MANY, symbols=V)
    q = np.ones(table.shape)
    for i in range(MANY):
        q = q * given_window(table, i, list(range(i - i % 3)))
    x = all_sequences(MANY)
    some = torch.arange(0, len(x), 31)
    target = from_causal_lm(folder, tokens=MANY)
    found = log_q(procedure("multi_token", target, heads=3), x[some])
    assert found == pytest.approx(np.log(q.flatten()[some]), abs=1e-9)
    # At length 3 the other three are completed from their marginals given the first block.
    assert log_q(procedure("multi_token", target, heads=3), x[some], length=3) == pytest.approx(
        found, abs=1e-9
    )
    lossless = log_q(procedure("blockwise", target, block=3), x[some], steps=2)
    assert lossless == pytest.approx(np.log(table.flatten()[some]), abs=1e-9)
    solved = log_q(procedure("parallel_solve", target), x[some], steps=MANY)
    assert solved == pytest.approx(np.log(table.flatten()[some]), abs=1e-9)


def test_the_kl_of_few_sequences_is_exact(folder: Path) -> None:
    table = reference.joint(model_of(folder), tokens=FEW, symbols=V)
    target = from_causal_lm(folder, tokens=FEW)
    assert not target.left_to_right
    q = np.ones(table.shape)
    for i in range(FEW):
        q = q * given_window(table, i, list(range(max(0, i - 1), i)))
    expected = float((table * np.log(table / q)).sum())
    short: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [FEW]}
    found = check("gpt", target, options={"window": 1}, **short).found.cells[0].estimates["kl"]
    assert found.kind == "exact"
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert expected > 0.01
    whole = check("gpt", target, **short).found.cells[0].estimates["kl"]
    assert (whole.kind, whole.value) == ("exact", 0.0)
    assert target.spec.mean.numpy() == pytest.approx(
        np.stack([table.sum((1, 2)), table.sum((0, 2)), table.sum((0, 1))]), abs=1e-12
    )


def test_the_kl_of_the_whole_past_is_exactly_zero_where_sequences_are_not_listed(
    folder: Path,
) -> None:
    result = check("gpt", from_causal_lm(folder, tokens=MANY), samples=200, steps=[1])
    (cell,) = result.found.cells  # lengths below N skip tokens, and are not tried by default
    assert (cell.budget.length, cell.estimates["kl"].kind) == (MANY, "exact")
    assert cell.estimates["kl"].value == 0.0


def test_a_survey_says_which_families_need_other_conditionals(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_lm, "SUMMED", 1)
    target = from_causal_lm(folder, tokens=MANY)
    result = survey(target, ["gpt", "maskgit", "multi_token"], samples=200, steps=[1])
    said = {one.plan.family: one for one in result.families}
    assert said["gpt"].outcome.value == "representable"
    for family in ("maskgit", "multi_token"):
        assert causal_lm.ONLY in said[family].reason
        assert not said[family].cells


@pytest.mark.parametrize(
    ("family", "options", "budgets", "words"),
    [
        ("maskgit", {}, {}, "left-to-right conditionals only"),
        ("block_diffusion", {}, {}, "or measure the model itself as the network"),
        ("gpt", {"window": 1}, {}, "skips 2 earlier tokens is a sum over their 5^2 values"),
        ("multi_token", {"heads": 4}, {}, "more than the 5 allowed"),
        ("blockwise", {"block": 4}, {}, "heads=1 or block=1, all at length N"),
        ("gpt", {}, {"lengths": [2, MANY]}, "skips 2 earlier tokens"),
    ],
)
def test_other_conditionals_are_refused_before_anything_is_measured(
    family: str, options: Any, budgets: Any, words: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(causal_lm, "SUMMED", 5)
    target = from_causal_lm(folder, tokens=MANY)
    out = tmp_path / "run"
    with pytest.raises(UnfitError) as caught:
        check(family, target, options=options, samples=200, steps=[1], out=out, **budgets)
    assert words in str(caught.value)
    assert str(caught.value).count(". ") == 0
    cells = out / "cells.jsonl"
    assert not cells.exists() or '"estimates"' not in cells.read_text()


def test_rows_may_know_different_tokens(folder: Path) -> None:
    target = from_causal_lm(folder, tokens=MANY)
    table = reference.joint(model_of(folder), tokens=MANY, symbols=V)
    x = target.sample(4, CounterRandomness(3))
    known: list[list[int]] = [[], [0, 1], [1], [0, 2]]
    levels = torch.ones(4, MANY, dtype=torch.float64)
    for row, seen in enumerate(known):
        levels[row, seen] = 0
    law = target.marginals(x, levels).select([3])
    for row, seen in enumerate(known):
        place: list[Any] = [int(x[row, j]) if j in seen else 0 for j in range(MANY)]
        place[3] = slice(None)
        expected = given_window(table, 3, seen)[tuple(place)]
        assert law.mean()[row, 0].numpy() == pytest.approx(expected, abs=1e-12)
    certain = target.marginals(x[1:2], levels[1:2]).select([1]).mean()[0, 0]
    assert certain.tolist() == [float(v == x[1, 1]) for v in range(V)]
    levels[2, 5] = 0
    with pytest.raises(UnfitError, match="given later ones was asked for; take gpt, multi_token"):
        target.marginals(x, levels).select([3]).mean()


@pytest.mark.parametrize("tokens", [FEW, MANY])
def test_estimated_marginal_laws_certify_nothing(tokens: int, folder: Path) -> None:
    target = from_causal_lm(folder, tokens=tokens)
    draws, fresh = (target.sample(400, CounterRandomness(seed)) for seed in (0, 1))
    labels = [term.label for term in SampledWasserstein(target, draws).of(fresh).below]
    assert ("marginals" in labels) == (target.spec.estimated_from is None)
    observer = Observer(target, draws)
    assert observer.compare(fresh).tokens == ()
    shifted = (fresh + (torch.arange(tokens) == 1)) % V
    assert [error.token for error in observer.compare(shifted).tokens] == [1]


def test_a_decoding_plan_needs_other_conditionals(folder: Path) -> None:
    with pytest.raises(UnfitError, match="left-to-right conditionals only"):
        decoding_plan(from_causal_lm(folder, tokens=8), samples=16)


def test_tokens_behind_a_given_prefix_are_measured(folder: Path) -> None:
    target = from_causal_lm(folder, tokens=MANY)
    result = check("gpt", target, samples=200, steps=[1], given=[0, 1])
    assert result.found.cells[0].estimates["kl"].value == 0.0


def test_float32_agrees_with_float64(folder: Path) -> None:
    target = from_causal_lm(folder, tokens=MANY)
    single = target.to(device="cpu", dtype=torch.float32)
    x = target.sample(20, CounterRandomness(0))
    assert (single.dtype, single.log_prob(x).dtype) == (torch.float32, torch.float32)
    assert torch.allclose(single.log_prob(x).double(), target.log_prob(x), atol=1e-4)
    assert torch.equal(single.spec.mean, target.spec.mean.float())


def test_a_pickled_target_is_read_again_from_its_folder(folder: Path) -> None:
    target = from_causal_lm(folder, tokens=MANY)
    packed = cloudpickle.dumps(target)
    assert len(packed) < 20_000
    x = target.sample(5, CounterRandomness(0))
    again: CausalLM = pickle.loads(packed)
    assert torch.equal(again.log_prob(x), target.log_prob(x))
    model_of(folder, seed=1)
    with pytest.raises(InputError, match="must not change during a run, and its content has"):
        pickle.loads(packed)


def test_a_spec_names_a_folder(folder: Path) -> None:
    target = from_spec(f"causal-lm:folder={folder},tokens=3,prompt=1 2")
    assert target.fingerprint == from_causal_lm(folder, tokens=3, prompt=[1, 2]).fingerprint
    assert target.recipe == {"spec": f"causal-lm:folder={folder},tokens=3,prompt=1 2"}
    assert from_spec(f"causal-lm:{folder}").spec.tokens == 8


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("causal-lm", "causal-lm.folder must be given"),
        ("causal-lm:folder=nowhere", "'nowhere' must hold a config.json, got none"),
        ("causal-lm:folder=nowhere,prompt=the", "must list token ids .*, got 'the'"),
        ("causal-lm:folder=nowhere,tokens=0", "causal-lm.tokens: .* equal to 1, got '0'"),
    ],
)
def test_bad_specs_are_refused(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_spec(spec)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tokens": 81}, "tokens must be at most 80, as model reads 80 tokens"),
        ({"tokens": 80, "prompt": [1, 2]}, "tokens must be at most 79"),
        ({"tokens": 0}, "tokens must be a whole number of at least 1"),
        ({"tokens": 3, "prompt": [5]}, "prompt must hold token ids from 0 to 4, got 5"),
        ({"tokens": 3, "dtype": torch.bfloat16}, "float32 or float64, got torch.bfloat16"),
    ],
)
def test_impossible_arguments_are_refused(arguments: Any, words: str, folder: Path) -> None:
    with pytest.raises(InputError, match=words):
        from_causal_lm(folder, **arguments)


def test_a_model_without_an_id_to_begin_with_needs_a_prompt(folder: Path) -> None:
    reference.saved(folder, symbols=V, bos_token_id=None)
    with pytest.raises(InputError, match="prompt must hold an id, as the config"):
        from_causal_lm(folder, tokens=3)
    assert from_causal_lm(folder, tokens=3, prompt=[2]).spec.tokens == 3


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    reference.saved(tmp_path, "bert", symbols=V)
    with pytest.raises(InputError, match="must hold a causal model, and what it says"):
        from_causal_lm(tmp_path, tokens=3)


def test_weights_that_are_missing_or_no_numbers_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    rest = {key: value for key, value in weights.items() if key != name}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"all weights .* lacks 1 of them, such as trans"):
        from_causal_lm(folder, tokens=3)
    broken = weights | {name: weights[name] * torch.nan}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="must give 5 finite logits"):
        from_causal_lm(folder, tokens=3)


def written(folder: Path, config: Any, *names: str) -> Path:
    """A folder with a config and files of weights that hold nothing."""
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


class Bomb:
    """Its unpickling leaves a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.mark).touch, ()


def test_hostile_folders_are_refused_and_nothing_of_theirs_runs(tmp_path: Path) -> None:
    mark, place, config = tmp_path / "mark", tmp_path / "model", {"vocab_size": V}
    place.mkdir()
    with pytest.raises(InputError, match=r"must hold a config\.json, got none"):
        ModelFolder.open(place)
    written(place, "[1", "model.safetensors")
    with pytest.raises(InputError, match="with one JSON object, got another"):
        ModelFolder.open(place)
    written(place, {**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    (place / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(InputError, match="asks for code of its own, which is never run"):
        ModelFolder.open(place)
    written(place, {**config, "quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(InputError, match="holds quantised weights"):
        ModelFolder.open(place)
    (place / "model.safetensors").unlink()
    written(place, config)
    with pytest.raises(InputError, match="weights as safetensors, got none"):
        ModelFolder.open(place)
    (place / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(str(mark))))
    with pytest.raises(InputError, match=r"got pytorch_model\.bin only, which is a pickle"):
        ModelFolder.open(place)
    (tmp_path / "other.safetensors").write_bytes(b"")
    index = place / "model.safetensors.index.json"
    for named in ("../other.safetensors", "pytorch_model.bin", "absent.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": named}}))
        with pytest.raises(InputError, match="names files which it does not hold"):
            ModelFolder.open(place)
    (place / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds an adapter of another model"):
        ModelFolder.open(place)
    assert not mark.exists()


@pytest.mark.parametrize("config", [{"model_type": "unheard_of"}, {}, {"model_type": "gpt2"}])
def test_a_folder_that_transformers_cannot_load_is_refused(config: Any, tmp_path: Path) -> None:
    reference.library()
    own = {"vocab_size": V, "bos_token_id": 0, **config}
    with pytest.raises(InputError, match="transformers can load, and loading it raised") as caught:
        from_causal_lm(written(tmp_path, own, "model.safetensors"), tokens=3)
    assert "\n" not in str(caught.value)


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    own = {"vocab_size": V, "bos_token_id": 0, "model_type": "gpt2"}
    with pytest.raises(InputError, match=r"pip install 'capcheck\[transformers\]'"):
        from_causal_lm(written(tmp_path, own, "model.safetensors"), tokens=3)
