"""One suite that every target goes through, against references that share nothing with the code.

Each check is a function of a target and the law that it should be, and asserts. Each has a twin
further down that must fail: the same check with a law whose parameters are slightly different, or
with a target that is broken on purpose.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import corpora, sequences
from reference.gaussians import Gaussians, autoregressive
from reference.sequences import Sequences
from scipy import stats
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.laws import Categorical, DeferredCategorical, SideBySide, TokenLaw
from capcheck.noise.paths import PATHS, NoisePath, PathName
from capcheck.targets import (
    CategoricalMixture,
    CategoricalTarget,
    ContinuousTarget,
    DiagonalMixture,
    GaussianMixture,
    HiddenMarkov,
    MarkovChain,
    ProductMixture,
    Target,
    from_spec,
    from_table,
    uniform_over,
)
from capcheck.targets.from_data.fitted_categorical import fit_latent_class
from capcheck.targets.from_data.fitted_continuous import fit_diagonal_mixture, fit_gaussian_mixture

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Reference = Gaussians | Sequences

MASKS = 20  # random masks, and random level vectors, per case
DRAWS = 4000
TABLE = 20_000  # laws with at most so many sequences are summed over all of them
LEVELS = (1e-4, 1e-2, 0.5, 1.0)
BANDWIDTHS = (0.5, 2.0)


# The laws: parameters by numpy, once; the target and its reference are built from the same arrays.


def tensor(values: Any) -> Tensor:
    """A copy, so that no target can reach the reference's parameters."""
    return torch.tensor(np.asarray(values))


def simplex(seed: int, *shape: int) -> Array:
    """Random probabilities along the last axis."""
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def covariances(seed: int, count: int, size: int) -> Array:
    """Random symmetric positive definite matrices with eigenvalues in (0.2, 2)."""
    rng = np.random.default_rng(seed)
    turned = []
    for _ in range(count):
        Q = stats.ortho_group.rvs(size, random_state=rng) if size > 1 else np.ones((1, 1))
        turned.append((Q * rng.uniform(0.2, 2, size)) @ Q.T)
    return np.stack(turned)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def uniform(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).uniform(0.3, 1.2, size=shape)


def product(means: Array, scales: Array, weights: Any) -> tuple[ContinuousTarget, Gaussians]:
    make = ProductMixture if scales.ndim == 2 else DiagonalMixture
    target = make(tensor(means), tensor(scales), weights=tensor(weights))
    return target, Gaussians.product(means, scales, weights)


def full(means: Array, covariance: Array, weights: Any) -> tuple[ContinuousTarget, Gaussians]:
    target = GaussianMixture(tensor(means), tensor(covariance), weights=tensor(weights))
    return target, Gaussians(means, covariance, weights)


def seen_at(levels: Any, path: PathName, pair: tuple[ContinuousTarget, Gaussians]) -> Any:
    t = tensor(np.asarray(levels, dtype=np.float64))
    return pair[0].with_noise(t, PATHS[path]), pair[1].noisy(*amplitudes(t.numpy(), path))


def turned(seed: int, pair: tuple[ContinuousTarget, Gaussians]) -> Any:
    Q = stats.ortho_group.rvs(pair[1].N * pair[1].d, random_state=seed)
    return pair[0].transformed(tensor(Q)), pair[1].transformed(Q)


def permuted(pair: tuple[ContinuousTarget, Gaussians]) -> Any:
    """Tokens in another order, every other one with its sign changed."""
    D = pair[1].N * pair[1].d
    P = np.roll(np.eye(D), 1, axis=0) * (-1.0) ** np.arange(D)
    return pair[0].transformed(tensor(P)), pair[1].transformed(P)


def shared() -> tuple[ContinuousTarget, Gaussians]:
    return product(1.5 * normal(1, 4, 4, 1), uniform(2, 4, 1), [0.1, 0.4, 0.3, 0.2])


def varied() -> tuple[ContinuousTarget, Gaussians]:
    return product(1.5 * normal(3, 3, 4, 1), uniform(4, 3, 4, 1), [0.5, 0.2, 0.3])


def isotropic() -> tuple[ContinuousTarget, Gaussians]:
    return product(normal(5, 3, 3, 2), np.full((3, 2), 0.7), [0.2, 0.2, 0.6])


def correlated() -> tuple[ContinuousTarget, Gaussians]:
    return full(1.5 * normal(6, 3, 4, 1), covariances(7, 3, 4), [0.3, 0.3, 0.4])


def vectors() -> tuple[ContinuousTarget, Gaussians]:
    return full(1.5 * normal(8, 3, 3, 2), covariances(9, 3, 6), [0.2, 0.3, 0.5])


def chain() -> tuple[ContinuousTarget, Gaussians]:
    target = cast(ContinuousTarget, from_spec("gaussian:ar1,tokens=4,rho=0.9"))
    return target, autoregressive(4, 0.9)


def equal() -> tuple[ContinuousTarget, Gaussians]:
    target = cast(ContinuousTarget, from_spec("gaussian:equicorrelated,tokens=3,std=2,rho=-0.3"))
    return target, Gaussians(np.zeros((1, 3, 1)), 4 * (1.3 * np.eye(3) - 0.3)[None])


def two_modes() -> tuple[ContinuousTarget, Gaussians]:
    target = cast(ContinuousTarget, from_spec("modes:tokens=4,modes=2,gap=4"))
    return target, Gaussians.product([[[-2.0]] * 4, [[2.0]] * 4], np.ones((4, 1)))


def fitted_rows() -> Array:
    """Sixty rows of three tokens in two clusters."""
    rows: Array = normal(53, 60, 3, 1) + normal(54, 60, 1, 1)
    rows[:20] += 4
    return rows


def fitted_gaussians(components: int) -> tuple[ContinuousTarget, Gaussians]:
    target = fit_gaussian_mixture(fitted_rows(), components)
    means, C, w = (p.numpy().copy() for p in (target.means, target.covariances, target.weights))
    return target, Gaussians(means, C, w)


def fitted_diagonal() -> tuple[ContinuousTarget, Gaussians]:
    target = fit_diagonal_mixture(fitted_rows(), 3)
    means, scales, w = (p.numpy().copy() for p in (target.means, target.scales, target.weights))
    return target, Gaussians.product(means, scales, w)


CONTINUOUS: dict[str, Callable[[], tuple[ContinuousTarget, Gaussians]]] = {
    "product mixture, shared scales": shared,
    "diagonal mixture": varied,
    "product mixture, vectors": lambda: product(
        normal(10, 3, 3, 2), uniform(11, 3, 2), [0.5, 0.2, 0.3]
    ),
    "diagonal mixture, vectors": lambda: product(
        normal(12, 3, 3, 2), uniform(13, 3, 3, 2), [0.5, 0.2, 0.3]
    ),
    "product mixture, one component": lambda: product(
        normal(14, 1, 3, 1), uniform(15, 3, 1), [1.0]
    ),
    "product mixture, one token": lambda: product(
        2 * normal(16, 3, 1, 1), uniform(17, 1, 1), [0.2, 0.3, 0.5]
    ),
    "modes": two_modes,
    "gaussian, autoregressive": chain,
    "gaussian, equicorrelated": equal,
    "one full gaussian": lambda: full(normal(18, 1, 4, 1), covariances(19, 1, 4), [1.0]),
    "full gaussians, one vector": lambda: full(
        2 * normal(20, 2, 1, 2), covariances(21, 2, 2), [0.4, 0.6]
    ),
    "full gaussians": correlated,
    "full gaussians, vectors": vectors,
    "gaussian mixture, fitted": lambda: fitted_gaussians(2),
    "diagonal mixture, fitted": fitted_diagonal,
    "diagonal mixture, permuted": lambda: permuted(varied()),
    "product mixture, noisy": lambda: seen_at([0.3, 0, 0.05, 1], "linear", shared()),
    "diagonal mixture, noisy": lambda: seen_at([0.2, 0.9, 0.5, 1e-3], "cosine", varied()),
    "gaussian, autoregressive, noisy": lambda: seen_at([0, 0.1, 0.4, 0.9], "linear", chain()),
    "full gaussians, noisy": lambda: seen_at([0.7, 0.1, 1, 0], "cosine", correlated()),
    "full gaussians, vectors, noisy": lambda: seen_at([0.5, 0.02, 0.3], "linear", vectors()),
    "product mixture, turned": lambda: turned(22, isotropic()),
    "gaussian, autoregressive, turned": lambda: turned(23, chain()),
    "full gaussians, turned": lambda: turned(24, correlated()),
    "full gaussians, vectors, turned": lambda: turned(25, vectors()),
    "full gaussians, noisy, turned": lambda: turned(
        26, seen_at([0.7, 0.1, 1, 0], "cosine", correlated())
    ),
    "full gaussians, turned, noisy": lambda: seen_at(
        [0.2, 0, 0.6], "linear", turned(27, vectors())
    ),
}


def dense() -> tuple[CategoricalTarget, Sequences]:
    p, w = simplex(30, 4, 5, 3), simplex(31, 4)
    return CategoricalMixture(tensor(p), weights=tensor(w)), sequences.product_mixture(p, w)


def sparse() -> tuple[CategoricalTarget, Sequences]:
    p, w = simplex(32, 3, 4, 3), np.array([0.5, 0.2, 0.3])
    p[0, :, 0], p[1, 1:, 1], p[2, 2] = 0, 0, [0, 0, 1]
    p /= p.sum(-1, keepdims=True)
    return CategoricalMixture(tensor(p), weights=tensor(w)), sequences.product_mixture(p, w)


def fitted_classes() -> tuple[CategoricalTarget, Sequences]:
    ids = np.random.default_rng(55).integers(0, 3, size=(30, 4))
    ids[:20] = ids[:20, :1]
    target = fit_latent_class(ids, 2, vocabulary=3)
    p, w = target._components.parameters[0].numpy().copy(), target.weights.numpy().copy()
    return target, sequences.product_mixture(p, w)


def rows(smoothing: float, weights: Array | None) -> tuple[CategoricalTarget, Sequences]:
    drawn = np.random.default_rng(33).integers(0, 3, size=(12, 5))
    distinct = np.unique(drawn, axis=0)
    w = None if weights is None else weights[: len(distinct)]
    target = CategoricalMixture.of_rows(
        tensor(distinct),
        vocabulary=4,  # symbol 3 never occurs
        smoothing=smoothing,
        weights=None if w is None else tensor(w),
    )
    return target, sequences.smoothed_rows(distinct, 4, smoothing, w)


def hidden(*, steps: bool, tokens: int = 4, zeros: bool = False) -> Any:
    a, A, B = simplex(34, 3), simplex(35, 3, 3), simplex(36, 3, 3)
    if steps:
        A, B = simplex(37, tokens - 1, 3, 3), simplex(38, tokens, 3, 3)
    if zeros:  # left to right, and every state has a symbol that it never emits
        A, a = np.triu(A), np.array([0.7, 0.3, 0])
        B[..., 0, 2] = B[..., 1, 0] = B[..., 2, 1] = 0
        A, B = A / A.sum(-1, keepdims=True), B / B.sum(-1, keepdims=True)
    target = HiddenMarkov(tensor(a), transition=tensor(A), emission=tensor(B), tokens=tokens)
    return target, sequences.hidden_markov(a, A, B, tokens)


def potentials(*, steps: bool) -> tuple[CategoricalTarget, Sequences]:
    rng = np.random.default_rng(39)
    a = rng.uniform(0, 3, size=3)
    A = rng.uniform(0, 2, size=(3, 3, 3) if steps else (3, 3))
    B = rng.uniform(0, 5, size=(4, 3, 2) if steps else (3, 2))
    A[..., 0, 1] = 0
    B[..., 2, 0] = 0
    target = HiddenMarkov.from_potentials(
        tensor(a), transition=tensor(A), emission=tensor(B), tokens=4
    )
    return target, sequences.hidden_markov(a, A, B, 4)


def markov(order: int, *, tokens: int = 5, zeros: bool = False) -> Any:
    tables = [simplex(40 + m, *[3] * (m + 1)) for m in range(order + 1)]
    if zeros:
        tables[-1][..., 0, 1] = 0
        tables[-1] /= tables[-1].sum(-1, keepdims=True)
    target = MarkovChain([tensor(table) for table in tables], tokens=tokens)
    return target, sequences.markov(tables, tokens)


def table() -> tuple[CategoricalTarget, Sequences]:
    joint = np.random.default_rng(52).uniform(0, 2, size=(3, 3, 3, 3))
    joint[1], joint[:, 0, 2] = 0, 0
    listed = {x: float(joint[x]) for x in sequences.every(4, 3)}
    return from_table(tensor(joint)), Sequences(listed, 3)


def has_running_parity(x: sequences.Symbols) -> bool:
    return all(x[2 * i + 1] == sum(x[0 : 2 * i + 1 : 2]) % 2 for i in range(len(x) // 2))


def weighted_set() -> tuple[CategoricalTarget, Sequences]:
    listed = np.random.default_rng(56).integers(0, 3, size=(9, 4))
    listed[5:] = listed[:4]  # listed twice: their weights are added
    w = np.random.default_rng(57).uniform(0.2, 3, size=9)
    target = uniform_over(tensor(listed), vocabulary=3, description="set", weights=tensor(w))
    masses: dict[sequences.Symbols, float] = {}
    for row, weight in zip(listed.tolist(), w, strict=True):
        masses[tuple(row)] = masses.get(tuple(row), 0.0) + float(weight)
    return target, Sequences(masses, 3)


def named(spec: str, reference: Callable[[], Sequences], *, package: str | None = None) -> Any:
    def both() -> Any:
        if package is not None:
            pytest.importorskip(package, reason=f"{package} is not installed")
        return from_spec(spec), reference()

    return both


def valid(rule: Callable[[sequences.Symbols], bool], N: int, V: int) -> Callable[[], Sequences]:
    return partial(sequences.constrained, rule, N, V)


CATEGORICAL: dict[str, Callable[[], tuple[CategoricalTarget, Sequences]]] = {
    "mixture of categoricals": dense,
    "mixture of categoricals with zeros": sparse,
    "latent classes, fitted": fitted_classes,
    "smoothed rows": lambda: rows(0.2, None),
    "smoothed weighted rows": lambda: rows(0.05, simplex(50, 12)),
    "explicit table": lambda: rows(0.0, None),
    "explicit weighted table": lambda: rows(0.0, simplex(51, 12)),
    "joint table": table,
    "hidden markov": lambda: hidden(steps=False),
    "hidden markov, inhomogeneous": lambda: hidden(steps=True),
    "hidden markov with zeros": lambda: hidden(steps=False, zeros=True),
    "hidden markov, inhomogeneous, with zeros": lambda: hidden(steps=True, zeros=True),
    "hidden markov, one token": lambda: hidden(steps=False, tokens=1),
    "potentials": lambda: potentials(steps=False),
    "potentials, inhomogeneous": lambda: potentials(steps=True),
    "independent tokens": lambda: markov(0),
    "markov, order 1": lambda: markov(1),
    "markov, order 2": lambda: markov(2),
    "markov, order 3": lambda: markov(3),
    "markov, order 1, with zeros": lambda: markov(1, zeros=True),
    "markov, order 2, with zeros": lambda: markov(2, zeros=True),
    "weighted set": weighted_set,
    "weighted parity": named(
        "parity:5,ones=0.3",
        lambda: sequences.weighed(
            lambda x: 0.3 ** sum(x) * 0.7 ** (5 - sum(x)) * sequences.has_even_parity(x), 5, 2
        ),
    ),
    "scratchpad": named("chain-parity:3", valid(has_running_parity, 6, 2)),
    "no scratchpad": named("chain-parity:4,scratch=no", valid(sequences.has_even_parity, 5, 2)),
    "copy": named("copy:tokens=5,symbols=3", valid(sequences.is_one_symbol, 5, 3)),
    "parity": named("parity:6", valid(sequences.has_even_parity, 6, 2)),
    "shuffle": named("shuffle:symbols=4", valid(sequences.is_permutation, 4, 4)),
    "replacement": named("replacement:tokens=5", valid(sequences.has_one_one, 5, 2)),
    "latin": named("latin:3", valid(sequences.is_latin_square, 9, 3)),
    "sudoku": named("sudoku", sequences.sudoku),
    "brackets": named("brackets:6", valid(sequences.is_balanced, 6, 2)),
    "ising": named(
        "ising:rows=3,columns=3,coupling=0.4,field=0.1", partial(sequences.ising, 3, 3, 0.4, 0.1)
    ),
    "ising, tall": named(
        "ising:rows=4,columns=2,coupling=-0.7,field=-0.3",
        partial(sequences.ising, 4, 2, -0.7, -0.3),
    ),
    "letters": named("letters:tokens=2,order=1", corpora.letter_pairs, package="wordsegment"),
    "words": named(
        "words:tokens=4,words=4", partial(corpora.word_chain, 4, 4), package="wordsegment"
    ),
    "names": named("names:names=4", partial(corpora.likeliest_names, 4), package="names"),
    "binding site": named(
        "dna:matrix=4",
        lambda: sequences.product_mixture(corpora.binding_site("MA0004.1", 0.5)[None], np.ones(1)),
        package="pyjaspar",
    ),
}

CASES: dict[str, Callable[[], tuple[Target, Reference]]] = {**CONTINUOUS, **CATEGORICAL}

every = pytest.mark.parametrize("case", CASES)
continuous = pytest.mark.parametrize("case", CONTINUOUS)
categorical = pytest.mark.parametrize("case", CATEGORICAL)


@cache
def pair(case: str) -> tuple[Target, Reference]:
    return CASES[case]()


def continuous_pair(case: str) -> tuple[ContinuousTarget, Gaussians]:
    target, reference = pair(case)
    assert isinstance(target, ContinuousTarget)
    assert isinstance(reference, Gaussians)
    return target, reference


def categorical_pair(case: str) -> tuple[CategoricalTarget, Sequences]:
    target, reference = pair(case)
    assert isinstance(target, CategoricalTarget)
    assert isinstance(reference, Sequences)
    return target, reference


def amplitudes(t: Array, path: PathName) -> tuple[Array, Array]:
    """Alpha and sigma by their definitions, exact at the ends."""
    if path == "linear":
        return 1 - t, t
    alpha = np.where(t == 1, 0, np.cos(np.pi * t / 2))
    return alpha, np.where(t == 0, 0, np.sin(np.pi * t / 2))


# What the targets are shown.


def level_vectors(n: int, tokens: int, seed: int, low: float = 1e-4) -> Array:
    """Log-uniform levels mixed with exact 0 and 1; all known and all unseen come first."""
    rng = np.random.default_rng(seed)
    t = np.exp(rng.uniform(np.log(low), 0, size=(n, tokens)))
    kind = rng.choice(3, p=[0.6, 0.2, 0.2], size=(n, tokens))
    t = np.where(kind == 1, 0.0, np.where(kind == 2, 1.0, t))
    t[0], t[1] = 0, 1
    return t


def views(reference: Gaussians, t: Array, path: PathName, seed: int) -> Array:
    """Noisy tokens: of draws of the law, every fourth row anywhere; nonsense at level 1."""
    rng = np.random.default_rng(seed)
    alpha, sigma = amplitudes(t, path)
    clean = reference.draw(len(t), rng)
    clean[::4] = rng.normal(scale=3, size=clean[::4].shape)
    noisy = alpha[..., None] * clean + sigma[..., None] * rng.normal(size=clean.shape)
    return np.where(t[..., None] == 1, 1e3, noisy)


def strings(reference: Sequences, n: int, seed: int) -> Integers:
    """Draws of the law; every other row is any string, most of them off a sparse support."""
    rng = np.random.default_rng(seed)
    x = reference.draw(n, rng)
    x[1::2] = rng.integers(0, reference.vocabulary, size=x[1::2].shape)
    return x


def masks(n: int, tokens: int, seed: int) -> NDArray[np.bool_]:
    """Known tokens; nothing known and all known (on and off the support) come first."""
    rng = np.random.default_rng(seed)
    known = rng.uniform(size=(n, tokens)) < rng.uniform(size=(n, 1))
    known[:2], known[2:4] = False, True
    return known


def shown(reference: Reference, n: int, seed: int = 60) -> tuple[Tensor, Tensor]:
    """Some x and levels (n, N) that fit the law's kind."""
    if isinstance(reference, Gaussians):
        t = level_vectors(n, reference.N, seed, low=0.05)
        return tensor(views(reference, t, "linear", seed + 1)), tensor(t)
    known = masks(n, reference.tokens, seed)
    return tensor(strings(reference, n, seed + 1)), tensor(1.0 - known)


def draws(reference: Reference, n: int, seed: int = 70) -> Tensor:
    return tensor(reference.draw(n, np.random.default_rng(seed)))


def close(found: Any, expected: Any, *, rtol: float = 1e-8, atol: float = 1e-9) -> None:
    assert not np.isnan(np.asarray(expected)).any(), "two NaN would pass for equal"
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=atol)


# The checks.


def check_log_prob(target: Target, reference: Reference) -> None:
    """The density is the reference's at draws and anywhere; a categorical law sums to 1."""
    if isinstance(reference, Gaussians):
        rng = np.random.default_rng(80)
        anywhere = rng.normal(scale=4, size=(30, reference.N, reference.d))
        x = np.concatenate([reference.draw(30, rng), anywhere])
        close(target.log_prob(tensor(x)), [reference.log_prob(row) for row in x])
        return
    V, N = reference.vocabulary, reference.tokens
    if V**N <= TABLE:
        x = np.array(list(itertools.product(range(V), repeat=N)))
    else:
        x = np.concatenate([reference.states, strings(reference, 500, 81)])
        x = np.unique(x, axis=0)
    found = target.log_prob(tensor(x))
    close(found, [reference.log_prob(row) for row in x], rtol=0, atol=1e-10)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-10)


def check_integral(target: ContinuousTarget, reference: Gaussians) -> None:
    """The density integrates to 1: trapezoids are exact to exp(-2 pi^2 s^2 / step^2)."""
    step, reach = 0.1, 12.0
    line = torch.arange(-reach, reach, step, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * (reference.N * reference.d))
    p = target.log_prob(grid.reshape(-1, reference.N, reference.d)).exp()
    assert float(p.sum()) * step ** (reference.N * reference.d) == pytest.approx(1, abs=1e-10)


def check_marginals(target: Target, reference: Reference) -> None:
    """Every conditional law of a token, of both kinds of sight."""
    if isinstance(reference, Sequences):
        for causal in (False, True):
            _check_probabilities(target, reference, causal)
        return
    for path, causal in itertools.product(PATHS, (False, True)):
        _check_token_laws(target, reference, path, causal)


def _check_probabilities(target: Target, reference: Sequences, causal: bool) -> None:
    x, known = strings(reference, MASKS, 82), masks(MASKS, reference.tokens, 83)
    law = target.marginals(tensor(x), tensor(1.0 - known), causal=causal)
    assert isinstance(law, Categorical | DeferredCategorical | SideBySide)
    expected = np.stack(
        [reference.marginals(*row, causal) for row in zip(x, known, strict=True)]
    )  # (n, N, V)
    found = law.log_probabilities.numpy()
    close(np.exp(found), expected, rtol=0, atol=1e-10)
    assert (found[expected == 0] == -np.inf).all(), "what cannot be has probability exactly 0"
    some = expected > 0
    close(found[some], np.log(expected[some]), rtol=0, atol=1e-9)


def _check_token_laws(target: Target, reference: Gaussians, path: PathName, causal: bool) -> None:
    t = level_vectors(MASKS, reference.N, 84)
    x = views(reference, t, path, 85)
    alpha, sigma = amplitudes(t, path)
    law = target.marginals(tensor(x), tensor(t), PATHS[path], causal)
    scores = np.random.default_rng(86).normal(size=(3, reference.d))
    value = np.empty((3, *x.shape))
    means, variances = np.empty_like(x), np.empty_like(x)
    densities, below = np.empty((3, *t.shape)), np.empty((3, *t.shape))
    for r, i in np.ndindex(*t.shape):
        seen = [j for j in range(reference.N) if t[r, j] < 1 and (not causal or j < i)]
        if t[r, i] == 0 and not causal:
            means[r, i], variances[r, i], value[:, r, i] = x[r, i], 0, x[r, i]
            continue
        token = reference.clean(i, x[r], alpha[r], sigma[r], seen)
        means[r, i], variances[r, i] = token.mean(), token.variance()
        value[:, r, i] = means[r, i] + scores * np.sqrt(variances[r, i])
        densities[:, r, i] = token.log_prob(value[:, r, i])
        if reference.d == 1:
            below[:, r, i] = token.cdf(value[:, r, i, 0])
    close(law.mean(), means)
    close(law.variance(), variances, atol=1e-12)
    open_ = (t > 0) | causal  # the others are point masses, see `check_atoms`
    for v, density, probability in zip(value, densities, below, strict=True):
        close(law.log_prob(tensor(v)).numpy()[open_], density[open_])
        if reference.d == 1:
            close(law.cdf(tensor(v)).numpy()[open_], probability[open_])


def check_conditionals(target: Target, reference: Reference) -> None:
    """The marginals are the conditionals of the target's own density, by Bayes' rule alone.

    Of categorical tokens by sums over all sequences, whatever is known. Of numbers with all other
    tokens known, p(x_i | rest) / p(y_i | rest) = p(x) / p(y) for x and y that differ in token i.
    """
    if isinstance(reference, Sequences):
        V, N = reference.vocabulary, reference.tokens
        every_one = reference.states  # nothing else has a density, see `check_log_prob`
        if V**N <= TABLE:
            every_one = np.array(list(itertools.product(range(V), repeat=N)))
        listed = zip(every_one, target.log_prob(tensor(every_one)).exp().tolist(), strict=True)
        own = Sequences({tuple(x.tolist()): p for x, p in listed}, V)
        for causal in (False, True):
            _check_probabilities(target, own, causal)
        return
    rng = np.random.default_rng(107)
    x, i = reference.draw(30, rng), rng.integers(reference.N, size=30)
    y, rows = x.copy(), np.arange(30)
    y[rows, i] += rng.normal(size=(30, reference.d))
    levels = np.zeros((30, reference.N))
    levels[rows, i] = 1
    law = target.marginals(tensor(x), tensor(levels))
    ratio = (law.log_prob(tensor(x)) - law.log_prob(tensor(y)))[rows, i]
    close(ratio, target.log_prob(tensor(x)) - target.log_prob(tensor(y)))
    in_order = target.marginals(tensor(x), tensor(np.zeros_like(levels)), causal=True)
    close(in_order.log_prob(tensor(x)).sum(1), target.log_prob(tensor(x)))


def check_atoms(target: Target, reference: Reference) -> None:
    """The law of a known token is the point mass at its value, to the last digit."""
    x, t = shown(reference, MASKS)
    law, known = target.marginals(x, t), t == 0
    assert torch.equal(law.sample(CounterRandomness(89))[known], x[known])
    assert bool((law.variance()[known] < 1e-27).all())  # the mean of the component means rounds
    certain = torch.inf if isinstance(reference, Gaussians) else 0.0
    assert bool((law.log_prob(x)[known] == certain).all())
    other = x + 1 if isinstance(reference, Gaussians) else (x + 1) % reference.vocabulary
    assert bool((law.log_prob(other)[known] == -torch.inf).all())


def check_moments(target: Target, reference: Reference) -> None:
    """Spec: sizes, kind, mean and variance."""
    spec = target.spec
    if isinstance(reference, Gaussians):
        shape = ("continuous", reference.N, reference.d)
    else:
        shape = ("categorical", reference.tokens, reference.vocabulary)
    assert (spec.kind, spec.tokens, spec.dim) == shape
    close(spec.mean, reference.mean(), atol=1e-12)
    close(spec.variance, reference.variance(), atol=1e-12)


def check_samples(target: Target, reference: Reference) -> None:
    """Draws follow the law: chi-square on sequences, or Rosenblatt's transform."""
    x = target.sample(DRAWS, CounterRandomness(90))
    if isinstance(reference, Gaussians):
        assert tuple(x.shape) == (DRAWS, reference.N, reference.d)
        check_uniform(reference.rosenblatt(x.numpy()))
        return
    assert tuple(x.shape) == (DRAWS, reference.tokens)
    assert x.dtype == torch.int64
    place = {tuple(state): k for k, state in enumerate(reference.states.tolist())}
    counts = np.zeros(len(place))
    for row in x.tolist():
        assert tuple(row) in place, f"{row} has probability 0"
        counts[place[tuple(row)]] += 1
    check_counts(counts, DRAWS * reference.probabilities)


def check_counts(counts: Array, expected: Array) -> None:
    """Pearson's chi-square; the rarest cells are merged until each expects at least 5."""
    order = np.argsort(expected)
    seen, hoped = counts[order], expected[order]
    merged = int(np.searchsorted(hoped, 5))
    while 0 < merged < len(hoped) and hoped[:merged].sum() < 5:
        merged += 1
    if merged:
        seen = np.append(seen[merged:], seen[:merged].sum())
        hoped = np.append(hoped[merged:], hoped[:merged].sum())
    assert len(hoped) > 1, "one cell tests nothing"
    assert stats.chisquare(seen, hoped).pvalue > 1e-4


def check_uniform(u: Array) -> None:
    """Columns uniform on (0, 1) by Kolmogorov and Smirnov, independent in pairs on a 5 x 5 grid.

    The smallest of the m p-values is compared with 1e-4 / m, so that one call fails by chance once
    in 10,000 times.
    """
    p = [stats.kstest(column, "uniform").pvalue for column in u.T]
    for a, b in itertools.combinations(u.T, 2):
        counts = np.histogram2d(a, b, bins=5, range=[[0, 1], [0, 1]])[0].reshape(-1)
        p.append(stats.chisquare(counts, np.full(25, len(u) / 25)).pvalue)
    assert min(p) > 1e-4 / len(p), p


def check_rosenblatt(target: Target, x: Tensor) -> None:
    """The target's own causal laws turn x into uniforms; tokens of dimension 1."""
    law = target.marginals(x, torch.zeros(x.shape[:2]), causal=True)
    check_uniform(law.cdf(x).numpy())


def check_denoiser(target: ContinuousTarget, reference: Gaussians) -> None:
    """The posterior mean; causal: token i sees tokens up to and including itself."""
    for path, causal in itertools.product(PATHS, (False, True)):
        t = level_vectors(MASKS, reference.N, 91)
        x = views(reference, t, path, 92)
        alpha, sigma = amplitudes(t, path)
        expected = np.empty_like(x)
        for r, i in np.ndindex(*t.shape):
            last = i if causal else reference.N - 1
            seen = [j for j in range(last + 1) if t[r, j] < 1]
            expected[r, i] = reference.denoised(i, x[r], alpha[r], sigma[r], seen)
        found = target.denoise(tensor(x), tensor(t), PATHS[path], causal=causal)
        close(found, expected)


def check_score(target: ContinuousTarget, reference: Gaussians) -> None:
    """E[x_0 | x_t] = (x_t + sigma^2 grad log p_t(x_t)) / alpha, by central differences."""
    step = 1e-5
    for path in PATHS:
        t = np.random.default_rng(93).choice([0.15, 0.4, 0.75], size=reference.N)
        t[-1] = 0 if reference.N > 2 else t[-1]  # a known token: sigma = 0
        alpha, sigma = (a[:, None] for a in amplitudes(t, path))
        x = views(reference, np.tile(t, (5, 1)), path, 94)
        noisy = target.with_noise(tensor(t), PATHS[path])
        score = np.empty_like(x)
        for i, k in np.ndindex(reference.N, reference.d):
            e = np.zeros_like(x)
            e[:, i, k] = step
            ahead, behind = (noisy.log_prob(tensor(y)).numpy() for y in (x + e, x - e))
            score[:, i, k] = (ahead - behind) / (2 * step)
        found = target.denoise(tensor(x), tensor(np.tile(t, (5, 1))), PATHS[path])
        close(found, (x + sigma**2 * score) / alpha, rtol=1e-6, atol=1e-6)


def check_noise(target: ContinuousTarget, reference: Gaussians) -> None:
    """The law of the noisy tokens, at equal and at different levels, and its conditionals."""
    rng = np.random.default_rng(95)
    vectors = [np.full(reference.N, level) for level in LEVELS]
    vectors += [rng.choice([0.0, *LEVELS], size=reference.N) for _ in range(3)]
    for path, t in itertools.product(PATHS, vectors):
        noisy = target.with_noise(tensor(t), PATHS[path])
        law = reference.noisy(*amplitudes(t, path))
        x = np.concatenate([law.draw(4, rng), 3 * rng.normal(size=(4, law.N, law.d))])
        close(noisy.log_prob(tensor(x)), [law.log_prob(row) for row in x])
        check_moments(noisy, law)


def check_kernels(target: Target, reference: Reference) -> None:
    """E k(x, Y) at draws and anywhere, and E k(Y, Y')."""
    x: Any
    if isinstance(reference, Gaussians):
        rng = np.random.default_rng(96)
        anywhere = 3 * rng.normal(size=(5, reference.N, reference.d))
        x = np.concatenate([reference.draw(5, rng), anywhere])
    else:
        x = strings(reference, 10, 97)
    for h in BANDWIDTHS:
        expected = [reference.kernel_mean(row, h) for row in x]
        close(target.kernel_mean(tensor(x), h), expected, atol=1e-14)
        own = target.kernel_self_mean(h)
        assert own is not None, "a law this small can be summed"
        assert own == pytest.approx(reference.kernel_self_mean(h), rel=1e-8)


def answers(target: Target, x: Tensor, t: Tensor, rows: slice = slice(None)) -> list[Tensor]:
    """Everything that a target says about rows of x at levels t."""
    x, t = x[rows], t[rows]
    laws = [target.marginals(x, t, causal=causal) for causal in (False, True)]
    found = [f for law in laws for f in (law.mean(), law.variance())]
    seen = torch.where((t == 1).reshape(t.shape + (1,) * (x.dim() - 2)), torch.zeros_like(x), x)
    found += [target.log_prob(seen), target.kernel_mean(seen, 1.0)]
    if isinstance(target, ContinuousTarget):
        for causal in (False, True):
            found.append(target.denoise(x, t, PATHS["linear"], causal=causal))
    return found


def check_rows(target: Target, reference: Reference) -> None:
    """A row's answers do not depend on the rows beside it, nor a draw on the batch."""
    x, t = shown(reference, 12)
    for equal in (False, True):  # levels that all rows share may take another route
        if equal:
            x, t = draws(reference, 12), t[5:6].expand(12, -1).clone()
        for a, b in zip(answers(target, x, t), answers(target, x, t, slice(3, 5)), strict=True):
            close(a[3:5], b, rtol=1e-11, atol=1e-12)
    late = target.sample(6, CounterRandomness(98, first_row=4))
    assert torch.equal(target.sample(10, CounterRandomness(98))[4:], late)


def check_inputs(target: Target, reference: Reference) -> None:
    """Nothing is written into what is passed, and no global generator is drawn from."""
    x, t = shown(reference, 8)
    before, state = (x.clone(), t.clone()), torch.random.get_rng_state()
    answers(target, x, t)
    target.sample(3, CounterRandomness(99))
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], t)
    assert torch.equal(state, torch.random.get_rng_state())


def check_unseen(target: Target, reference: Reference) -> None:
    """What stands at level 1 is ignored."""
    x, t = shown(reference, 20)
    garbage: list[float] = [torch.nan, torch.inf, -1e300]
    if isinstance(reference, Sequences):
        garbage = [-1, reference.vocabulary, 10**9]
    unseen = (t == 1).reshape(t.shape + (1,) * (x.dim() - 2)).expand_as(x)
    for causal in (False, True):
        expected = target.marginals(torch.where(unseen, 0, x), t, causal=causal)
        for value in garbage:
            law = target.marginals(torch.where(unseen, value, x).to(x.dtype), t, causal=causal)
            close(law.mean(), expected.mean(), rtol=0, atol=0)


def check_causality(target: Target, reference: Reference) -> None:
    """Token i's causal law does not move with the tokens from i on; its denoiser, after i."""
    x, t = shown(reference, 20)
    rng = np.random.default_rng(100)
    for i in range(target.spec.tokens):
        moved = x.clone()
        if isinstance(reference, Gaussians):
            moved[:, i:] = 1e12 * tensor(rng.choice([-1.0, 1.0], size=moved[:, i:].shape))
        else:
            moved[:, i:] = tensor(rng.integers(0, reference.vocabulary, moved[:, i:].shape))
        plain, other = (target.marginals(y, t, causal=True) for y in (x, moved))
        close(other.mean()[:, : i + 1], plain.mean()[:, : i + 1], rtol=1e-12, atol=1e-12)
        close(other.variance()[:, : i + 1], plain.variance()[:, : i + 1], rtol=1e-12, atol=1e-12)
        if isinstance(target, ContinuousTarget):
            moved[:, i] = x[:, i]
            a, b = (target.denoise(y, t, PATHS["linear"], causal=True) for y in (x, moved))
            close(b[:, : i + 1], a[:, : i + 1], rtol=1e-12, atol=1e-12)


def check_precision(target: Target, reference: Reference) -> None:
    """float32 is the same law to about its digits, and says so."""
    single = target.to(device="cpu", dtype=torch.float32)
    assert (target.dtype, single.dtype) == (torch.float64, torch.float32)
    x, t = shown(reference, 20)
    if isinstance(reference, Gaussians):
        x, t = draws(reference, 20), torch.where(t == 1, 1.0, (10 * t).round() / 10)
    fitted = x if isinstance(reference, Sequences) else x.float()
    pairs = zip(answers(target, x, t), answers(single, fitted, t.float()), strict=True)
    for wide, narrow in pairs:
        assert narrow.dtype == torch.float32
        close(narrow, wide, rtol=3e-4, atol=3e-4)
    back = single.to(device="cpu", dtype=torch.float64)
    close(back.log_prob(draws(reference, 20)), target.log_prob(draws(reference, 20)), atol=1e-4)


# Every target.


@every
def test_log_prob_is_the_law_and_sums_to_one(case: str) -> None:
    check_log_prob(*pair(case))


@pytest.mark.parametrize("case", ["product mixture, one token", "full gaussians, one vector"])
def test_a_density_integrates_to_one(case: str) -> None:
    check_integral(*continuous_pair(case))


@every
def test_marginals_given_anything_agree_with_the_reference(case: str) -> None:
    check_marginals(*pair(case))


@every
def test_marginals_are_the_conditionals_of_the_density(case: str) -> None:
    check_conditionals(*pair(case))


@every
def test_the_law_of_a_known_token_is_a_point_mass_at_its_value(case: str) -> None:
    check_atoms(*pair(case))


@every
def test_moments_of_the_spec_agree_with_the_reference(case: str) -> None:
    check_moments(*pair(case))


@every
def test_samples_follow_the_law(case: str) -> None:
    check_samples(*pair(case))


@continuous
def test_causal_laws_turn_samples_into_uniforms(case: str) -> None:
    target, reference = continuous_pair(case)
    if reference.d > 1:
        with pytest.raises(InputError, match="dimension 1"):
            check_rosenblatt(target, draws(reference, 5))
        return
    check_rosenblatt(target, target.sample(DRAWS, CounterRandomness(101)))


@every
def test_draws_of_a_conditional_law_follow_it(case: str) -> None:
    target, reference = pair(case)
    x, t = shown(reference, 6)
    x, t = x[5:].expand(DRAWS, *x.shape[1:]), t[5:].expand(DRAWS, -1)
    for causal in (False, True):
        law = target.marginals(x, t, causal=causal)
        y = law.sample(CounterRandomness(102))
        one_hot = torch.eye(target.spec.dim, dtype=torch.float64)
        found = one_hot[y] if isinstance(reference, Sequences) else y
        deviation, error = found.mean(0) - law.mean()[0], (law.variance()[0] / DRAWS).sqrt()
        assert bool((deviation.abs() <= 4.5 * error + 5 / DRAWS).all())
        if isinstance(reference, Gaussians) and reference.d == 1:
            for column in law.cdf(y)[:, (t[0] > 0) | causal].T:
                assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-4


@continuous
def test_the_denoiser_is_the_posterior_mean(case: str) -> None:
    check_denoiser(*continuous_pair(case))


@continuous
def test_the_denoiser_is_tweedies_formula(case: str) -> None:
    check_score(*continuous_pair(case))


@continuous
def test_the_law_of_noisy_tokens_agrees_with_the_reference(case: str) -> None:
    check_noise(*continuous_pair(case))


@every
def test_kernel_means_agree_with_the_reference(case: str) -> None:
    check_kernels(*pair(case))


@every
def test_rows_do_not_depend_on_their_batch(case: str) -> None:
    check_rows(*pair(case))


@every
def test_inputs_are_never_written_into(case: str) -> None:
    check_inputs(*pair(case))


@every
def test_what_stands_at_an_unseen_token_may_be_anything(case: str) -> None:
    check_unseen(*pair(case))


@every
def test_causal_answers_ignore_later_tokens(case: str) -> None:
    check_causality(*pair(case))


@every
def test_single_precision_is_the_same_law(case: str) -> None:
    check_precision(*pair(case))


@every
def test_selected_tokens_have_the_same_laws(case: str) -> None:
    target, reference = pair(case)
    x, t = shown(reference, 8)
    chosen = [target.spec.tokens - 1, 0]
    for causal in (False, True):
        law = target.marginals(x, t, causal=causal)
        some = law.select(chosen)
        close(some.mean(), law.mean()[:, chosen], atol=1e-12)
        close(some.variance(), law.variance()[:, chosen], atol=1e-12)
        close(some.log_prob(x[:, chosen]), law.log_prob(x)[:, chosen], atol=1e-10)


@every
def test_equal_laws_have_equal_fingerprints(case: str) -> None:
    target, again = pair(case)[0], CASES[case]()[0]
    assert target is not again
    assert target.fingerprint == again.fingerprint
    assert target.fingerprint == target.to(device="cpu", dtype=torch.float64).fingerprint


def test_different_laws_have_different_fingerprints() -> None:
    prints = {case: pair(case)[0].fingerprint for case in CASES}
    assert len(set(prints.values())) == len(CASES), prints


# What only some targets do.


def nearly(value: float) -> Iterator[tuple[str, Target]]:
    """One target of each class, with one parameter moved by `value`."""
    off = torch.zeros(2, 3, 1, dtype=torch.float64)
    off[0, 0, 0] = value
    weights = torch.tensor([0.5 + value, 0.5 - value], dtype=torch.float64)
    means, scales = tensor(normal(110, 2, 3, 1)), tensor(uniform(111, 3, 1))
    cov = tensor(covariances(112, 2, 3))
    table = tensor(simplex(113, 2, 3, 2))
    square = tensor(simplex(114, 2, 2))
    yield "means", ProductMixture(means + off, scales)
    yield "scales", ProductMixture(means, scales + off[0])
    yield "scales per component", DiagonalMixture(means, scales + 0 * means + off)
    yield "weights", ProductMixture(means, scales, weights=weights)
    yield "full means", GaussianMixture(means + off, cov, weights=torch.ones(2).double())
    yield "full covariances", GaussianMixture(means, cov * (1 + value), weights=torch.ones(2))
    yield "categorical weights", CategoricalMixture(table, weights=weights)
    yield (
        "smoothing",
        CategoricalMixture.of_rows(
            torch.tensor([[0, 1], [1, 0]]), vocabulary=2, smoothing=0.1 + value
        ),
    )
    yield "initial", HiddenMarkov(weights, transition=square, emission=square, tokens=4)
    yield "first table", MarkovChain([weights, square], tokens=4)


def test_a_fingerprint_tells_parameters_that_differ_in_the_ninth_digit() -> None:
    for (name, one), (_, other) in zip(nearly(0.0), nearly(1e-9), strict=True):
        assert one.fingerprint != other.fingerprint, name
    for (name, one), (_, other) in zip(nearly(0.0), nearly(0.0), strict=True):
        assert one.fingerprint == other.fingerprint, name


def test_parameters_are_never_written_into() -> None:
    means, scales = tensor(normal(115, 2, 3, 1)), tensor(uniform(116, 2, 3, 1))
    cov, w = tensor(covariances(117, 2, 3)), tensor([1.0, 3.0])  # not normalised
    table, some = tensor(simplex(118, 2, 3, 2)), torch.tensor([[0, 1, 1], [1, 0, 1]])
    square, levels = tensor(simplex(119, 2, 2)), tensor([0.2, 0.0, 1.0])
    Q = tensor(stats.ortho_group.rvs(3, random_state=0))
    given = [means, scales, cov, w, table, some, square, levels, Q]
    before = [parameter.clone() for parameter in given]
    mixture = GaussianMixture(means, cov, weights=w)
    targets: list[Target] = [
        ProductMixture(means, scales[0], weights=w),
        DiagonalMixture(means, scales, weights=w),
        mixture,
        mixture.with_noise(levels, PATHS["linear"]),
        mixture.transformed(Q),
        CategoricalMixture(table, weights=w),
        CategoricalMixture.of_rows(some, vocabulary=2, smoothing=0.1, weights=w),
        HiddenMarkov(w / 4, transition=square, emission=square, tokens=3),
        HiddenMarkov.from_potentials(w, transition=square, emission=square, tokens=3),
        MarkovChain([w / 4, square], tokens=3),
    ]
    for target in targets:
        x = target.sample(4, CounterRandomness(0))
        answers(target, x, torch.zeros(4, 3, dtype=torch.float64))
    for one, other in zip(before, given, strict=True):
        assert torch.equal(one, other)


def test_a_product_mixture_whose_scales_differ_refuses_to_be_turned() -> None:
    Q = tensor(stats.ortho_group.rvs(4, random_state=0))
    with pytest.raises(InputError, match="scale"):
        shared()[0].transformed(Q)
    assert isinstance(varied()[0].transformed(Q), GaussianMixture)  # of a DiagonalMixture


def test_noise_after_a_turn_is_the_turn_of_noise_at_equal_levels() -> None:
    # Q (a x + s e) = a Q x + s e': isotropic noise does not know the basis.
    target, reference = continuous_pair("full gaussians, vectors")
    Q = tensor(stats.ortho_group.rvs(6, random_state=3))
    t, x = torch.full((3,), 0.4, dtype=torch.float64), draws(reference, 20)
    one = target.transformed(Q).with_noise(t, PATHS["cosine"])
    other = target.with_noise(t, PATHS["cosine"]).transformed(Q)
    close(one.log_prob(x), other.log_prob(x), rtol=1e-11)


def test_noise_at_level_zero_changes_nothing_and_at_level_one_forgets_everything() -> None:
    for case in CONTINUOUS:
        target, reference = continuous_pair(case)
        x = draws(reference, 10)
        same = target.with_noise(torch.zeros(reference.N).double(), PATHS["linear"])
        close(same.log_prob(x), target.log_prob(x), rtol=1e-12)
        noise = target.with_noise(torch.ones(reference.N).double(), PATHS["cosine"])
        close(noise.log_prob(x), stats.norm.logpdf(x.numpy()).sum((1, 2)), rtol=1e-12)


SMALL: dict[str, Callable[[], Sequences]] = {
    "copy:tokens=1,symbols=3": valid(sequences.is_one_symbol, 1, 3),
    "copy:tokens=3,symbols=1": valid(sequences.is_one_symbol, 3, 1),
    "replacement:2": valid(sequences.has_one_one, 2, 2),
    **{f"parity:{N}": valid(sequences.has_even_parity, N, 2) for N in (1, 2, 5)},
    **{f"brackets:{N}": valid(sequences.is_balanced, N, 2) for N in (2, 4, 10)},
    **{f"shuffle:{V}": valid(sequences.is_permutation, V, V) for V in (1, 2, 3)},
    **{f"latin:{n}": valid(sequences.is_latin_square, n * n, n) for n in (1, 2)},
    **{
        f"ising:{r},{c},0.5,-0.2": partial(sequences.ising, r, c, 0.5, -0.2)
        for r, c in ((1, 1), (1, 5), (5, 1), (2, 4))
    },
}


@pytest.mark.parametrize("spec", SMALL)
def test_built_ins_are_right_down_to_their_smallest_size(spec: str) -> None:
    target, reference = from_spec(spec), SMALL[spec]()
    for check in (check_log_prob, check_marginals, check_moments, check_kernels):
        check(target, reference)


# The references agree with other routes, and every check can fail.


@pytest.mark.parametrize("case", ["full gaussians", "gaussian, autoregressive, noisy"])
@pytest.mark.parametrize("path", PATHS)
def test_the_information_form_is_bayes_rule_by_quadrature(case: str, path: PathName) -> None:
    reference = continuous_pair(case)[1]
    t = level_vectors(5, reference.N, 104, low=1e-3)
    x = views(reference, t, path, 105)
    alpha, sigma = amplitudes(t, path)
    for r, i in itertools.product(range(2, 5), range(reference.N)):
        seen = [j for j in range(reference.N) if t[r, j] < 1 and (t[r, i] > 0 or j < i)]
        at = (i, x[r], alpha[r], sigma[r], seen)
        token, (mass, mean, variance) = reference.clean(*at), reference.clean_moments(*at)
        assert token.mean()[0] == pytest.approx(mean, rel=1e-8, abs=1e-9)
        assert token.variance()[0] == pytest.approx(variance, rel=1e-8, abs=1e-11)
        density = reference.joint_with(*at)(mean) / mass
        assert np.exp(token.log_prob(np.array([mean]))) == pytest.approx(density, rel=1e-8)


def test_kernel_means_of_the_reference_agree_with_quadrature() -> None:
    one = Gaussians(2 * normal(16, 3, 1, 1), uniform(17, 3, 1, 1), [0.2, 0.3, 0.5])
    nodes, w = (12 * a for a in np.polynomial.legendre.leggauss(400))
    p = np.exp([one.log_prob(np.array([[y]])) for y in nodes])  # density at the nodes
    assert w @ p == pytest.approx(1, abs=1e-12)
    for h in BANDWIDTHS:
        kernel = np.exp(-((nodes[:, None] - nodes) ** 2) / (2 * h**2))
        found = one.kernel_mean(np.array([[nodes[170]]]), h)
        assert found == pytest.approx(kernel[170] @ (w * p), rel=1e-10)
        assert one.kernel_self_mean(h) == pytest.approx((w * p) @ kernel @ (w * p), rel=1e-10)


def test_the_built_in_references_have_as_many_sequences_as_is_known() -> None:
    counts = {"copy": 3, "parity": 32, "shuffle": 24, "replacement": 5}
    counts |= {"ising, tall": 256, "latin": 12, "sudoku": 288, "brackets": 5, "ising": 512}
    for case, count in counts.items():
        assert len(categorical_pair(case)[1].states) == count, case


def nudged(reference: Reference, size: float) -> Reference:
    """A law that is off by about `size` in every parameter."""
    if isinstance(reference, Gaussians):
        return Gaussians(
            reference.means + size, reference.covariances * (1 + size), reference.weights
        )
    listed = {
        tuple(state): p * (1 + size * np.cos(k))
        for k, (state, p) in enumerate(
            zip(reference.states.tolist(), reference.probabilities, strict=True)
        )
    }
    return Sequences(listed, reference.vocabulary)


Check = Callable[[Any, Any], None]
ANY_LAW: list[tuple[Check, float]] = [
    (check_log_prob, 1e-6),
    (check_marginals, 1e-6),
    (check_moments, 1e-6),
    (check_kernels, 1e-6),
    (check_samples, 0.4),
]


@pytest.mark.parametrize(("check", "size"), ANY_LAW)
@pytest.mark.parametrize(
    "case",
    ["product mixture, shared scales", "full gaussians, vectors", "parity", "markov, order 2"],
)
def test_a_law_of_slightly_different_parameters_is_caught(
    check: Check, size: float, case: str
) -> None:
    target, reference = pair(case)
    with pytest.raises(AssertionError):
        check(target, nudged(reference, size))


@pytest.mark.parametrize("check", [check_denoiser, check_noise])
def test_a_denoiser_of_slightly_different_parameters_is_caught(check: Check) -> None:
    for case in ("product mixture, shared scales", "full gaussians, vectors"):
        target, reference = continuous_pair(case)
        with pytest.raises(AssertionError):
            check(target, nudged(reference, 1e-6))


def test_samples_of_another_law_are_caught() -> None:
    target, reference = continuous_pair("full gaussians")
    with pytest.raises(AssertionError):
        check_rosenblatt(target, draws(nudged(reference, 0.1), DRAWS))
    independent = np.random.default_rng(106).uniform(size=(DRAWS, 2))
    check_uniform(independent)
    for dependent in (independent[:, [0, 0]], independent**1.1):
        with pytest.raises(AssertionError):
            check_uniform(dependent)
    check_counts(np.array([1010.0, 987, 3, 0]), np.array([1000.0, 996, 2, 2]))
    with pytest.raises(AssertionError):
        check_counts(np.array([1100.0, 900, 0]), np.array([1000.0, 990, 10]))


def broken(target: Any, **methods: Callable[..., Any]) -> Any:
    """The target with some methods replaced; each is given the sound target first."""
    other = copy.copy(target)
    replaced = {
        name: (lambda self, *args, _f=method, **kwargs: _f(target, *args, **kwargs))
        for name, method in methods.items()
    }
    other.__class__ = type("Broken", (type(target),), replaced)
    return other


def _looks_ahead(
    sound: Target, x: Tensor, t: Tensor, path: NoisePath = PATHS["linear"], causal: bool = False
) -> TokenLaw:
    return sound.marginals(x, t, path)


def _writes(
    sound: Target, x: Tensor, t: Tensor, path: NoisePath = PATHS["linear"], causal: bool = False
) -> TokenLaw:
    law = sound.marginals(x.clone(), t, path, causal)
    x[0] += 1
    return law


def _peeks(
    sound: Target, x: Tensor, t: Tensor, path: NoisePath = PATHS["linear"], causal: bool = False
) -> TokenLaw:
    size = sound.spec.dim if x.dtype == torch.int64 else 10**6
    return sound.marginals(torch.nan_to_num(x).clamp(0, size - 1), 0 * t, path, causal)


def _mixes(
    sound: Target, x: Tensor, t: Tensor, path: NoisePath = PATHS["linear"], causal: bool = False
) -> TokenLaw:
    return sound.marginals(x.roll(1, 0), t, path, causal)


def _sees_neighbours_only(
    sound: Target, x: Tensor, t: Tensor, path: NoisePath = PATHS["linear"], causal: bool = False
) -> TokenLaw:
    """Through a window: no law has such conditionals, unless it is a chain of neighbours."""
    laws = []
    for i in range(sound.spec.tokens):
        seen = (torch.arange(sound.spec.tokens) - i).abs() <= 1
        laws.append(sound.marginals(x, torch.where(seen, t, 1.0), path, causal).select([i]))
    return SideBySide(laws)


def _draws_at_large(sound: Target, n: int, rng: Randomness) -> Tensor:
    torch.rand(1)
    return sound.sample(n, rng)


def _draws_the_same(sound: Target, n: int, rng: Randomness) -> Tensor:
    return sound.sample(n, CounterRandomness(0))


def _stays(sound: Target, **_: Any) -> Target:
    return sound


def _shifts(sound: ContinuousTarget, *args: Any, **kwargs: Any) -> Tensor:
    return sound.denoise(*args, **kwargs) + 1e-4


def _gains(sound: Target, x: Tensor) -> Tensor:
    return sound.log_prob(x) + 1e-6


def _tilts(sound: Target, x: Tensor) -> Tensor:
    """A density whose tokens depend on each other a little more."""
    log_p = sound.log_prob(x)
    return log_p + 1e-6 * log_p.clamp(min=-1e3).square()


BROKEN: list[tuple[Check, str, Callable[..., Any]]] = [
    (check_conditionals, "marginals", _sees_neighbours_only),
    (check_conditionals, "marginals", _looks_ahead),
    (check_conditionals, "log_prob", _tilts),
    (check_marginals, "marginals", _looks_ahead),
    (check_atoms, "marginals", _mixes),
    (check_causality, "marginals", _looks_ahead),
    (check_inputs, "marginals", _writes),
    (check_inputs, "sample", _draws_at_large),
    (check_unseen, "marginals", _peeks),
    (check_rows, "marginals", _mixes),
    (check_rows, "sample", _draws_the_same),
    (check_precision, "to", _stays),
    (check_log_prob, "log_prob", _gains),
]


@pytest.mark.parametrize(("check", "method", "wrong"), BROKEN)
@pytest.mark.parametrize("case", ["full gaussians", "hidden markov with zeros"])
def test_a_broken_target_is_caught(
    check: Check, method: str, wrong: Callable[..., Any], case: str
) -> None:
    target, reference = pair(case)
    check(broken(target), reference)
    with pytest.raises(AssertionError):
        check(broken(target, **{method: wrong}), reference)


@pytest.mark.parametrize(
    ("check", "method", "wrong"),
    [(check_score, "denoise", _shifts), (check_integral, "log_prob", _gains)],
)
def test_a_broken_continuous_target_is_caught(
    check: Check, method: str, wrong: Callable[..., Any]
) -> None:
    target, reference = continuous_pair("full gaussians, one vector")
    with pytest.raises(AssertionError):
        check(broken(target, **{method: wrong}), reference)


def test_only_a_single_gaussian_gives_its_moments() -> None:
    """Its log-density is that of scipy; a mixture has none to give."""
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(4, 4))
    mean, scales = rng.normal(size=(1, 2, 2)), rng.uniform(0.5, 2, (2, 2))
    laws = [
        GaussianMixture(tensor(mean), tensor(factor @ factor.T + np.eye(4))[None]),
        ProductMixture(tensor(mean), tensor(scales)),
        DiagonalMixture(tensor(mean), tensor(scales)[None]),
    ]
    x = rng.normal(size=(5, 2, 2))
    for law in laws:
        moments = law.gaussian()
        assert moments is not None
        expected = stats.multivariate_normal(*(part.numpy() for part in moments)).logpdf(
            x.reshape(5, 4)
        )
        assert law.log_prob(tensor(x)).tolist() == pytest.approx(expected.tolist())
    two = ProductMixture(tensor(np.concatenate([mean, mean + 1])), tensor(scales))
    assert two.gaussian() is None


@every
def test_sequences_and_levels_that_cannot_be_are_refused(case: str) -> None:
    target, _ = pair(case)
    spec = target.spec
    x = target.sample(2, CounterRandomness(0))
    seen = torch.zeros(2, spec.tokens, dtype=target.dtype)
    path = PATHS["linear"]
    with pytest.raises(InputError, match="x must have shape"):
        target.log_prob(x[0])
    with pytest.raises(InputError, match="x must have shape"):
        target.log_prob(torch.cat([x, x], 1))
    with pytest.raises(InputError, match="at least one row"):
        target.marginals(x[:0], seen[:0])
    with pytest.raises(InputError, match="levels must have shape"):
        target.marginals(x, seen[0])
    for level in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"levels must be"):
            target.marginals(x, torch.full_like(seen, level), path)
    if spec.kind == "continuous":
        with pytest.raises(InputError, match="must hold continuous tokens"):
            target.log_prob(x.long())
        return
    with pytest.raises(InputError, match="must hold categorical tokens"):
        target.log_prob(x.to(target.dtype))
    with pytest.raises(InputError, match="levels must be 0"):
        target.marginals(x, torch.full_like(seen, 0.5))
    for value in (-1, spec.dim):
        wrong = x.clone()
        wrong[1, 0] = value
        with pytest.raises(InputError, match=f"integers from 0 to {spec.dim - 1}, got {value}"):
            target.log_prob(wrong)
        with pytest.raises(InputError, match=f"got {value}"):
            target.marginals(wrong, seen)
        unseen = seen.clone()
        unseen[1, 0] = 1  # what stands there means nothing
        assert bool(target.marginals(wrong, unseen).mean().isfinite().all())


def test_what_is_known_and_impossible_is_answered_alike_in_every_batch() -> None:
    # 0 is never followed by 1. Known tokens that are impossible together are as good as unknown
    # ones, also where the last of them alone would tell the next token.
    start = torch.tensor([0.5, 0.5], dtype=torch.float64)
    step = torch.tensor([[1.0, 0.0], [0.3, 0.7]], dtype=torch.float64)
    chain = MarkovChain([start, step], tokens=4)
    x = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
    levels = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]], dtype=torch.float64)
    alone = chain.marginals(x[:1], levels[:1]).select([3]).mean()[0, 0]
    together = chain.marginals(x, levels).select([3]).mean()[0, 0]
    assert alone.tolist() == pytest.approx(together.tolist())
    assert alone.tolist() == pytest.approx(chain.spec.mean[3].tolist())


def test_a_chain_whose_laws_differ_from_token_to_token_is_their_product() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3,), (3, 3), (3, 3, 3), (3, 3, 3)]
    tables = [rng.dirichlet(np.ones(3), shape[:-1] or None).reshape(shape) for shape in shapes]
    chain = MarkovChain([tensor(table) for table in tables], tokens=4)
    x = np.array(list(itertools.product(range(3), repeat=4)))
    joint = tables[0][x[:, 0]] * tables[1][x[:, 0], x[:, 1]]
    joint *= tables[2][x[:, 0], x[:, 1], x[:, 2]] * tables[3][x[:, 1], x[:, 2], x[:, 3]]
    assert chain.log_prob(torch.from_numpy(x)).exp().tolist() == pytest.approx(joint.tolist())
    known = np.array([[False, True, False, True]])
    agree = (x[:, 1] == 2) & (x[:, 3] == 0)
    expected = [
        [joint[agree & (x[:, i] == v)].sum() / joint[agree].sum() for v in range(3)] for i in (0, 2)
    ]
    row = torch.tensor([[0, 2, 0, 0]])
    law = chain.marginals(row, tensor(~known)).select([0, 2]).mean()[0]
    assert law.flatten().tolist() == pytest.approx(np.array(expected).flatten().tolist())
    with pytest.raises(InputError, match="one for each of the 5 tokens, got 4"):
        MarkovChain([tensor(table) for table in tables], tokens=5)
