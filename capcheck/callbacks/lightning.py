"""A callback of Lightning: `Trainer(callbacks=[CapacityCallback(family="gpt")])`."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from capcheck.callbacks.training import Training
from capcheck.core.errors import InputError

__all__ = ["CapacityCallback"]


def _library() -> Any:
    """Lightning under the name that the script has imported it by, or `lightning.pytorch`."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise InputError(
        "the callback of Lightning needs lightning, which is not installed; run "
        "pip install 'capcheck[lightning]'."
    )


if TYPE_CHECKING:
    Callback = object
else:
    Callback = _library().Callback


class CapacityCallback(Callback):
    """Lets training begin only if the family can produce the data, and watches the live network.

    The gate stands in `on_fit_start` if data are given. Otherwise it takes the training loader,
    which exists from `on_train_start` on. Both are before the first optimiser step. A training that
    resumes from a checkpoint is not asked again.

    Args:
        data: Data of the gate; by default the training loader's.
        every: Number of optimiser steps between measurements of the live network, whose parts go
            to the trainer's loggers as `capcheck/kl/network` and so on; by default none.
        network: Function from the LightningModule to a callable with the arguments of the family's
            signature; by default the module is that itself.
        **keywords: Keywords of `capcheck.gate`, and `samples` and `precision` of `LiveCheck`.

    Raises:
        InputError: An argument is not possible, or Lightning is not installed.
    """

    def __init__(self, data: Any = None, **keywords: Any) -> None:
        super().__init__()
        self._training = Training(data, **keywords)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Stand before everything, if data are given."""
        if self._training.data is not None and not trainer.ckpt_path:
            self._training.begin(None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stand before the first step, with the training loader."""
        if self._training.data is None and not trainer.ckpt_path:
            self._training.begin(trainer.train_dataloader)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the live network every n optimiser steps."""
        if not trainer.is_global_zero or trainer.global_step == self._seen(trainer.global_step):
            return

        def log(metrics: dict[str, float]) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.global_step)

        self._training.step(trainer.global_step, pl_module, trainer.train_dataloader, log)

    def _seen(self, step: int) -> int | None:
        """The step that was looked at last; gradients are accumulated over several batches."""
        last, self._last = getattr(self, "_last", None), step
        return last
