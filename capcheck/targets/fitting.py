"""Targets fitted to data: a few components or states instead of one per row.

A family of models is fitted in several sizes to four fifths of the rows, and the size whose
log-likelihood on the other fifth is largest is fitted again to all of them. That held-out score is
reported beside the score of a simpler law: it is how far the surrogate is from the user's data.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as FittedMixture
from torch import Tensor

from capcheck.errors import InputError
from capcheck.targets.categorical_mixture import CategoricalMixture
from capcheck.targets.diagonal_mixture import DiagonalMixture
from capcheck.targets.empirical import gaussian_score
from capcheck.targets.empirical_categorical import HELD_OUT, marginals
from capcheck.targets.empirical_categorical import LARGEST as LAWS
from capcheck.targets.gaussian_mixture import GaussianMixture
from capcheck.targets.hidden_markov import HiddenMarkov
from capcheck.targets.markov_chain import LARGEST, MarkovChain
from capcheck.targets.target import HeldOut, Target

SCORED = 2000  # rows that a score is the mean of
LEAST = 2  # rows: one to hold out, and one to fit to
SIZES = (1, 2, 4, 8, 16, 32)
STATES = (4, 8, 16, 32)
AFFORDABLE = 1 << 18  # numbers of a table whose oracle calls take a second, not minutes
ROUNDS = 60  # of expectation and maximisation
STARTS = 4
WARM = 20  # rounds after which the best start is known
CONVERGED = 1e-5  # gain per token, in nats, below which they stop
PRIOR = 1.0  # pseudo-counts per class or state, spread like the marginal law

TargetT = TypeVar("TargetT", bound=Target)
StateT = TypeVar("StateT")
Grid = tuple[int, int] | None
_Tables = tuple[Tensor, Tensor, Tensor]


def fit_gaussian(x: np.ndarray, *, grid: Grid = None) -> GaussianMixture:
    """One Gaussian with full covariance, shrunk towards a multiple of the identity.

    Source: Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance
    matrices"; scikit-learn's `LedoitWolf`.

    Args:
        x: (n, N, d) finite rows, at least 2.
        grid: (rows, columns) of the tokens, if they have any.
    """
    _require_numbers(x)

    def fit(rows: np.ndarray, _: int) -> GaussianMixture:
        scale = _scales(rows)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a single row
            fitted = LedoitWolf().fit(rows.reshape(len(rows), -1) / scale)
        floor = 1e-9 * np.eye(len(scale))  # constant columns leave nothing to shrink towards
        covariance = (fitted.covariance_ + floor) * np.outer(scale, scale)
        mean = (fitted.location_ * scale).reshape(1, *rows.shape[1:])
        return GaussianMixture(torch.tensor(mean), torch.tensor(covariance[None]), grid=grid)

    return _fitted(x, (1,), fit, _independent_gaussians, "independent tokens")


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
    _require_numbers(x)

    def fit(rows: np.ndarray, size: int) -> GaussianMixture:
        model = _expectation_maximisation(rows, size, "full", seed)
        return from_sklearn(model, tokens=rows.shape[1], grid=grid)

    return _fitted(x, _sizes(components, SIZES, x), fit, gaussian_score, "one Gaussian")


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
    _require_numbers(x)

    def fit(rows: np.ndarray, size: int) -> DiagonalMixture:
        model = _expectation_maximisation(rows, size, "diag", seed)
        scale = _scales(rows)
        shape = (-1, *rows.shape[1:])
        return DiagonalMixture(
            torch.tensor((model.means_ * scale).reshape(shape)),
            torch.tensor((np.sqrt(model.covariances_) * scale).reshape(shape)),
            torch.tensor(model.weights_),
            grid=grid,
        )

    return _fitted(
        x, _sizes(components, SIZES, x), fit, _independent_gaussians, "independent tokens"
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
    if tokens < 1 or D % tokens:
        raise InputError(f"tokens must divide the {D} features of the model, got {tokens}.")
    blocks = np.asarray(model.covariances_)
    if model.covariance_type == "tied":
        blocks = np.broadcast_to(blocks, (K, D, D))
    elif model.covariance_type in ("diag", "spherical"):
        blocks = blocks.reshape(K, -1, 1) * np.eye(D)
    scale = getattr(model, "scale_", np.ones(D))  # of rows that were scaled before the fit
    return GaussianMixture(
        torch.tensor((model.means_ * scale).reshape(K, tokens, -1)),
        torch.tensor(blocks * np.outer(scale, scale)),
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
    _require_ids(ids, vocabulary)

    def fit(rows: np.ndarray, size: int) -> CategoricalMixture:
        x = torch.from_numpy(rows)
        n, N = x.shape
        prior = _marginals(rows, vocabulary)  # (N, V)

        def start(generator: torch.Generator) -> Tensor:
            shares = torch.rand(n, size, generator=generator, dtype=torch.float64)
            return (4 * shares).softmax(1)

        def improve(shares: Tensor) -> tuple[CategoricalMixture, float, Tensor]:
            counts = PRIOR * prior.expand(size, N, vocabulary).clone()
            for i in range(N):
                counts[:, i].index_add_(1, x[:, i], shares.T)
            p = counts / counts.sum(-1, keepdim=True)
            weights = shares.mean(0)
            log_joint = weights.log() + sum(p[:, i].log().T[x[:, i]] for i in range(N))
            model = CategoricalMixture(p, weights, grid=grid)
            return model, float(log_joint.logsumexp(1).mean()) / N, log_joint.softmax(1)

        return _maximised(start, improve, seed=seed, starts=STARTS if size > 1 else 1)

    sizes = _sizes(classes, SIZES, ids)
    return _fitted(ids, sizes, fit, _independent_symbols(vocabulary), "independent tokens")


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
    _require_ids(ids, vocabulary)

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
        return MarkovChain(tables, tokens=x.shape[1], grid=grid)

    affordable = [m for m in (1, 2, 3) if vocabulary ** (m + 1) <= AFFORDABLE]
    orders = [m for m in affordable if m < ids.shape[1]] or [0]
    if order is not None and order >= ids.shape[1]:
        raise InputError(
            f"size of a Markov chain over {ids.shape[1]} tokens must be between 0 and "
            f"{ids.shape[1] - 1}, got {order}."
        )
    if order is not None and vocabulary ** (order + 1) > LARGEST:
        raise InputError(
            f"order {order} over {vocabulary} symbols needs {float(vocabulary) ** (order + 1):.2g} "
            f"numbers, and at most {LARGEST} are held; choose a lower one, got {order}."
        )
    sizes = _sizes(order, orders, ids, least=0)
    return _fitted(ids, sizes, fit, _independent_symbols(vocabulary), "independent tokens")


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
    _require_ids(ids, vocabulary)

    def fit(rows: np.ndarray, size: int) -> HiddenMarkov:
        x = torch.from_numpy(rows)
        N = x.shape[1]
        everything = torch.ones_like(x, dtype=torch.bool)
        prior = _marginals(rows, vocabulary).mean(0)  # (V,)

        def start(generator: torch.Generator) -> _Tables:
            def draw(*shape: int) -> Tensor:
                return torch.randn(*shape, generator=generator, dtype=torch.float64).exp()

            emission = _laws(prior * draw(size, vocabulary))
            return _laws(draw(size)), _laws(draw(size, size)), emission

        def improve(tables: _Tables) -> tuple[HiddenMarkov, float, _Tables]:
            model = HiddenMarkov(*tables, tokens=N, grid=grid)
            gain = float(model.log_prob(x).mean()) / N
            posterior = model.state_posterior(x, everything)  # (n, N, S)
            counts = PRIOR * prior.repeat(size, 1).T  # (V, S)
            counts = counts.index_add(0, x.reshape(-1), posterior.reshape(-1, size))
            initial = _laws(posterior[:, 0].sum(0) + PRIOR / size)
            transition = _laws(model.expected_transitions(x) + PRIOR / size)
            return model, gain, (initial, transition, _laws(counts.T))

        return _maximised(start, improve, seed=seed, starts=STARTS if size > 1 else 1)

    sizes = _sizes(states, STATES, ids)
    return _fitted(ids, sizes, fit, _independent_symbols(vocabulary), "independent tokens")


def _require_ids(ids: np.ndarray, vocabulary: int) -> None:
    """Raise InputError unless ids are (n, N) integers in 0..V-1 whose N marginal laws fit."""
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"token ids must be integers of shape (rows, tokens), got {ids.dtype} {ids.shape}."
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(f"token ids must be from 0 to {vocabulary - 1}, got {wrong}; shift them.")
    if vocabulary * ids.shape[1] > LAWS:
        raise InputError(
            f"symbols x tokens must be at most {LAWS}, got {vocabulary} x {ids.shape[1]}; "
            "merge rare symbols, or choose fewer tokens."
        )


def _require_numbers(x: np.ndarray) -> None:
    if x.ndim != 3 or x.size == 0:
        raise InputError(f"data must have shape (rows, tokens, dim), got {x.shape}; reshape it.")
    if not bool(np.isfinite(x).all()):
        raise InputError("data must be finite, got NaN or infinity; drop or repair the rows.")


def _maximised(
    start: Callable[[torch.Generator], StateT],
    improve: Callable[[StateT], tuple[TargetT, float, StateT]],
    *,
    seed: int,
    starts: int,
) -> TargetT:
    """Expectation and maximisation from the best of some starts.

    A single start can lie near a saddle, for example that of independent tokens.

    Args:
        start: Draws a start.
        improve: One round: the model of a state, its log-likelihood per token, the next state.
        seed: Seed of the starts.
        starts: How many there are.
    """
    generator = torch.Generator().manual_seed(seed)
    best_state, best_gain = start(generator), -np.inf
    for attempt in range(starts if starts > 1 else 0):
        state = start(generator) if attempt else best_state
        for _ in range(WARM):
            _, gain, state = improve(state)
        if gain > best_gain:
            best_state, best_gain = state, gain
    before = -np.inf
    for _ in range(ROUNDS):
        model, gain, best_state = improve(best_state)
        if gain - before < CONVERGED:
            break
        before = gain
    return model


def _fitted(
    rows: np.ndarray,
    sizes: Sequence[int],
    fit: Callable[[np.ndarray, int], TargetT],
    baseline: Callable[[np.ndarray, np.ndarray], float],
    baseline_name: str,
) -> TargetT:
    """The size that predicts held-out rows best, fitted to all rows."""
    if len(rows) < LEAST:
        raise InputError(f"data must have at least {LEAST} rows to fit a law to, got {len(rows)}.")
    order = np.random.default_rng(0).permutation(len(rows))
    n = max(1, int(HELD_OUT * len(rows)))
    test, train = rows[order[:n]], rows[order[n:]]
    best_size, best, best_score = sizes[0], None, -np.inf
    for size in sizes:
        model = fit(train, size)
        score = _score(model, test)
        if best is None or score > best_score:
            best_size, best, best_score = size, model, score
    assert best is not None
    final = fit(rows, best_size)
    return final.with_provenance(
        description=f"{final.provenance.description}, fitted to {len(rows)} rows",
        exactness="fitted surrogate",
        held_out=HeldOut(
            rows=n,
            log_likelihood=best_score,
            in_sample=_score(best, train),
            baseline=baseline(train, test),
            baseline_name=baseline_name,
        ),
    )


def _score(model: Target, rows: np.ndarray) -> float:
    """Mean log-likelihood, nats per sequence."""
    return float(model.log_prob(torch.from_numpy(rows[:SCORED])).mean())


def _sizes(
    given: int | None, known: Sequence[int], rows: np.ndarray, *, least: int = 1
) -> Sequence[int]:
    """The size that was asked for, or those to choose from."""
    if given is None:
        return [size for size in known if size < max(len(rows) // 4, 2)] or [known[0]]
    if given < least or given > max(len(rows) // 2, least):
        raise InputError(
            f"size of the law must be between {least} and {max(len(rows) // 2, least)} for "
            f"{len(rows)} rows, got {given}."
        )
    return [given]


def _expectation_maximisation(
    rows: np.ndarray, size: int, covariance: str, seed: int
) -> FittedMixture:
    """A fitted scikit-learn mixture of rows that were scaled to unit variance."""
    if len(rows) < 2:
        raise InputError("data must have at least 3 rows to fit a mixture to, got 2.")
    scale = _scales(rows)
    model = FittedMixture(
        size, covariance_type=covariance, reg_covar=1e-4, max_iter=200, random_state=seed
    )
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        # Repeated rows can be fewer than the components; what that is worth, the score tells.
        fitted: Any = model.fit(rows.reshape(len(rows), -1) / scale)
    fitted.scale_ = scale
    return fitted


def _scales(rows: np.ndarray) -> np.ndarray:
    """(D,) standard deviations, 1 for a constant column."""
    deviation = rows.reshape(len(rows), -1).std(0)
    return np.where(deviation > 1e-12 * max(float(deviation.max()), 1e-300), deviation, 1.0)


def _independent_gaussians(train: np.ndarray, test: np.ndarray) -> float:
    """Held-out score of independent Gaussian tokens."""
    mean, scale = train.mean(0), _scales(train).reshape(train.shape[1:])
    law = DiagonalMixture(torch.tensor(mean[None]), torch.tensor(scale[None]))
    return _score(law, test)


def _independent_symbols(vocabulary: int) -> Callable[[np.ndarray, np.ndarray], float]:
    """Held-out score of independent tokens, their marginals smoothed by one count in all."""

    def score(train: np.ndarray, test: np.ndarray) -> float:
        return _score(CategoricalMixture(_marginals(train, vocabulary)[None]), test)

    return score


def _marginals(rows: np.ndarray, vocabulary: int) -> Tensor:
    return marginals(rows, np.ones(len(rows)), vocabulary)


def _laws(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)
