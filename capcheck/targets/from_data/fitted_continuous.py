"""Laws of numbers that are fitted to rows: a Gaussian, and mixtures of Gaussians.

Rows are fitted in standardised units z = (x - m) / s of each coordinate (`units`). Held-out
likelihood chooses the number of components (`selection`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.from_data.baselines import gaussian_score, independent_gaussians_score
from capcheck.targets.from_data.selection import SIZES, best_fitted, require_rows, sizes_to_try
from capcheck.targets.from_data.shrinkage import shrunk_covariance
from capcheck.targets.from_data.units import NOISE, Units
from capcheck.targets.parameters import LIMITS, Grid, require_count
from capcheck.targets.target import ContinuousTarget

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture as FittedMixture

__all__ = [
    "FLOOR",
    "RANGE",
    "ROUNDS",
    "fit_diagonal_mixture",
    "fit_gaussian",
    "fit_gaussian_mixture",
    "from_sklearn",
]

ROUNDS = 200  # most rounds of expectation-maximisation of Gaussian mixtures
FLOOR = 1e-4  # least variance of a component, in units of the coordinate's variance
RANGE = 1e-10  # least deviation of a component, in units of the coordinate's span

MixtureT = TypeVar("MixtureT", bound=ContinuousTarget)


def fit_gaussian(x: np.ndarray, *, grid: Grid = None) -> GaussianMixture:
    """One Gaussian with full covariance, shrunk towards a multiple of the identity.

    Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices".

    Args:
        x: (n, N, d) finite rows, at least 2.
        grid: (rows, columns) of the tokens, if they have any.
    """
    x = _require_numbers(x, least=2)

    def fit(rows: np.ndarray, _: int) -> GaussianMixture:
        units = Units(rows)
        D = units.scale.size
        covariance = shrunk_covariance(lambda i: units.standardised(rows[i]), len(rows), D)
        floor = 1e-9 * np.eye(D)  # constant columns leave nothing to shrink towards
        return units.full(np.zeros((1, D)), (covariance + floor)[None], np.ones(1), grid)

    baseline, named = independent_gaussians_score, "independent tokens"
    return best_fitted(x, (1,), fit, baseline, named, name=lambda _: "gaussian")


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
        x, components, "diag", law, independent_gaussians_score, "independent tokens", seed
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
        >>> from sklearn.mixture import GaussianMixture as Fitted
        >>> rows = np.random.default_rng(0).normal(size=(50, 4))
        >>> from_sklearn(Fitted(2, random_state=0).fit(rows), tokens=2).spec.dim
        2
    """
    if not hasattr(model, "means_"):
        raise InputError("model must be fitted, got one without means; call its fit(rows) first.")
    if not isinstance(model.means_, np.ndarray):
        raise InputError(
            f"model must be a fitted GaussianMixture of scikit-learn, got {shown(model)}; fit it."
        )
    K, D = model.means_.shape
    if require_count("tokens", tokens, least=0) < 1 or D % tokens:
        raise InputError(f"tokens must divide the {D} features of the model, got {shown(tokens)}.")
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

    distinct = len(np.unique(x.reshape(len(x), -1), axis=0))
    sizes = sizes_to_try(components, SIZES, len(x), distinct=distinct)
    law = "mixture" if covariance == "full" else "diagonal"
    return best_fitted(x, sizes, fit, baseline, baseline_name, name=lambda size: f"{law}:{size}")


def _expectation_maximisation(
    z: np.ndarray, size: int, covariance: str, seed: int
) -> FittedMixture:
    """A scikit-learn mixture fitted to rows (n, D), of at most as many components as they allow."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as FittedMixture

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
