"""A callback of the `Trainer` of transformers: `callbacks=[CapacityCallback(family="gpt")]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from capcheck.callbacks.training import Training
from capcheck.core.imports import transformers_library
from capcheck.laws import Categorical

__all__ = ["CapacityCallback", "causal_lm"]

if TYPE_CHECKING:
    TrainerCallback = object
else:
    TrainerCallback = transformers_library("callbacks of the Trainer").TrainerCallback


class CapacityCallback(TrainerCallback):
    """Lets training begin only if the family can produce the data, and watches the live network.

    The gate raises in `on_train_begin`: the stop flag would still let one step be made. A training
    that resumes is not asked again.

    Args:
        data: Data of the gate; by default the training loader's.
        every: Number of optimiser steps between measurements of the live network; by default none.
        log: Function that takes the parts of the gap, `trainer.log` as a rule; by default they are
            added to the trainer's `log_history` alone.
        network: Function from the model to a callable with the arguments of the family's signature;
            by default `causal_lm` for a model of token ids, and otherwise the model itself.
        **keywords: Keywords of `capcheck.gate`, and `samples` and `precision` of `LiveCheck`.

    Raises:
        InputError: An argument is not possible, or transformers is not installed.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        log: Callable[[dict[str, float]], Any] | None = None,
        **keywords: Any,
    ) -> None:
        keywords.setdefault("network", _network)
        self._training, self._log = Training(data, **keywords), log

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Stand before the first step."""
        if state.global_step == 0:
            self._training.begin(given.get("train_dataloader"))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the live network every n optimiser steps."""
        if not state.is_world_process_zero:
            return

        def kept(metrics: dict[str, float]) -> None:
            state.log_history.append({**metrics, "step": state.global_step})

        log = self._log or kept
        self._training.step(state.global_step, given["model"], given.get("train_dataloader"), log)


def causal_lm(model: Any, begin: int | None = None) -> Callable[[Tensor, Tensor], Categorical]:
    """A causal language model as the token predictor of `gpt` and other families.

    Args:
        model: A model whose `model(input_ids).logits` are those of the next token.
        begin: Id before the first token; by default the config's `bos_token_id`. Training rows that
            do not begin with it leave the first token without a law: give it (`given=[0]`).

    Returns:
        Function of tokens (n, N) and of which are known, a prefix of each row, to an (n, N) law.
    """
    start = getattr(model.config, "bos_token_id", None) if begin is None else begin

    def predict(tokens: Tensor, known: Tensor) -> Categorical:
        shown = torch.where(known.bool(), tokens, 0)
        first = torch.full_like(shown[:, :1], start or 0)
        # Rows that begin with the first token are shown as in training, without another before it.
        rows = shown if start is None else torch.cat([first, shown[:, :-1]], 1)
        logits = model(input_ids=rows).logits
        if start is None:
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], 1)
        return Categorical(logits.double().log_softmax(-1))

    return predict


def _network(model: Any) -> Callable[..., Any]:
    kept = getattr(getattr(model, "config", None), "vocab_size", None)
    return model if kept is None else causal_lm(model)
