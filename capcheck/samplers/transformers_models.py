"""Causal language models of `transformers` whose law of token ids is a table.

Such a model keeps the ids that it has read in the library's own cache, as a real one keeps its keys
and values. An error in the handling of the cache therefore changes its law. The id V after the
alphabet starts a sequence, and has probability 0 everywhere else.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from capcheck.core.imports import transformers_library

__all__ = ["draft_table", "language_model", "library"]

NEVER = -3e4  # logit of a probability of 0; infinity would be no number once it is subtracted
MIXED = 0.5  # share of the target's own laws in those of the draft model


def library() -> Any:
    """The package `transformers`, whose own messages are switched off.

    Raises:
        InputError: It cannot be imported.
    """
    transformers = transformers_library("decoding strategies of transformers")
    transformers.logging.set_verbosity_error()
    return transformers


def draft_table(table: Tensor) -> Tensor:
    """The laws of a draft model: half of each law p(x_i | x_<i), and half of uniform tokens.

    A draft may thus be impossible under the target, and one that is likely may be refused.

    Args:
        table: Laws of the target by prefix, (V^N, N, V).
    """
    V = table.shape[-1]
    return MIXED * table + (1 - MIXED) / V


def language_model(table: Tensor, dtype: torch.dtype, early: Tensor | None = None) -> Any:
    """A model of `transformers` with the laws of a table.

    Args:
        table: p(x_i | x_<i) for token i of every sequence x in the order of `sequences`, (V^N, N,
            V) probabilities.
        dtype: Type of its logits.
        early: The laws after the first of its two layers, if it can leave early.
    """
    (*_, N, V), (config_class, model_class) = table.shape, _classes()
    layers = [table] if early is None else [early, table]
    config = config_class(vocab_size=V + 1, tokens=N, num_hidden_layers=len(layers))
    return model_class(config, [each.log().clamp(min=NEVER) for each in layers], dtype).eval()


@functools.cache
def _classes() -> tuple[Any, Any]:
    """The classes of the model's config and of the model."""
    transformers = library()

    class TableConfig(transformers.PreTrainedConfig):  # type: ignore[misc, name-defined]
        model_type = "capcheck_table"

        def __init__(
            self, vocab_size: int = 2, tokens: int = 1, num_hidden_layers: int = 1, **others: Any
        ) -> None:
            start = {"bos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1}
            super().__init__(**(start | others))
            self.vocab_size, self.tokens = vocab_size, tokens
            self.num_hidden_layers = num_hidden_layers
            self.num_attention_heads = self.hidden_size = 1

    class TableModel(
        transformers.PreTrainedModel,  # type: ignore[misc, name-defined]
        transformers.GenerationMixin,  # type: ignore[misc, name-defined]
    ):
        config_class = TableConfig
        base_model_prefix = "own_base"

        def __init__(self, config: Any, log_p: list[Tensor], dtype: torch.dtype) -> None:
            super().__init__(config)
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype), requires_grad=False)
            self.log_p = log_p

        @property
        def own_base(self) -> Any:
            """The model itself, whose number of layers an early exit sets."""
            return self

        def forward(
            self,
            input_ids: Tensor,
            cache: Any = None,
            attention_mask: Tensor | None = None,
            use_cache: bool | None = None,
            **others: Any,
        ) -> Any:
            """The logits (n, T, V + 1) of the tokens that follow the T last ones, and the cache."""
            read, V = input_ids, self.config.vocab_size - 1
            if cache is None and use_cache:
                cache = transformers.DynamicCache(config=self.config)
            if cache is not None:
                ids = input_ids[:, None, :, None].double()
                for layer in range(self.config.num_hidden_layers):
                    keys = cache.update(ids, ids, layer)[0]
                read = keys[:, 0, : cache.get_seq_length(), 0].long()
            logits = torch.full((*input_ids.shape, V + 1), NEVER, dtype=self.weight.dtype)
            last = range(read.shape[1] - input_ids.shape[1], read.shape[1])
            for j, i in enumerate(last):  # i tokens stand behind the start
                if i < self.config.tokens:
                    logits[:, j, :V] = self._following(read[:, 1 : i + 1]).to(logits)
                else:
                    logits[:, j, :V] = 0  # past the last token, which nothing may depend on
            return transformers.modeling_outputs.CausalLMOutputWithPast(logits=logits, cache=cache)

        def _following(self, prefix: Tensor) -> Tensor:
            """Log-probabilities (n, V) of the token after a prefix (n, i)."""
            (i,), N, V = prefix.shape[1:], self.config.tokens, self.config.vocab_size - 1
            place = V ** torch.arange(N - 1, N - 1 - i, -1)  # of the first sequence with the prefix
            prefix = prefix.clamp(max=V - 1)  # a start in the midst is read as some token
            log_p: Tensor = self.log_p[self.config.num_hidden_layers - 1]
            return log_p[(prefix * place).sum(1), i]

    return TableConfig, TableModel
