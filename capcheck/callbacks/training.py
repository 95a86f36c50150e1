"""What the callbacks of all trainers share: the gate's arguments, and when to measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from capcheck.callbacks.live import LiveCheck
from capcheck.core.arguments import whole_number
from capcheck.pipeline.gate import GateResult, gate

__all__ = ["Training"]

LAYOUT = ("tokens", "token_dim", "pca", "grid", "kind", "law", "rows", "select")
SHARED = ("family", "budget", "options", "divergences", "given", "seed", *LAYOUT)
"""Keywords of a gate that a live check has, too."""


class Training:
    """A gate before training, and a live network beside its oracle every n steps.

    Args:
        data: Data of the gate, or None to take the trainer's own.
        every: Number of optimiser steps between measurements of the live network, or None for none.
        network: See `LiveCheck`.
        samples: See `LiveCheck`.
        precision: See `LiveCheck`.
        **keywords: Keywords of `capcheck.gate`.

    Raises:
        InputError: An argument is not possible.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        every: int | None = None,
        network: Callable[[Any], Callable[..., Any]] | None = None,
        samples: int = 500,
        precision: str | None = None,
        **keywords: Any,
    ) -> None:
        self.data, self.keywords = data, keywords
        self.every = None if every is None else whole_number("every", every, 1)
        self._live: dict[str, Any] = {
            "network": network,
            "samples": samples,
            "precision": precision,
        }
        self._check: LiveCheck | None = None

    def begin(self, own_data: Any) -> GateResult:
        """Let training begin, or raise; see `capcheck.gate`."""
        return gate(own_data if self.data is None else self.data, **self.keywords)

    def step(
        self, number: int, model: Any, own_data: Any, log: Callable[[dict[str, float]], Any]
    ) -> None:
        """Measure the live network if it is its turn.

        Args:
            number: Number of optimiser steps that were made.
            model: The model.
            own_data: The trainer's own data, for the first measurement.
            log: Function that takes the parts of the gap by flat names.
        """
        if self.every is None or number == 0 or number % self.every:
            return
        if self._check is None:
            shared = {name: self.keywords[name] for name in SHARED if name in self.keywords}
            if shared.get("budget", 0) is None:  # no budget is named
                del shared["budget"]
            data = own_data if self.data is None else self.data
            self._check = LiveCheck(data, **shared, **self._live)
        self._check.report(model, log)
