"""`capcheck.gate`: one call before the first batch, which lets training begin or says why not."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from capcheck.core.arguments import (
    file_path,
    function,
    one_of,
    real_number,
    several,
    shown,
    whole_number,
)
from capcheck.core.errors import InputError
from capcheck.core.version import class_digest
from capcheck.data import Layout
from capcheck.divergences import DEFAULT
from capcheck.fitting.named import Named, is_architecture
from capcheck.pipeline.budgets import Asked, parts_of
from capcheck.pipeline.gate_result import GateResult, measure
from capcheck.pipeline.kept import Kept, cache_folder
from capcheck.pipeline.ranks import from_first_rank
from capcheck.pipeline.source import Source
from capcheck.pipeline.timed import Clock
from capcheck.pipeline.training_data import MOST_ROWS
from capcheck.pipeline.undisturbed import undisturbed
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.registry import probe_given
from capcheck.results.measurement import Outcome
from capcheck.results.plan import plan_of
from capcheck.results.survey import CapacityError
from capcheck.runs.options import Progress

__all__ = ["SECONDS", "CapacityWarning", "GateResult", "gate"]

SECONDS = 60.0  # default time of a gate

logger = logging.getLogger("capcheck")


class CapacityWarning(UserWarning):
    """What `gate` warns with where it is asked not to raise."""


def gate(
    data: Any,
    *,
    family: str | AnyProbe,
    budget: Asked | None = None,
    on_fail: Literal["raise", "warn"] = "raise",
    inconclusive: Literal["fail", "pass"] = "fail",
    seconds: float = SECONDS,
    options: Mapping[str, Any] | None = None,
    network: Named | None = None,
    tolerance: Mapping[str, float] | None = None,
    divergences: Sequence[str] = DEFAULT,
    given: Sequence[int] | None = None,
    level: float = 0.95,
    seed: int = 0,
    device: str = "cpu",
    select: Callable[[Any], Any] | None = None,
    rows: int = MOST_ROWS,
    tokens: int | None = None,
    token_dim: int | None = None,
    pca: int | None = None,
    grid: tuple[int, int] | None = None,
    kind: Literal["continuous", "categorical"] | None = None,
    law: str = "auto",
    keep: bool | str | Path = True,
    progress: Callable[[Progress], None] | None = None,
) -> GateResult:
    """Let training begin only if the family's procedure can produce the data.

    Random states, settings of torch, loaders and models are left as they were. In a distributed job
    with a process group rank 0 measures and tells the others; without one every process measures,
    with equal results. A verdict is kept, so that the next start takes under a second: of an array
    it depends on all rows that are read, of a dataset on their number and on 64 of them.

    Args:
        data: A tensor or array (n, ...), a `Dataset` or `DataLoader` of tensors or token ids, a
            `Target`, or the name of a file as for `--data`. Integers are token ids, images may have
            their channels first or last. An item of a dataset is a row, a tuple that begins with
            it, or a mapping with `input_ids`, `pixel_values` or another usual name.
        family: See `capcheck.check`.
        budget: The budget that inference will have: a `Budget`, a mapping such as
            {"steps": 8, "length": 64}, or a number of steps. The length is by default that of all
            tokens, and the steps 1. None passes if any of the default numbers of steps
            suffices for all tokens.
        on_fail: `raise` a `CapacityError`, or `warn` with a `CapacityWarning`.
        inconclusive: Whether a verdict that stays open counts as a `fail` or a `pass`.
        seconds: Most time for the verdict, about, without reading the data, above 0.
        options: See `capcheck.check`.
        network: See `capcheck.check`. Verdicts on networks of yours are not kept.
        tolerance: See `RunOptions`.
        divergences: See `RunOptions`.
        given: See `RunOptions`.
        level: See `RunOptions`.
        seed: See `RunOptions`.
        device: See `RunOptions`; the CPU by default, whatever the model is on.
        select: Function from an item of a dataset to its row.
        rows: Number of rows that the law behind the data is built from, evenly spaced.
        tokens: Number of tokens that a row is cut into; by default as the row's shape says.
        token_dim: Numbers of one token.
        pca: Number of whitened principal components that replace a row.
        grid: (rows, columns) of the tokens.
        kind: `continuous` or `categorical`, where the type of the rows does not say so.
        law: Law behind the rows, see `capcheck.data.laws`.
        keep: Whether to keep the verdict; or the folder for it, by default the user's cache folder
            or `CAPCHECK_CACHE`.
        progress: See `RunOptions`.

    Raises:
        CapacityError: The budget does not suffice, or the verdict stays open.
        InputError: An argument is not possible; the message names it and the rule that it breaks.

    Example:
        >>> import torch, capcheck
        >>> x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> capcheck.gate(x, family="gpt", law="gaussian", keep=False).passed
        True
    """
    one_of("on_fail", on_fail, ("raise", "warn"))
    one_of("inconclusive", inconclusive, ("fail", "pass"))
    least = "a number of seconds above 0"
    seconds = real_number("seconds", seconds, least, lambda n: 0 < n < math.inf, "write 60")
    for field, value in (("select", select), ("progress", progress)):
        if value is not None:
            function(field, value, "an item" if field == "select" else "a Progress")
    if not isinstance(law, str):
        raise InputError(f"law must be the name of a law, got {shown(law)}; write 'auto'.")
    if given is not None:
        given = several("given", given, "indices of tokens", "write [0] for the first")
    layout = Layout(tokens=tokens, token_dim=token_dim, pca=pca, grid=grid, kind=kind)
    run: dict[str, Any] = {
        "tolerance": tolerance,
        "divergences": divergences,
        "given": given,
        "level": level,
        "seed": seed,
        "device": device,
        "network": network,
    }
    probe = probe_given(family, options)
    folder = _folder(keep, network)

    def measured() -> GateResult:
        most = whole_number("rows", rows, 3)
        source = Source(data, layout=layout, law=law, select=select, most=most)
        asked = [parts_of(budget), seconds, most]
        kept = Kept(GateResult, folder, [*_facts(probe, run), *asked, source.digest()])
        if (found := kept.read()) is not None:
            return found.model_copy(update={"kept": True})
        found = measure(probe, source.target(), budget, Clock(seconds, progress), run)
        if found.survey is not None:
            kept.write(found)
        return found

    with undisturbed():
        text = from_first_rank(lambda: measured().model_dump_json())
    found = GateResult.model_validate_json(text)
    if found.outcome is Outcome.INCONCLUSIVE and inconclusive == "pass":
        found = found.model_copy(update={"passed": True})
    if found.passed:
        logger.info("%s %s", found, "; ".join(found.law))
    elif on_fail == "warn":
        warnings.warn(CapacityWarning(str(found)), stacklevel=2)
    else:
        raise CapacityError(str(found), found.check)
    return found


def _folder(keep: bool | str | Path, network: Named | None) -> Path | None:
    """The folder of kept verdicts, or None: the code of a caller's network has no digest."""
    if keep is False or not (network is None or is_architecture(network)):
        return None
    return cache_folder() if keep is True else file_path("keep", keep, "a folder")


def _facts(probe: AnyProbe, run: dict[str, Any]) -> list[Any]:
    """What a verdict depends on beside the data, as JSON data."""
    shown = {name: value if name == "network" else _listed(value) for name, value in run.items()}
    return [plan_of(probe).to_json(), class_digest(type(probe)), shown]


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (tuple, set)) else value
