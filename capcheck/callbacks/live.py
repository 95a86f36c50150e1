"""A network in training beside its oracle: how much of the gap is the procedure's, how much its."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from capcheck.core.arguments import whole_number
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, NetworkError
from capcheck.core.record import Record
from capcheck.data import Layout
from capcheck.divergences import DEFAULT
from capcheck.fitting.networks import cast
from capcheck.pipeline.budgets import budget_on
from capcheck.pipeline.source import Source
from capcheck.pipeline.training_data import MOST_ROWS
from capcheck.pipeline.undisturbed import undisturbed
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.registry import probe_given
from capcheck.results.gap import Gap
from capcheck.results.survey import CheckResult
from capcheck.runs.cells import Cells
from capcheck.runs.planning import engine_of_check
from capcheck.targets.target import Target

__all__ = ["LiveCheck", "LiveGap"]

SAMPLES = 500  # default draws of a measurement
logger = logging.getLogger("capcheck")

Adapt = Callable[[Any], Callable[..., Any]]


class LiveGap(Record):
    """One measurement of a network in training.

    Attributes:
        gaps: Each divergence in parts: `structural` (the procedure with its oracle), `network`,
            `numerics` in every precision that was asked for, and their `total`.
        seconds: Seconds that it took.
    """

    gaps: tuple[Gap, ...]
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """The parts by flat names for a logger, such as `capcheck/kl/network`."""
        return {
            f"capcheck/{gap.divergence}/{part.name}": part.value
            for gap in self.gaps
            for part in gap.parts
        }


class LiveCheck:
    """Measures a network in training beside the oracle of its family.

    The model is neither copied nor moved. It is called in evaluation mode and without gradients of
    its weights; afterwards every part of it is as it was, and so are all random states.

    Args:
        data: What the network is trained on, as for `capcheck.gate`.
        family: See `capcheck.check`.
        budget: The budget that inference will have, as for `capcheck.gate`; by default all tokens
            in 16 steps.
        network: Function from the model to a callable with the arguments of the family's signature
            (`capcheck families NAME`); by default the model is that itself.
        options: See `capcheck.check`.
        divergences: See `RunOptions`.
        precision: A lower precision in which the run is made again, for the numerics' part; by
            default none.
        given: See `RunOptions`; a language model that is trained without a token before the first
            has no law of the first, which [0] gives.
        samples: Draws of each measurement, at least 200.
        seed: See `RunOptions`. Every measurement has the same draws, so that changes are paired.
        select: See `capcheck.gate`.
        rows: See `capcheck.gate`.
        law: See `capcheck.gate`.
        tokens: See `capcheck.gate`.
        token_dim: See `capcheck.gate`.
        pca: See `capcheck.gate`.
        grid: See `capcheck.gate`.
        kind: See `capcheck.gate`.

    Raises:
        InputError: An argument is not possible; what only the data can tell is told by `measure`.

    Example::

        live = LiveCheck(x, family="diffusion", budget=16)
        for step, batch in enumerate(loader):
            ...
            if step % 1000 == 0:
                writer.add_scalars("gap", live.measure(model).metrics, step)
    """

    def __init__(
        self,
        data: Any,
        *,
        family: str | AnyProbe,
        budget: Budget | Mapping[str, int] | int = 16,
        network: Adapt | None = None,
        options: Mapping[str, Any] | None = None,
        divergences: Sequence[str] = DEFAULT,
        precision: str | None = None,
        given: Sequence[int] | None = None,
        samples: int = SAMPLES,
        seed: int = 0,
        select: Callable[[Any], Any] | None = None,
        rows: int = MOST_ROWS,
        law: str = "auto",
        tokens: int | None = None,
        token_dim: int | None = None,
        pca: int | None = None,
        grid: tuple[int, int] | None = None,
        kind: Literal["continuous", "categorical"] | None = None,
    ) -> None:
        self._probe = probe_given(family, options)
        self._budget, self._adapt = budget, network
        layout = Layout(tokens=tokens, token_dim=token_dim, pca=pca, grid=grid, kind=kind)
        self._source = Source(
            data, layout=layout, law=law, select=select, most=whole_number("rows", rows, 3)
        )
        self._run: dict[str, Any] = {
            "divergences": divergences,
            "precision": precision,
            "given": given,
            "samples": samples,
            "seed": seed,
        }
        self._target: Target | None = None
        self._known: dict[str, Cells] = {}  # by device: cells of the oracle

    def measure(self, model: Any) -> LiveGap:
        """Measure the model as it is now.

        Args:
            model: The model, or any callable.

        Raises:
            InputError: The data or the budget are not possible.
            NetworkError: The network raised, or broke its signature.
        """
        began = time.monotonic()
        with undisturbed(), _evaluating(model):
            if self._target is None:
                self._target = self._source.target()
            place = _place(model)
            budget = budget_on(self._target, self._budget, len(self._run["given"] or ()))
            engine = engine_of_check(
                self._probe,
                self._target,
                self._known.get(place.type),
                network=_Live(self._adapt(model) if self._adapt else model, model),
                lengths=[budget.length],
                steps=[budget.steps],
                device=str(place),
                **self._run,
            )
            found = CheckResult.of(engine.run(errors_are_results=False)).found
            self._known[place.type] = engine.cells
        rounded = [gap for one in found.precisions for cell in one.cells for gap in cell.gaps]
        return LiveGap(gaps=tuple(rounded) or found.gaps, seconds=time.monotonic() - began)

    def report(self, model: Any, log: Callable[[dict[str, float]], Any]) -> LiveGap | None:
        """Measure the model and log the parts; a measurement that fails is a warning.

        Args:
            model: See `measure`.
            log: Function that takes the parts by flat names.

        Returns:
            The measurement, or None if it failed.
        """
        try:
            found = self.measure(model)
        except (InputError, NetworkError) as error:
            warnings.warn(f"the live network could not be measured: {error}", stacklevel=2)
            return None
        log(found.metrics)
        return found


class _Live:
    """A network in training, called on its own device and in its own precision."""

    def __init__(self, network: Callable[..., Any], model: Any) -> None:
        self._network = network
        weights = [w for w in _parameters(model) if w.is_floating_point()]
        self._dtype = weights[0].dtype if weights else None

    def __call__(self, *shown: Tensor) -> Any:
        dtype = shown[0].dtype if shown[0].is_floating_point() else torch.float64
        own = self._dtype or dtype
        inputs = [x.to(own) if x.is_floating_point() else x for x in shown]
        wanted = next((x.dtype for x in shown if x.is_floating_point()), dtype)
        return cast(self._network(*inputs), wanted)


def _parameters(model: Any) -> list[Tensor]:
    return list(model.parameters()) if isinstance(model, nn.Module) else []


def _place(model: Any) -> torch.device:
    """The device of the model: its first parameter's."""
    return next((w.device for w in _parameters(model)), torch.device("cpu"))


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put every part of a module into evaluation mode, without gradients of its weights.

    Gradients of its inputs stay possible, by which log-densities are computed.
    """
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(part, part.training) for part in parts]
    trained = [w for w in _parameters(model) if w.requires_grad]
    try:
        for part in parts:
            part.training = False
        for w in trained:
            w.requires_grad_(False)
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for w in trained:
            w.requires_grad_(True)
