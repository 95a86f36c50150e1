"""Laws that can be built from rows of tokens, named `NAME`, or `NAME:SIZE` if a law has a size.

| law | tokens | size: number of |
|---|---|---|
| `rows` | any | no size: one smoothed component per row |
| `gaussian` | continuous | no size: one Gaussian |
| `mixture` | continuous | Gaussians with full covariances |
| `diagonal` | continuous | Gaussians with diagonal covariances |
| `classes` | categorical | latent classes |
| `markov` | categorical | past tokens that the next one depends on |
| `hmm` | categorical | hidden states |

Held-out likelihood chooses a size that is left out, and the law itself for `auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError, near
from capcheck.core.sequences import Kind
from capcheck.data.choice import chosen_law
from capcheck.targets.categorical.categorical_components import LARGEST as MOST_NUMBERS
from capcheck.targets.from_data.empirical import from_samples
from capcheck.targets.from_data.fitted_categorical import (
    fit_hidden_markov,
    fit_latent_class,
    fit_markov_chain,
)
from capcheck.targets.from_data.fitted_continuous import (
    fit_diagonal_mixture,
    fit_gaussian,
    fit_gaussian_mixture,
)
from capcheck.targets.target import Target

__all__ = ["LAWS", "SIZED", "build_law"]

SIZED: dict[Kind, dict[str, Callable[..., Target]]] = {
    "continuous": {"mixture": fit_gaussian_mixture, "diagonal": fit_diagonal_mixture},
    "categorical": {
        "classes": fit_latent_class,
        "markov": fit_markov_chain,
        "hmm": fit_hidden_markov,
    },
}
LAWS: dict[Kind, tuple[str, ...]] = {
    "continuous": ("rows", "gaussian", *SIZED["continuous"]),
    "categorical": ("rows", *SIZED["categorical"]),
}


def build_law(
    rows: np.ndarray,
    law: str,
    *,
    grid: tuple[int, int] | None,
    bandwidth: float | None = None,
    vocabulary: int | None = None,
) -> Target:
    """Build the named law from rows of tokens.

    Args:
        rows: (n, N, d) real numbers, or (n, N) token ids.
        law: `NAME`, `NAME:SIZE` or `auto`, which is `rows` if a bandwidth is given.
        grid: (rows, columns) of the tokens, if they have any.
        bandwidth: Smoothing of the law `rows` of continuous tokens, in standard deviations;
            likelihood chooses it if None.
        vocabulary: Vocabulary size V of token ids, or None for real numbers.

    Raises:
        InputError: The name is unknown, the law is for the other kind of tokens, or the size is not
            a whole number.
    """
    kind: Kind = "categorical" if vocabulary is not None else "continuous"
    if not isinstance(law, str):
        raise InputError(f"law must be the name of a law, got {shown(law)}; write 'auto'.")
    if law == "auto":
        facts: dict[str, Any] = {"grid": grid, "bandwidth": bandwidth, "vocabulary": vocabulary}
        if bandwidth is not None and kind == "continuous":
            return build_law(rows, "rows", **facts)
        return chosen_law(
            rows, kind, lambda name, some: build_law(some, name, **facts), vocabulary=vocabulary
        )
    name, colon, size = law.partition(":")
    if name not in LAWS[kind]:
        other: Kind = "continuous" if kind == "categorical" else "categorical"
        if name in LAWS[other]:
            raise InputError(
                f"law {name!r} is for {other} tokens, and these are {kind}; "
                f"use auto, {', '.join(LAWS[kind])}."
            )
        raise InputError(f"law {name!r} is unknown; {near(name, ('auto', *LAWS[kind]))}")
    if bandwidth is not None and (name != "rows" or kind == "categorical"):
        raise InputError(
            f"bandwidth smooths the rows of continuous data, got {bandwidth} for the law {name!r} "
            f"of {kind} tokens; leave it out."
        )
    if name not in SIZED[kind] and colon:
        raise InputError(f"law {name!r} has no size, got {size!r}; leave it out.")
    facts = {"grid": grid}
    if kind == "categorical":
        facts["vocabulary"] = vocabulary
    if name == "rows":
        if kind == "categorical":
            _require_few_symbols(rows, vocabulary or 0)
        given: float | Literal["auto"] = "auto" if bandwidth is None else bandwidth
        return from_samples(rows, bandwidth=given, **facts)
    if name == "gaussian":
        return fit_gaussian(rows, grid=grid)
    return SIZED[kind][name](rows, _size(law) if colon else None, **facts)


def _require_few_symbols(ids: np.ndarray, vocabulary: int) -> None:
    """Raise InputError where `from_samples` would, with the cures available to a user of `data`."""
    N = ids.shape[1]
    if vocabulary * N > MOST_NUMBERS:
        raise InputError(
            f"law 'rows' must have at most {MOST_NUMBERS // N} different token ids for {N} tokens, "
            f"got {vocabulary}; use the law hmm, or cut sequences into fewer tokens."
        )
    if not np.ptp(ids, axis=0).any():
        raise InputError(
            f"law 'rows' needs at least 2 distinct rows of token ids, got 1 in {len(ids)}; "
            "add rows that differ."
        )


def _size(law: str) -> int:
    name, _, size = law.partition(":")
    if not (size.isascii() and size.isdigit()):
        raise InputError(f"law {name!r} must have a whole number as its size, got {size!r}.")
    return int(size)
