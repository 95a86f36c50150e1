"""The observer compares draws of models with the draws of one target, and writes their witness.

Differences that fresh target draws would also show by chance are left out.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from capcheck.diagnostics.witness import MissedMode, PairError, TokenError, Witness
from capcheck.divergences.lost import lost_rows
from capcheck.targets.target import Target

__all__ = [
    "CHANCE",
    "FEATURES",
    "MISSED",
    "MODES",
    "MOST",
    "SYMBOLS",
    "TESTED",
    "WIDEST",
    "Observer",
]

MOST = 5  # most findings of each kind that are kept
CHANCE = 1e-3  # probability of any finding of one kind for equal laws (Bonferroni)
MODES = 12  # most regions that the target's draws are divided into
MISSED = 0.5  # share of the target's probability below which a region counts as missed
WIDEST = 64  # most tokens for which all pairs are compared; with more, adjacent tokens only
SYMBOLS = 64  # largest vocabulary for which pairs of tokens are compared
TESTED = 1024  # most numbers that are tested one by one, of evenly spaced tokens
FEATURES = 4096  # most numbers of a sequence for which regions are compared


class Observer:
    """Compares draws of models with the draws of one target.

    Args:
        target: The target.
        draws: (n, N, d) or (n, N) draws of the target, n at least 100.
    """

    def __init__(self, target: Target, draws: Tensor) -> None:
        self._target = target
        self._spec = target.spec
        self._draws = draws
        self._pairs = self._dependences(draws)
        self._regions = None
        if self._spec.tokens * self._spec.dim <= FEATURES:
            self._flat = _features(draws, self._spec.dim)  # (n, F)
            distinct = len(np.unique(self._flat, axis=0))
            from sklearn.cluster import KMeans  # scikit-learn takes a second to load

            self._regions = KMeans(min(MODES, distinct), n_init=1, random_state=0).fit(self._flat)

    def compare(self, samples: Tensor) -> Witness:
        """The witness of a model's samples, (n, N, d) or (n, N)."""
        impossible = None
        if self._spec.kind == "categorical":
            impossible = int(self._target.log_prob(samples).isneginf().sum())
        lost = int(lost_rows(samples, self._spec.spread or 1.0).sum())
        found = Witness(impossible=impossible, samples=len(samples), lost=lost)
        if lost:
            return found
        return found.model_copy(
            update={
                "tokens": self._tokens(samples),
                "pairs": self._wrong_pairs(samples),
                "modes": self._modes(samples),
            }
        )

    def _tokens(self, samples: Tensor) -> tuple[TokenError, ...]:
        n, N = len(samples), self._spec.tokens
        if self._spec.kind == "categorical":
            shares = _shares(samples, self._spec.dim)  # (N, V)
            exact, share = self._spec.mean.double().cpu().numpy(), 1 / n
            if self._spec.estimated_from is not None:  # then the noise is that of two sets of draws
                exact, share = _shares(self._draws, self._spec.dim), 1 / n + 1 / len(self._draws)
            # Mean total variation of n draws of one law, then a bound on its fluctuation.
            errors = 0.5 * np.abs(shares - exact).sum(1)
            spread = np.clip(exact * (1 - exact), 0, None)
            noise = 0.5 * np.sqrt(2 / math.pi * spread * share).sum(1) + 4.5 * np.sqrt(0.25 * share)
            off = [(errors[i], i) for i in range(N) if errors[i] > noise[i]]
        else:
            off = []
            ours, theirs = _numbers(samples), _numbers(self._draws)
            for i in range(0, N, -(-N * ours.shape[2] // TESTED)):
                tests = [
                    stats.ks_2samp(ours[:, i, j], theirs[:, i, j]) for j in range(ours.shape[2])
                ]
                worst = max(tests, key=lambda test: test.statistic)
                if worst.pvalue < CHANCE / ours[0].size:
                    off.append((float(worst.statistic), i))
        ranked = sorted(off, reverse=True)[:MOST]
        return tuple(TokenError(token=i, error=float(error)) for error, i in ranked)

    def _dependences(self, x: Tensor) -> dict[tuple[int, int], np.ndarray]:
        """Measures of dependence of every compared pair of tokens."""
        spec = self._spec
        if spec.kind == "categorical":
            if spec.dim > SYMBOLS:
                return {}
            return {
                (i, j): np.array([_mutual_information(x[:, i], x[:, j], spec.dim)])
                for i, j in _pairs(spec.tokens)
            }
        values = _numbers(x).mean(2)  # (n, N): the mean coordinate of a token
        centred = values - values.mean(0)
        pairs = _pairs(spec.tokens)
        found = np.stack([_correlations(part, pairs) for part in (centred, np.abs(centred))], 1)
        return dict(zip(pairs, found, strict=True))

    def _wrong_pairs(self, samples: Tensor) -> tuple[PairError, ...]:
        """Pairs whose dependence differs by more than the noise of two sets of draws of one law."""
        if not self._pairs:
            return ()
        model, n = self._dependences(samples), min(len(samples), len(self._draws))
        z = float(stats.norm.isf(CHANCE / 2 / (2 * len(model))))
        found = []
        for pair, target in self._pairs.items():
            if self._spec.kind == "categorical":
                difference = target - model[pair]
                # 2 n times an estimated information of independent tokens is chi-square.
                chance = stats.chi2.isf(CHANCE / len(model), (self._spec.dim - 1) ** 2) / (2 * n)
                noise = chance + z * np.sqrt(2 * np.maximum(target, model[pair]) / n)
            else:
                difference = np.arctanh(np.clip(target, -1 + 1e-9, 1 - 1e-9)) - np.arctanh(
                    np.clip(model[pair], -1 + 1e-9, 1 - 1e-9)
                )
                noise = np.full(
                    2, 2 * z * math.sqrt(2 / n)
                )  # twice the normal law's, to allow for heavy tails
            excess = np.abs(difference) - noise
            k = int(excess.argmax())
            if excess[k] > 0:
                error = PairError(tokens=pair, target=float(target[k]), model=float(model[pair][k]))
                found.append((abs(error.target - error.model), error))
        found.sort(key=lambda item: -item[0])
        return tuple(error for _, error in found[:MOST])

    def _modes(self, samples: Tensor) -> tuple[MissedMode, ...]:
        regions = self._regions
        if regions is None:
            return ()
        of_target = np.bincount(regions.labels_, minlength=len(regions.cluster_centers_))
        of_model = np.bincount(
            regions.predict(_features(samples, self._spec.dim)), minlength=len(of_target)
        )
        missed = []
        for k, (due, got) in enumerate(zip(of_target, of_model, strict=True)):
            share, found = due / len(self._flat), got / len(samples)
            table = [[got, len(samples) - got], [due, len(self._flat) - due]]
            p = stats.fisher_exact(table, alternative="less").pvalue
            if found < MISSED * share and p < CHANCE / len(of_target):
                distance = ((self._flat - regions.cluster_centers_[k]) ** 2).sum(1)
                example = self._draws[int(distance.argmin())].tolist()
                missed.append(MissedMode(target=share, model=found, example=example))
        return tuple(sorted(missed, key=lambda mode: -mode.target)[:MOST])


def _numbers(x: Tensor) -> np.ndarray:
    values: np.ndarray = x.double().cpu().numpy()
    return values


def _shares(x: Tensor, symbols: int) -> np.ndarray:
    """Relative frequency of each value of each token, (N, V)."""
    N = x.shape[1]
    places = x.cpu() + symbols * torch.arange(N)
    counts = torch.bincount(places.flatten(), minlength=N * symbols).reshape(N, symbols)
    shares: np.ndarray = (counts.double() / len(x)).numpy()
    return shares


def _features(x: Tensor, symbols: int) -> np.ndarray:
    """Vectors that regions are clusters of: the numbers (n, N d), or one-hot vectors (n, N V)."""
    if x.is_floating_point():
        return _numbers(x).reshape(len(x), -1)
    hot: np.ndarray = torch.nn.functional.one_hot(x.cpu(), symbols).flatten(1).double().numpy()
    return hot


def _pairs(tokens: int) -> list[tuple[int, int]]:
    if tokens <= WIDEST:
        return list(itertools.combinations(range(tokens), 2))
    return list(itertools.pairwise(range(tokens)))


def _correlations(x: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Correlations of pairs of columns; those with a constant column are 0."""
    centred = x - x.mean(0)
    scale = np.sqrt((centred**2).mean(0))
    standard = centred / np.where(scale > 0, scale, 1)
    of_pairs = [standard[:, i] @ standard[:, j] for i, j in pairs]
    return np.array(of_pairs) / len(x)


def _mutual_information(a: Tensor, b: Tensor, symbols: int) -> float:
    """Mutual information of the empirical joint law of two tokens, in nats."""
    counts = torch.bincount(a * symbols + b, minlength=symbols**2).reshape(symbols, symbols)
    p = counts.double().cpu().numpy() / len(a)
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    some = p > 0
    return float((p[some] * np.log(p[some] / independent[some])).sum())
