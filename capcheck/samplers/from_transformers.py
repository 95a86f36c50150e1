"""Decoding strategies of `transformers` (extra `transformers`), with exact laws as their models.

`generate(do_sample=True)` runs unchanged on a model whose logits are log p(x_i | x_<i) of a target.
It is run once for every outcome of its draws, so that the law of its tokens is exact. A strategy is
lossless if this law is the target's, and its settings change the law if sampling without drafts
under the same settings has another one.

Source: Leviathan, Kalman & Matias 2023, "Fast Inference from Transformers via Speculative
Decoding", https://arxiv.org/abs/2211.17192
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError, near
from capcheck.core.randomness import Randomness
from capcheck.samplers.drawing import others_code
from capcheck.samplers.every_draw import every_outcome
from capcheck.samplers.transformers_models import draft_table, language_model, library
from capcheck.targets.categorical.sequence_law import numbers

__all__ = ["DRAFTS", "STRATEGIES", "Generation", "Outcome"]

STRATEGIES: dict[str, Callable[[int], dict[str, Any]]] = {
    "sample": lambda steps: {},
    "assisted": lambda steps: {},
    "prompt_lookup": lambda steps: {"prompt_lookup_num_tokens": steps},
    "early_exit": lambda steps: {"assistant_early_exit": 1},
}
"""What `generate` is told by strategy, for a number of drafted tokens."""

DRAFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mixed": draft_table,
    "target": lambda table: table,
    "uniform": lambda table: torch.full_like(table, 1 / table.shape[-1]),
}
"""Laws of the draft model by name: half uniform, the target's own, and uniform."""

OF_DRAFT = ("assistant_confidence_threshold", "num_assistant_tokens_schedule")
"""Settings that `generate` reads from the draft model's own configuration."""

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OURS = (
    "assistant_early_exit", "bos_token_id", "do_sample", "eos_token_id", "max_length",
    "max_new_tokens", "num_assistant_tokens", "num_return_sequences", "pad_token_id",
    "prompt_lookup_num_tokens", "return_dict_in_generate",
)  # fmt: skip
"""Settings that the check itself sets."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One outcome of all draws of `generate`.

    Attributes:
        probability: Its probability.
        tokens: Token ids, one for each of the N tokens.
        placed: Number of tokens after each call of the target model.
    """

    probability: float
    tokens: tuple[int, ...]
    placed: tuple[int, ...]


class Generation:
    """A decoding strategy with its settings.

    Args:
        strategy: One of `STRATEGIES`.
        config: Settings of `GenerationConfig`, the law `draft` of the draft model, one of `DRAFTS`,
            and the type `dtype` of the logits, float32, bfloat16 or float16.

    Attributes:
        name: Name of the strategy, with that of the library.
        config: The settings, as they were given.
        versions: Version of the library.

    Raises:
        InputError: The library, the strategy or a setting is not there.
    """

    def __init__(self, strategy: str, config: dict[str, Any]) -> None:
        if strategy not in STRATEGIES:
            raise InputError(
                f"transformers has no strategy {strategy!r} here; choose one of "
                f"{', '.join(STRATEGIES)}."
            )
        self.strategy, self.config, self.name = strategy, config, f"transformers:{strategy}"
        self._library, further = library(), dict(config)
        draft, dtype = further.pop("draft", "mixed"), further.pop("dtype", "float32")
        for field, value, choices in (
            ("draft", draft, list(DRAFTS)),
            ("dtype", dtype, list(TYPES)),
        ):
            if value not in choices:
                raise InputError(f"{field} must be one of {', '.join(choices)}, got {value!r}.")
        self._draft, self._dtype = DRAFTS[draft], TYPES[dtype]
        known = set(self._library.GenerationConfig().to_dict()) - {"transformers_version"}
        for name in further:
            if name in OURS:
                raise InputError(f"{name} is set by the check itself; remove it from the config.")
            if name not in known:
                raise InputError(f"GenerationConfig has no setting {name!r}; {near(name, known)}")
        self._of_draft = {key: further.pop(key) for key in OF_DRAFT if key in further}
        try:
            self._library.GenerationConfig(do_sample=True, **further)
        except Exception as error:  # its constructor may raise anything
            raise InputError(f"{self.name} cannot be run with these settings: {error}") from error
        self._settings = further
        self._found = dict[tuple[int, bytes], list[Outcome]]()
        self.versions = {"transformers": importlib.metadata.version("transformers")}

    def outcomes(self, table: Tensor, steps: int) -> list[Outcome]:
        """Every outcome of `generate`, whose model has the laws of a table.

        Args:
            table: p(x_i | x_<i) of every sequence, (V^N, N, V).
            steps: Number of tokens that are drafted at once.

        Raises:
            UnfitError: The draws cannot be enumerated.
            Exception: Whatever `generate` raises.
        """
        key = steps, table.numpy().tobytes()
        if key not in self._found:
            self._found[key] = self._outcomes(table, steps)
        return self._found[key]

    def _outcomes(self, table: Tensor, steps: int) -> list[Outcome]:
        draft = self._draft(table)
        model = language_model(table, self._dtype, early=draft)
        assistant = language_model(draft, self._dtype)
        N, V = table.shape[1:]
        settings = {"do_sample": True, "max_new_tokens": N, **STRATEGIES[self.strategy](steps)}

        def run(rng: Randomness) -> tuple[tuple[int, ...], tuple[int, ...]]:
            for each in (model, assistant):  # generate may adapt them
                each.generation_config.update(num_assistant_tokens=steps, **self._of_draft)
            rounds, start = _Rounds(), torch.full((1, 1), V)
            further = {"assistant_model": assistant} if self.strategy == "assisted" else {}
            with others_code(rng, 1):
                made = model.generate(
                    start, streamer=rounds, **settings, **self._settings, **further
                )
            return tuple(made[0, 1:].tolist()), tuple(rounds.placed)

        found = [
            Outcome(probability=probability, tokens=tokens, placed=placed)
            for probability, (tokens, placed) in every_outcome(run)
        ]
        if any(len(each.tokens) != N or max(each.tokens) >= V for each in found):
            raise InputError(f"generate must return {N} token ids from 0 to {V - 1}.")
        return found

    def law(self, table: Tensor, steps: int) -> Tensor:
        """Probability of every sequence that `generate` may return, (V^N,); see `outcomes`."""
        found, V = torch.zeros(len(table), dtype=torch.float64), table.shape[2]
        for each in self.outcomes(table, steps):
            found[numbers(torch.tensor([each.tokens]), V)] += each.probability
        return found

    def without_drafts(self) -> Generation | None:
        """Plain sampling with the same settings, or None if this is it."""
        if self.strategy == "sample":
            return None
        drafting = {key for key in self.config if "assistant" in key or key == "draft"}
        return Generation("sample", {k: v for k, v in self.config.items() if k not in drafting})


class _Rounds:
    """A streamer of `generate` that counts the tokens after each call of the target model."""

    def __init__(self) -> None:
        self._put, self.placed = 0, list[int]()

    def put(self, tokens: Tensor) -> None:
        self._put += tokens.numel()
        if self._put > 1:  # without the start
            self.placed.append(self._put - 1)

    def end(self) -> None:
        """Nothing is held back."""
