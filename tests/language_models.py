"""Tiny random language models of `transformers`, and what they say computed from them directly."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.imports import transformers_library

Array = NDArray[np.float64]


def library() -> Any:
    """The package `transformers`; the test is skipped where it cannot be imported."""
    try:
        package = transformers_library("these tests")
    except InputError as error:
        pytest.skip(str(error))
    package.utils.logging.disable_progress_bar()
    return package


def saved(folder: Path, kind: str = "gpt2", *, symbols: int, seed: int = 0, **more: Any) -> Any:
    """A random model of a kind, saved to a folder; id 0 begins a text."""
    package = library()
    own = {"vocab_size": symbols, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.6}
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config, model = {
        "gpt2": (package.GPT2Config, package.GPT2LMHeadModel),
        "llama": (package.LlamaConfig, package.LlamaForCausalLM),
        "bert": (package.BertConfig, package.BertLMHeadModel),
    }[kind]
    reads = {"max_position_embeddings": 80}
    inner = {} if kind == "gpt2" else {"intermediate_size": 24}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = model(config(**{**own, **size, **reads, **inner, **more})).eval()
    made.save_pretrained(folder)
    return made


def next_laws(model: Any, contexts: list[list[int]]) -> Array:
    """The laws of the next token behind contexts of one length, (n, V), in float64."""
    with torch.no_grad():
        logits: Tensor = model.double()(input_ids=torch.tensor(contexts)).logits[:, -1]
    wide = logits.numpy()
    raised: Array = np.exp(wide - wide.max(1, keepdims=True))
    raised /= raised.sum(1, keepdims=True)
    return raised


def joint(model: Any, *, tokens: int, symbols: int, prompt: tuple[int, ...] = (0,)) -> Array:
    """The probability of every sequence, (V,) * N, by the chain rule over all prefixes."""
    table: Array = np.ones(())
    for i in range(tokens):
        prefixes = itertools.product(range(symbols), repeat=i)
        laws = next_laws(model, [[*prompt, *prefix] for prefix in prefixes])
        table = table[..., None] * laws.reshape((symbols,) * (i + 1))
    return table
