"""Decoding strategies of transformers against closed forms, and planted mistakes in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.imports import transformers_library
from capcheck.core.randomness import CounterRandomness, Randomness, torch_generators
from capcheck.networks.signatures import PrefixPredictorSignature
from capcheck.procedures.procedure import Procedure
from capcheck.samplers.battery import TOKEN_TARGETS, cells_of
from capcheck.samplers.drawing import others_code
from capcheck.samplers.every_draw import every_outcome
from capcheck.samplers.from_transformers import STRATEGIES, Generation
from capcheck.samplers.generation_probe import generation_probe, table_of
from capcheck.samplers.lint_generation import law_findings, look_at_generation
from capcheck.targets import from_table
from capcheck.targets.categorical.sequence_law import numbers, sequences

try:
    transformers = transformers_library("tests")
except InputError as missing:
    pytest.skip(str(missing), allow_module_level=True)

import tokenizers
from transformers.cache_utils import DynamicLayer
from transformers.generation import candidate_generator, utils


def memory(V: int, N: int) -> Tensor:
    """Laws p(x_i | x_<i) that depend on every token before, (V^N, N, V)."""
    generator = torch.Generator().manual_seed(0)
    table = torch.empty(V**N, N, V, dtype=torch.float64)
    for i in range(N):
        logits = torch.randn(V**i, V, generator=generator, dtype=torch.float64)
        table[:, i] = logits.softmax(-1).repeat_interleave(V ** (N - i), 0)
    return table


def chained(table: Tensor, change: Callable[[Tensor], Tensor] = lambda p: p) -> Tensor:
    """Probability of every sequence, after a change of every law of a token."""
    _, N, V = table.shape
    x = torch.cat(list(sequences(V, N)))
    p = torch.ones(len(x), dtype=torch.float64)
    for i in range(N):
        p = p * change(table[:, i])[torch.arange(len(x)), x[:, i]]
    return p


def sharpened(p: Tensor) -> Tensor:
    return p**2 / (p**2).sum(-1, keepdim=True)


def cut(p: Tensor) -> Tensor:
    """The two likeliest values only."""
    left = torch.where(p >= p.sort(-1).values[:, -2:-1], p, 0)
    return left / left.sum(-1, keepdim=True)


def _named(value: Any) -> str:
    """The name of a case, which is the same in every process."""
    return value.__name__ if callable(value) else str(value)


def distance(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


SMALL = memory(2, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_strategy_is_lossless(strategy: str, steps: int) -> None:
    config = {"assistant_confidence_threshold": 0} if strategy == "assisted" else {}
    assert distance(Generation(strategy, config).law(SMALL, steps), chained(SMALL)) < 1e-6


@pytest.mark.parametrize(
    "config",
    [
        {"assistant_confidence_threshold": 0.6},
        {"num_assistant_tokens_schedule": "heuristic"},
        {"draft": "uniform"},
        {"draft": "target"},
        {"cache_implementation": "static"},
    ],
    ids=_named,
)
def test_settings_of_the_drafts_leave_the_law_as_it_is(config: dict[str, Any]) -> None:
    assert distance(Generation("assisted", config).law(SMALL, 2), chained(SMALL)) < 1e-6


@pytest.mark.parametrize(
    ("config", "change"),
    [({"temperature": 0.5}, sharpened), ({"top_k": 2}, cut), ({"suppress_tokens": [2]}, None)],
    ids=_named,
)
@pytest.mark.parametrize("strategy", ["sample", "assisted", "prompt_lookup"])
def test_settings_of_the_law_do_what_their_formula_says(
    strategy: str, config: dict[str, Any], change: Callable[[Tensor], Tensor] | None
) -> None:
    table = memory(3, 2)

    def without_last(p: Tensor) -> Tensor:
        left = torch.cat([p[:, :2], torch.zeros_like(p[:, :1])], 1)
        return left / left.sum(-1, keepdim=True)

    expected = chained(table, change or without_last)
    assert distance(Generation(strategy, config).law(table, 2), expected) < 1e-6
    assert distance(expected, chained(table)) > 0.05


def test_coarse_logits_cost_their_rounding_and_nothing_else() -> None:
    table = memory(3, 2)

    def rounded(p: Tensor) -> Tensor:
        return p.log().bfloat16().double().softmax(-1)

    law = Generation("assisted", {"dtype": "bfloat16"}).law(table, 2)
    assert distance(law, chained(table, rounded)) < 1e-6
    assert distance(law, chained(table)) > 1e-4


def test_an_ensemble_mixes_the_laws_of_drafted_tokens_as_it_says() -> None:
    """Of two tokens one is drafted: its law is the mean of both, and the other is the target's."""
    table, weight = memory(2, 2), 0.5
    p, q = table[:, 0], (table[:, 0] + 0.5) / 2
    mixed = table.clone()
    mixed[:, 0] = weight * p + (1 - weight) * q
    law = Generation("assisted", {"assistant_ensemble_weight": weight}).law(table, 4)
    assert distance(law, chained(mixed)) < 1e-6


def drafts_are_certain(ids: Tensor, q: Tensor, length: int, p: Tensor, **_: Any) -> Any:
    """The rule with the drafts' own probability replaced by 1."""
    new = ids[:, -length:]
    p_i = p.softmax(-1)[0, torch.arange(length), new[0]]
    matches = int(((torch.rand_like(p_i) > p_i).cumsum(0) < 1).sum())
    law = p[:, matches].softmax(-1)
    if matches < length:
        left = (law - q[:, matches].softmax(-1)).clamp(min=0)
        law = left / left.sum()
    last = torch.multinomial(law, num_samples=1)
    return torch.cat([new[:, :matches], last], 1), torch.tensor(matches)


def keeps_every_draft(ids: Tensor, q: Tensor, length: int, p: Tensor, **_: Any) -> Any:
    last = torch.multinomial(p[:, length].softmax(-1), num_samples=1)
    return torch.cat([ids[:, -length:], last], 1), torch.tensor(length)


@pytest.mark.parametrize("rule", [drafts_are_certain, keeps_every_draft])
def test_planted_rules_are_caught(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = from_table(torch.tensor([[0.5, 0.1], [0.1, 0.3]], dtype=torch.float64))
    assert law_findings(Generation("assisted", {}), "pair", target, [1]) == []
    monkeypatch.setattr(utils, "_speculative_sampling", rule)
    (found,) = law_findings(Generation("assisted", {}), "pair", target, [1])
    assert "the drafts are not lossless" in found.sentence
    assert found.evidence["total_variation"][0] > 0.02


def test_greedy_drafts_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where drafts are the likeliest tokens, but the rule is told that they were drawn."""
    made = candidate_generator.AssistedCandidateGenerator._prepare_generation_args

    def greedy(self: Any, *args: Any) -> Any:
        self.generation_config.do_sample = False
        return made(self, *args)

    monkeypatch.setattr(
        candidate_generator.AssistedCandidateGenerator, "_prepare_generation_args", greedy
    )
    assert distance(Generation("assisted", {}).law(SMALL, 2), chained(SMALL)) > 0.02


def test_a_cache_that_keeps_refused_drafts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has the right length, but has lost its oldest ids instead of the refused ones."""

    def oldest(self: Any, tokens_to_remove: int) -> None:
        if tokens_to_remove < 0:
            self.keys = self.keys[..., -tokens_to_remove:, :]
            self.values = self.values[..., -tokens_to_remove:, :]

    table, config = memory(2, 4), {"assistant_confidence_threshold": 0}
    assert distance(Generation("assisted", config).law(table, 1), chained(table)) < 1e-6
    monkeypatch.setattr(DynamicLayer, "crop", oldest)
    assert distance(Generation("assisted", config).law(table, 1), chained(table)) > 0.01


def test_guidance_with_drafts_is_not_that_without() -> None:
    """A known defect of the library, whose guidance reads tokens of refused drafts.

    Without a negative prompt the unconditional model reads what the model itself reads, so that
    guidance changes nothing: s (l - l) + l = l.
    """
    config = {"guidance_scale": 2.0}
    assert distance(Generation("sample", config).law(SMALL, 2), chained(SMALL)) < 1e-6
    assert distance(Generation("assisted", config).law(SMALL, 2), chained(SMALL)) > 0.01


def test_a_temperature_is_applied_twice_to_the_drafts() -> None:
    """A known flaw of the library: the law stays, but a perfect draft model is refused.

    Of two tokens one is drafted. With T = 2 the target is p^(1/2) and the draft p^(1/4), so that
    the draft is kept with probability 1 - TV, and not always.
    """
    table, config = memory(3, 2), {"draft": "target", "temperature": 2.0}
    generation = Generation("assisted", config)
    kept = sum(each.probability for each in generation.outcomes(table, 1) if each.placed == (2,))
    once, twice = (table[0, 0] ** power for power in (1 / 2, 1 / 4))
    assert kept == pytest.approx(1 - distance(once / once.sum(), twice / twice.sum()), abs=1e-6)
    assert kept < 0.95
    kept = sum(
        each.probability
        for each in Generation("assisted", {"draft": "target"}).outcomes(table, 1)
        if each.placed == (2,)
    )
    assert kept == pytest.approx(1)


def test_gemma_4_assistants_draft_greedily_and_are_judged_as_if_they_drew() -> None:
    """A known defect of the library: its rule divides by q(x), but x is the likeliest token."""
    one = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    one |= {"num_key_value_heads": 1, "global_head_dim": 8, "num_hidden_layers": 2, "vocab_size": 3}
    one |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "sliding_window": 8}
    more = {"layer_types": ["sliding_attention", "full_attention"], "initializer_range": 0.25}
    more |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

    def text(shared: int) -> Any:
        return transformers.Gemma4TextConfig(**one, **more, num_kv_shared_layers=shared)

    with torch_generators():
        torch.manual_seed(0)
        model = transformers.Gemma4ForCausalLM(text(0)).eval()
        config = transformers.Gemma4AssistantConfig(text_config=text(2), backbone_hidden_size=16)
        draft = transformers.Gemma4AssistantForCausalLM(config).eval()
    draft.generation_config.num_assistant_tokens = 2
    law, expected = of_generate(model, 3)
    assert distance(law(), expected) < 1e-5
    assert distance(law(assistant_model=draft), expected) > 0.02


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_drafts_of_another_vocabulary_depend_on_the_order_of_its_dictionary(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known defect of the library: columns of q are in another order than the drafts' ids.

    The order is that of the draft tokenizer's `get_vocab`, which is arbitrary in fast tokenizers.
    """
    ours, theirs = words("abc"), words("cabx")
    rising = {word: i for i, word in enumerate("cabx")}
    known = rising if order == "rising" else dict(reversed(rising.items()))
    monkeypatch.setattr(theirs, "get_vocab", lambda: known)
    model, draft = llama(0, 3), llama(1, 4)
    law, expected = of_generate(model, 2)
    found = law(assistant_model=draft, tokenizer=ours, assistant_tokenizer=theirs)
    assert (distance(found, expected) < 1e-5) == (order == "rising")
    assert distance(found, expected) < 1e-5 or distance(found, expected) > 0.02


def words(letters: str) -> Any:
    """A tokenizer of single letters between spaces."""
    model = tokenizers.models.WordLevel(
        {w: i for i, w in enumerate(letters)}, unk_token=letters[-1]
    )
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def llama(seed: int, V: int) -> Any:
    """A small model with random weights, which may draft one token."""
    one: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    one |= {
        "vocab_size": V,
        "num_hidden_layers": 1,
        "initializer_range": 0.4,
        "tie_word_embeddings": False,
    }
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    with torch_generators():
        torch.manual_seed(seed)
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**one, **none)).eval()
    made.generation_config.num_assistant_tokens = 1
    return made


def of_generate(model: Any, N: int) -> tuple[Callable[..., Tensor], Tensor]:
    """The law of N tokens of 3 values that `generate` draws, by its arguments, and the model's."""
    start, x = torch.tensor([[1]]), torch.cat(list(sequences(3, N)))
    with torch.no_grad():
        p = model(torch.cat([start.expand(len(x), 1), x], 1)).logits[:, :N].double().softmax(-1)

    def law(**further: Any) -> Tensor:
        def run(rng: Randomness) -> int:
            with others_code(rng, 1):
                made = model.generate(start, do_sample=True, max_new_tokens=N, **further)
            return int(numbers(made[:, 1:], 3))

        found = torch.zeros(len(x), dtype=torch.float64)
        for probability, index in every_outcome(run):
            found[index] += probability
        return found

    return law, p.gather(2, x[..., None])[..., 0].prod(1)


def test_cells_are_exact_and_count_the_calls_of_the_target() -> None:
    generation = Generation("assisted", {"draft": "target"})
    (cell,) = cells_of(generation_probe(generation), "parity", [4], samples=400, seed=0)
    assert (cell.outcome, cell.exact) == ("representable", True)
    assert cell.calls == 1  # three certain drafts, and the bonus token
    (cell,) = cells_of(
        generation_probe(Generation("sample", {})), "parity", [4], samples=400, seed=0
    )
    assert cell.calls == 4


def test_rows_are_outcomes_with_their_probabilities() -> None:
    target = TOKEN_TARGETS["sticky"]()
    procedure = Procedure.of(generation_probe(Generation("prompt_lookup", {})), target)
    budget = Budget(length=0, steps=2)
    x = procedure.sample(budget, 4000, CounterRandomness(0))
    again = procedure.sample(budget, 100, CounterRandomness(0))
    assert torch.equal(x[:100], again)
    first = x.double().mean(0)[0]
    assert abs(float(first) - 0.3) < 0.03  # 4 standard errors of 0.0072


def test_the_look_sees_what_the_defaults_cut_off() -> None:
    seen, found = look_at_generation(Generation("sample", {}), 1)
    assert (seen.error, seen.bias) == (None, 0.0)
    assert found[0].sentence.startswith("of 64 tokens of similar probability 14 are never drawn")
    assert look_at_generation(Generation("sample", {"top_k": 0}), 1)[1] == []


def test_settings_that_change_the_law_are_told_apart_from_drafts_that_do() -> None:
    target = TOKEN_TARGETS["independent"]()
    (found,) = law_findings(
        Generation("assisted", {"temperature": 0.5}), "independent", target, [1]
    )
    assert "the settings change it, and the drafts change nothing further" in found.sentence
    table = table_of(PrefixPredictorSignature().oracle(target), 3, 3)
    expected = distance(chained(table, sharpened), chained(table))
    assert found.evidence["total_variation"][0] == pytest.approx(expected, abs=1e-6)


def test_what_generate_raises_is_a_result() -> None:
    seen, _ = look_at_generation(Generation("assisted", {"use_cache": False}), 1)
    assert seen.error is not None
    assert "requires a cache" in seen.error


@pytest.mark.parametrize(
    ("strategy", "config", "sentence"),
    [
        ("contrastive", {}, "no strategy 'contrastive' here"),
        ("sample", {"temprature": 2.0}, "no setting 'temprature'; did you mean 'temperature'"),
        ("sample", {"max_new_tokens": 3}, "max_new_tokens is set by the check itself"),
        ("assisted", {"draft": "good"}, "draft must be one of mixed, target, uniform"),
        ("assisted", {"dtype": "float8"}, "dtype must be one of float32"),
    ],
)
def test_impossible_settings_are_refused(
    strategy: str, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        Generation(strategy, config)


def test_outcomes_have_the_probabilities_of_their_draws() -> None:
    def run(rng: Randomness) -> tuple[int, bool]:
        first = int(rng.categorical(torch.tensor([0.2, 0.0, 0.8]), (1, 1)))
        return first, bool(rng.uniform((1,)) <= torch.tensor([0.25 if first else 1.0]))

    found = {result: probability for probability, result in every_outcome(run)}
    assert found == pytest.approx({(0, True): 0.2, (2, True): 0.2, (2, False): 0.6})


@pytest.mark.parametrize(
    "run",
    [
        lambda rng: rng.normal((1,)),
        lambda rng: rng.uniform((1,)).log(),
        lambda rng: [u := rng.uniform((1,)), u < 0.5, u < 0.2],
        lambda rng: [rng.categorical(torch.ones(2000), (1, 1)) for _ in range(2)],
    ],
)
def test_draws_that_cannot_be_enumerated_are_refused(run: Callable[[Randomness], object]) -> None:
    with pytest.raises(UnfitError):
        list(every_outcome(run))


def test_the_model_is_one_of_the_library() -> None:
    from capcheck.samplers.transformers_models import language_model

    assert isinstance(language_model(SMALL, torch.float32), transformers.GenerationMixin)
