"""Targets fitted to data, with few components or states instead of one component per row.

Numbers are fitted in standardised units z = (x - m) / s of each coordinate, token ids by counting.
Held-out likelihood chooses the size of a law; see `selection`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as FittedMixture
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.targets.categorical.categorical_components import require_held
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.categorical.markov_chain import LARGEST, MarkovChain
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.from_data.baselines import gaussian_score
from capcheck.targets.from_data.empirical_categorical import marginals
from capcheck.targets.from_data.maximisation import hidden_states, latent_classes
from capcheck.targets.from_data.selection import (
    best_fitted,
    mean_log_likelihood,
    require_rows,
    sizes_to_try,
)
from capcheck.targets.from_data.units import NOISE, Grid, Units
from capcheck.targets.parameters import LIMITS, require_count
from capcheck.targets.target import ContinuousTarget

__all__ = [
    "AFFORDABLE",
    "FLOOR",
    "RANGE",
    "ROUNDS",
    "SIZES",
    "STATES",
    "fit_diagonal_mixture",
    "fit_gaussian",
    "fit_gaussian_mixture",
    "fit_hidden_markov",
    "fit_latent_class",
    "fit_markov_chain",
    "from_sklearn",
]

SIZES = (1, 2, 4, 8, 16, 32)  # numbers of components or classes to choose from
STATES = (4, 8, 16, 32)  # numbers of hidden states to choose from
AFFORDABLE = 1 << 18  # most numbers of a Markov table whose oracle calls take about a second
ROUNDS = 200  # most rounds of expectation-maximisation of Gaussian mixtures
FLOOR = 1e-4  # least variance of a component, in units of the coordinate's variance
RANGE = 1e-10  # least deviation of a component, in units of the coordinate's span

MixtureT = TypeVar("MixtureT", bound=ContinuousTarget)


def fit_gaussian(x: np.ndarray, *, grid: Grid = None) -> GaussianMixture:
    """One Gaussian with full covariance, shrunk towards a multiple of the identity.

    Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices"; scikit-learn's `LedoitWolf`.

    Args:
        x: (n, N, d) finite rows, at least 2.
        grid: (rows, columns) of the tokens, if they have any.
    """
    x = _require_numbers(x, least=2)

    def fit(rows: np.ndarray, _: int) -> GaussianMixture:
        units = Units(rows)
        D = units.scale.size
        covariance = np.zeros((D, D))
        if len(rows) > 1:  # one row has no spread to shrink
            covariance = LedoitWolf().fit(units.standardised(rows)).covariance_
        floor = 1e-9 * np.eye(D)  # constant columns leave nothing to shrink towards
        return units.full(np.zeros((1, D)), (covariance + floor)[None], np.ones(1), grid)

    return best_fitted(x, (1,), fit, _independent_gaussians, "independent tokens")


def fit_gaussian_mixture(
    x: np.ndarray, components: int | None = None, *, seed: int = 0, grid: Grid = None
) -> GaussianMixture:
    """A Gaussian mixture with full covariances, by EM.

    Args:
        x: (n, N, d) finite rows, at least 2.
        components: Number of components; by held-out likelihood if not given.
        seed: Seed of the start.
        grid: (rows, columns) of the tokens, if they have any.
    """

    def law(units: Units, model: FittedMixture) -> GaussianMixture:
        return units.full(model.means_, model.covariances_, model.weights_, grid)

    return _fitted_mixture(x, components, "full", law, gaussian_score, "one Gaussian", seed)


def fit_diagonal_mixture(
    x: np.ndarray, components: int | None = None, *, seed: int = 0, grid: Grid = None
) -> DiagonalMixture:
    """A mixture of Gaussians with diagonal covariances, by EM.

    Args:
        x: (n, N, d) finite rows, at least 2.
        components: Number of components; by held-out likelihood if not given.
        seed: Seed of the start.
        grid: (rows, columns) of the tokens, if they have any.
    """

    def law(units: Units, model: FittedMixture) -> DiagonalMixture:
        return units.diagonal(model.means_, np.sqrt(model.covariances_), model.weights_, grid)

    return _fitted_mixture(
        x, components, "diag", law, _independent_gaussians, "independent tokens", seed
    )


def from_sklearn(model: FittedMixture, *, tokens: int, grid: Grid = None) -> GaussianMixture:
    """The law that a fitted scikit-learn `GaussianMixture` describes.

    Args:
        model: Fitted, with any `covariance_type`, on rows of N d features.
        tokens: N.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: Not fitted, or N does not divide the number of features.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(50, 4))
        >>> from_sklearn(FittedMixture(2, random_state=0).fit(rows), tokens=2).spec.dim
        2
    """
    if not hasattr(model, "means_"):
        raise InputError("model must be fitted, got one without means; call its fit(rows) first.")
    K, D = model.means_.shape
    if require_count("tokens", tokens, least=0) < 1 or D % tokens:
        raise InputError(f"tokens must divide the {D} features of the model, got {tokens}.")
    blocks = np.asarray(model.covariances_)
    if model.covariance_type == "tied":
        blocks = np.broadcast_to(blocks, (K, D, D))
    elif model.covariance_type in ("diag", "spherical"):
        blocks = blocks.reshape(K, -1, 1) * np.eye(D)
    return GaussianMixture(
        torch.tensor(model.means_.reshape(K, tokens, -1), dtype=torch.float64),
        torch.tensor(blocks, dtype=torch.float64),
        torch.tensor(model.weights_),
        grid=grid,
    )


def fit_latent_class(
    ids: np.ndarray,
    classes: int | None = None,
    *,
    vocabulary: int,
    seed: int = 0,
    grid: Grid = None,
) -> CategoricalMixture:
    """A latent-class model: a mixture of products of categorical laws, by EM.

    Args:
        ids: (n, N) integers in 0..V-1, at least 2 rows.
        classes: Number of components; by held-out likelihood if not given.
        vocabulary: V.
        seed: Seed of the start.
        grid: (rows, columns) of the tokens, if they have any.
    """
    ids = _require_ids(ids, vocabulary)

    def fit(rows: np.ndarray, size: int) -> CategoricalMixture:
        prior = _marginals(rows, vocabulary)  # (N, V)
        return latent_classes(torch.from_numpy(rows), size, prior, seed=seed, grid=grid)

    sizes = sizes_to_try(classes, SIZES, len(ids))
    return best_fitted(ids, sizes, fit, _independent_symbols(vocabulary), "independent tokens")


def fit_markov_chain(
    ids: np.ndarray,
    order: int | None = None,
    *,
    vocabulary: int,
    grid: Grid = None,
) -> MarkovChain:
    """An n-gram model, each order interpolated with the one below it.

    p(v | context) = (count(context v) + kinds(context) p(v | shorter context)) / (count(context) +
    kinds(context)), where kinds counts the different symbols that were seen after the context.

    Source: Witten & Bell 1991, "The zero-frequency problem".

    Args:
        ids: (n, N) integers in 0..V-1, at least 2 rows.
        order: How many tokens of the past count; by held-out likelihood among 1, 2 and 3 if not
            given, as far as V^(order + 1) numbers are affordable.
        vocabulary: V.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: An order that the sequence or the memory is too small for.
    """
    ids = _require_ids(ids, vocabulary)
    N = ids.shape[1]

    def fit(rows: np.ndarray, size: int) -> MarkovChain:
        x = torch.from_numpy(rows)
        tables: list[Tensor] = []
        # Every position counts towards the lower orders, the starts of windows included.
        lower = torch.full((vocabulary,), 1 / vocabulary, dtype=torch.float64)
        for j in range(size + 1):
            counts = torch.zeros((vocabulary,) * (j + 1), dtype=torch.float64)
            grams = x.unfold(1, j + 1, 1).reshape(-1, j + 1)
            counts.index_put_(tuple(grams.T), torch.ones(len(grams)).double(), accumulate=True)
            kinds = (counts > 0).sum(-1, keepdim=True)
            total = counts.sum(-1, keepdim=True) + kinds
            table = torch.where(total > 0, (counts + kinds * lower) / total, lower)
            tables.append(table)
            lower = table
        return MarkovChain(tables, tokens=N, grid=grid)

    sizes = _orders(order, N, vocabulary, len(ids))
    return best_fitted(ids, sizes, fit, _independent_symbols(vocabulary), "independent tokens")


def fit_hidden_markov(
    ids: np.ndarray,
    states: int | None = None,
    *,
    vocabulary: int,
    seed: int = 0,
    grid: Grid = None,
) -> HiddenMarkov:
    """A homogeneous hidden Markov model, by EM.

    Source: Baum, Petrie, Soules & Weiss 1970, "A maximization technique occurring in the
    statistical analysis of probabilistic functions of Markov chains".

    Args:
        ids: (n, N) integers in 0..V-1, at least 2 rows.
        states: Number of hidden states; by held-out likelihood if not given.
        vocabulary: V.
        seed: Seed of the start.
        grid: (rows, columns) of the tokens, if they have any.
    """
    ids = _require_ids(ids, vocabulary)

    def fit(rows: np.ndarray, size: int) -> HiddenMarkov:
        prior = _marginals(rows, vocabulary).mean(0)  # (V,)
        return hidden_states(torch.from_numpy(rows), size, prior, seed=seed, grid=grid)

    sizes = sizes_to_try(states, STATES, len(ids))
    return best_fitted(ids, sizes, fit, _independent_symbols(vocabulary), "independent tokens")


def _fitted_mixture(
    x: np.ndarray,
    components: int | None,
    covariance: str,
    law_of: Callable[[Units, FittedMixture], MixtureT],
    baseline: Callable[[np.ndarray, np.ndarray], float],
    baseline_name: str,
    seed: int,
) -> MixtureT:
    """A mixture fitted by EM to rows x (n, N, d), of the number of components that predicts best.

    Args:
        x: Rows, at least 3.
        components: Number of components; by held-out likelihood if None.
        covariance: Form of the covariances, as scikit-learn names it.
        law_of: Function of the units of the fitted rows and of the fit in these units.
        baseline: As for `best_fitted`.
        baseline_name: As for `best_fitted`.
        seed: Seed of the start.
    """
    x = _require_numbers(x, least=3)

    def fit(rows: np.ndarray, size: int) -> MixtureT:
        units = Units(rows)
        model = _expectation_maximisation(units.standardised(rows), size, covariance, seed)
        law = law_of(units, model)
        return law if model.converged_ else law.with_provenance(description=_stopped(law))

    sizes = sizes_to_try(components, SIZES, len(x), distinct=_distinct(x))
    return best_fitted(x, sizes, fit, baseline, baseline_name)


def _expectation_maximisation(
    z: np.ndarray, size: int, covariance: str, seed: int
) -> FittedMixture:
    """A scikit-learn mixture fitted to rows (n, D), of at most as many components as they allow."""
    size = min(size, len(np.unique(z, axis=0)))  # repeated rows are no evidence of more
    model = FittedMixture(
        size, covariance_type=covariance, reg_covar=FLOOR, max_iter=ROUNDS, random_state=seed
    )
    with warnings.catch_warnings():
        # The description says so, and rows as close as rounding are distinct in name only.
        for known in ("Best performing initialization", "Number of distinct clusters"):
            warnings.filterwarnings("ignore", message=known, category=ConvergenceWarning)
        return model.fit(z)


def _stopped(law: ContinuousTarget) -> str:
    return f"{law.provenance.description} (EM stopped after {ROUNDS} rounds)"


def _orders(given: int | None, tokens: int, vocabulary: int, count: int) -> Sequence[int]:
    """The given order of a Markov chain, or the orders to choose from.

    Raises:
        InputError: An order that the sequence or the memory is too small for.
    """
    if given is None:
        affordable = [m for m in (1, 2, 3) if vocabulary ** (m + 1) <= AFFORDABLE]
        return sizes_to_try(None, [m for m in affordable if m < tokens] or [0], count)
    order = require_count("order of a Markov chain", given, least=0)
    if order >= tokens:
        raise InputError(
            f"order of a Markov chain must be below the {tokens} tokens of a sequence, got "
            f"{order}; choose a lower one."
        )
    if vocabulary ** (order + 1) > LARGEST:
        raise InputError(
            f"order {order} over {vocabulary} symbols needs {float(vocabulary) ** (order + 1):.2g} "
            f"numbers, and at most {LARGEST} are held; choose a lower one, got {order}."
        )
    return [order]


def _require_ids(ids: np.ndarray, vocabulary: int) -> np.ndarray:
    """Rows (n, N) of integers in 0..V-1, n at least 2, whose N marginal laws fit, as int64."""
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"token ids must be integers of shape (rows, tokens), got {ids.dtype} {ids.shape}."
        )
    require_count("vocabulary", vocabulary)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(f"token ids must be from 0 to {vocabulary - 1}, got {wrong}; shift them.")
    require_held(ids.shape[1], vocabulary)
    require_rows(len(ids))
    return ids.astype(np.int64)


def _require_numbers(x: np.ndarray, *, least: int) -> np.ndarray:
    """Rows (n, N, d) of finite numbers in float64, n at least `least`, whose squares are held."""
    if x.ndim != 3 or x.size == 0:
        raise InputError(f"data must have shape (rows, tokens, dim), got {x.shape}; reshape it.")
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise InputError(f"data must be real numbers, got {x.dtype}; convert them to float64.")
    if not bool(np.isfinite(x).all()):
        raise InputError("data must be finite, got NaN or infinity; drop or repair the rows.")
    rows, limit = x.astype(np.float64), LIMITS[torch.float64]
    require_rows(len(rows), least)
    if not np.abs(rows).max() <= limit:
        raise InputError(
            f"data must be at most {limit:g} in size, got {np.abs(rows).max():g}; rescale them."
        )
    span, least_span = np.ptp(rows, axis=0).reshape(-1), 1 / (RANGE * limit)
    varying = span[span > NOISE * np.abs(Units(rows).centre)]
    if not np.all(varying >= least_span):
        raise InputError(
            f"data must vary by at least {least_span:g} where they vary, got {varying.min():g}; "
            "rescale them."
        )
    return rows


def _distinct(x: np.ndarray) -> int:
    return len(np.unique(x.reshape(len(x), -1), axis=0))


def _independent_gaussians(train: np.ndarray, test: np.ndarray) -> float:
    """Held-out score of independent Gaussian tokens."""
    units = Units(train)
    law = units.diagonal(
        np.zeros((1, units.scale.size)), np.ones((1, units.scale.size)), np.ones(1)
    )
    return mean_log_likelihood(law, test)


def _independent_symbols(vocabulary: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """Held-out score of independent tokens, their marginals smoothed by one count in all."""

    def score(train: np.ndarray, test: np.ndarray) -> float:
        return mean_log_likelihood(CategoricalMixture(_marginals(train, vocabulary)[None]), test)

    return score


def _marginals(rows: np.ndarray, vocabulary: int) -> Tensor:
    return marginals(rows, np.ones(len(rows)), vocabulary)
