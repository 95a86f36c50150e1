"""A callback of the `Trainer` of transformers: `callbacks=[CapacityCallback(family="gpt")]`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capcheck.callbacks.training import Training
from capcheck.core.imports import transformers_library

__all__ = ["CapacityCallback"]

logger = logging.getLogger("capcheck")

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
            by default the model is that itself.
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
