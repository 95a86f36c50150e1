"""Conditionals of Gaussian components given known tokens, where each row knows tokens of its own.

The innovations z of the known tokens, in any order, and the covariances W of all tokens with them
give E[x_i | known] = mu_i + W_i z and Cov[x_i | known] = Sigma_ii - W_i W_i^T. If every row knows
its first tokens, W is the Cholesky factor of the covariance, which all rows share. Otherwise W is
kept from call to call, as procedures place one token after another: a token that has become known
adds its own columns to it, in place of a factorisation of every row's covariance at every call. The
innovations of first tokens are kept likewise, and the laws of those tokens alone are computed that
are asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.targets.continuous.given_first import Factorised, GivenFirst, Laws, LawsGiven
from capcheck.targets.continuous.known_tokens import learning_together, numbers_of, unknown_tokens

__all__ = ["HELD", "MANY", "WIDE", "KnownGaussians"]

WIDE = 32  # fewest numbers that become known for which leaving out known ones saves time
MANY = 64  # fewer numbers are factorised in no time
HELD = 1 << 26  # most numbers in the covariances of all rows with their innovations: 512 MiB


@dataclass(frozen=True, eq=False)
class _Whole:
    """Laws that are held whole."""

    laws: Laws

    def of(self, rows: slice, tokens: Sequence[int]) -> Laws:
        log_weights, means, covariances = (one[rows] for one in self.laws)
        own = list(tokens)
        shared = log_weights.shape[1] == 1
        return log_weights if shared else log_weights[:, own], means[:, own], covariances[:, own]


@dataclass(eq=False)
class _Growing:
    """What is kept about n rows.

    Attributes:
        known: Which tokens are known, (n, N) bool.
        x: Values of the known tokens, and 0 elsewhere, (n, N, d).
        W: Covariances of all numbers with the innovations so far, (n, K, D, D); those of numbers
            that were known before an innovation are not needed and not set.
        used: Number of innovations that are filled.
        mean: Means given the known tokens, (n, K, D).
        covariance: Covariances of each token given the known tokens, (n, K, N, d, d).
        log_weights: Log-weights of the components, not normalised, (n, K).
    """

    known: Tensor
    x: Tensor
    W: Tensor
    used: int
    mean: Tensor
    covariance: Tensor
    log_weights: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _First:
    """What is kept about n rows that know their first tokens.

    Attributes:
        x: Values of the first tokens, as many as a row knows at most, (n, m, d).
        count: Number of tokens that each row knows, (n,).
        z: Innovations of the known tokens, and 0 elsewhere, (K, D, n).
    """

    x: Tensor
    count: Tensor
    z: Tensor


class KnownGaussians:
    """K Gaussian components, and their conditionals given known tokens.

    Args:
        means: Means, (K, N, d).
        covariances: Covariances, (K, N d, N d).
        weights: Positive normalised weights, (K,).
    """

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor) -> None:
        self._means, self._covariances, self._weights = means, covariances, weights
        self._held: _Growing | None = None
        self._first: _First | None = None

    def __reduce__(self) -> tuple[type[KnownGaussians], tuple[Tensor, Tensor, Tensor]]:
        """Copies leave behind what is kept."""
        return KnownGaussians, (self._means, self._covariances, self._weights)

    def laws(self, x: Tensor, known: Tensor, *, causal: bool = False) -> LawsGiven | None:
        """The laws of all tokens given the known ones, or None if they are too many to be held.

        Args:
            x: Tokens, (n, N, d); values that are not known are ignored.
            known: Which tokens of each row are known, (n, N) bool.
            causal: Whether a token is given the known tokens before it only; None is returned
                then unless each row knows its first tokens.

        None is returned as well if all rows know the same tokens, unless these are the first of
        many: one factorisation then serves all rows. The law of a known token is its value.
        """
        K, N, d = self._means.shape
        same = bool((known == known[:1]).all())
        if same and (causal or N * d < MANY):
            return None
        if bool((known[:, 1:] <= known[:, :-1]).all()) and K * N**2 * d**2 <= HELD:
            return self._of_prefixes(x.to(self._means), known.sum(1), causal)
        if same or causal or len(x) * K * (N * d) ** 2 > HELD:
            return None
        x = torch.where(known[..., None], x.to(self._means), 0)
        log_weights, means, covariances = self._of_grown(x, known)
        means = torch.where(known[:, :, None, None], x[:, :, None], means)
        return _Whole((log_weights, means, covariances * ~known[:, :, None, None, None]))

    def one_by_one(self, x: Tensor) -> Iterator[Laws]:
        """The laws of each token given those before it, from the first to the last.

        Args:
            x: Tokens, (n, N, d). The caller may fill in a token in place before it asks for the law
                of the next one.

        Yields:
            As `Laws`, of one token.
        """
        K, N, d = self._means.shape
        z = x.new_zeros(K, N * d, len(x), dtype=self._means.dtype)  # innovations
        log_weights = self._weights.log().expand(len(x), K)
        for i in range(N):
            own = slice(i * d, (i + 1) * d)
            root = self._root[:, own, own]  # (K, d, d)
            mean = self._expected(i, z)
            covariance = (root @ root.mT)[None, None]  # (1, 1, K, d, d)
            yield log_weights[:, None], mean.permute(2, 0, 1)[:, None], covariance
            residual = x[:, i].to(z).T - mean  # (K, d, n)
            z[:, own] = torch.linalg.solve_triangular(root, residual, upper=False)
            log_det = root.diagonal(dim1=1, dim2=2).log().sum(1)
            log_weights = log_weights - 0.5 * z[:, own].square().sum(1).T - log_det

    def _expected(self, i: int, z: Tensor) -> Tensor:
        """Means of token i given the tokens before it, (K, d, n), by innovations z (K, D, n)."""
        d = self._means.shape[2]
        before, own = slice(0, i * d), slice(i * d, (i + 1) * d)
        return self._means[:, i, :, None] + self._root[:, own, before] @ z[:, before]

    @functools.cached_property
    def _root(self) -> Tensor:
        """Cholesky factors of the covariances, (K, D, D)."""
        root: Tensor = torch.linalg.cholesky(self._covariances)
        return root

    @functools.cached_property
    def _left(self) -> Tensor:
        """Covariances of token i given the first m tokens, (K, m, i, d, d) for m = 0..N."""
        N, d = self._means.shape[1:]
        blocks = self._root.unflatten(1, (N, d)).unflatten(3, (N, d))  # (K, i, d, m, d)
        each = torch.einsum("kiamc,kibmc->kmiab", blocks, blocks)
        after = each.flip(1).cumsum(1).flip(1)  # over the tokens from m on
        return torch.cat([after, torch.zeros_like(after[:, :1])], 1)

    def _of_prefixes(self, x: Tensor, count: Tensor, causal: bool) -> GivenFirst:
        """The laws given the first `count` tokens (n,) of each row."""
        d, told = self._means.shape[2], int(count.max())
        z, since = self._kept_innovations(x, count)
        for i in range(since, told):  # one by one, so that no digit depends on what was kept
            own = slice(i * d, (i + 1) * d)
            residual = torch.where(i < count, x[:, i].T - self._expected(i, z), 0)  # (K, d, n)
            z[:, own] = torch.linalg.solve_triangular(
                self._root[:, own, own], residual, upper=False
            )
        self._first = _First(x=x[:, :told].clone(), count=count, z=z)
        return GivenFirst(
            Factorised(self._means, self._weights.log(), self._root, self._left),
            x=x,
            count=count,
            z=z[:, : told * d],
            causal=causal,
        )

    def _kept_innovations(self, x: Tensor, count: Tensor) -> tuple[Tensor, int]:
        """Innovations (K, D, n), and how many of the first tokens they are right about.

        What a law that was returned earlier reads is never overwritten.
        """
        K, N, d = self._means.shape
        held = self._first
        if held is not None and held.count.shape == count.shape:
            same = int(torch.minimum(held.count, count).min())
            if same and torch.equal(held.x[:, :same], x[:, :same]):
                longest = int(held.count.max())
                return held.z.clone() if longest > same else held.z, same
        return x.new_zeros(K, N * d, len(x)), 0

    def _of_grown(self, x: Tensor, known: Tensor) -> Laws:
        N, d = self._means.shape[1:]
        held = self._held
        if held is None or not _grows(held, x, known):
            held = self._held = self._nothing_known(len(x), x)
        for rows, tokens in learning_together(known & ~held.known):
            if held.used + tokens.shape[1] * d > held.W.shape[3]:
                self._held = None  # rows took turns; they start again together
                return self._of_grown(x, known)
            self._add(held, x, rows, tokens)
        held.known, held.x = known.clone(), x
        means = held.mean.unflatten(2, (N, d)).transpose(1, 2)
        covariances = held.covariance.transpose(1, 2)
        return held.log_weights[:, None].clone(), means.clone(), covariances.clone()

    def _nothing_known(self, n: int, x: Tensor) -> _Growing:
        K, N, d = self._means.shape
        D, self._held = N * d, None  # the old one is freed first
        token = torch.arange(N, device=x.device)
        blocks = self._covariances.unflatten(1, (N, d)).unflatten(3, (N, d))
        own = blocks[:, token, :, token].transpose(0, 1)  # (K, N, d, d)
        return _Growing(
            known=torch.zeros(n, N, dtype=torch.bool, device=x.device),
            x=torch.zeros_like(x),
            W=x.new_zeros(n, K, D, D),  # what is not set must be finite
            used=0,
            mean=self._means.flatten(1).expand(n, K, D).clone(),
            covariance=own.expand(n, K, N, d, d).clone(),
            log_weights=self._weights.log().expand(n, K).clone(),
        )

    def _add(self, held: _Growing, x: Tensor, rows: Tensor, tokens: Tensor) -> None:
        """Let some more tokens (r, m) be known in some rows (r,)."""
        K, d = len(self._means), self._means.shape[2]
        every = len(rows) == len(x)
        which: slice | Tensor = slice(None) if every else rows
        place = torch.arange(len(rows), device=x.device)[:, None]
        own = numbers_of(tokens, d)  # (r, m d) of the D numbers
        W = held.W[which][..., : held.used]  # (r, K, D, used)
        of_token = W[place, :, own].transpose(1, 2)  # (r, K, m d, used)
        left_over = unknown_tokens(held.known[which]) if own.shape[1] >= WIDE else None  # (r, U)
        if left_over is None:
            of_open, shared, among = W, self._covariances[:, own], own
        else:
            numbers = numbers_of(left_over, d)  # (r, U d)
            of_open = W[place, :, numbers].transpose(1, 2)  # (r, K, U d, used)
            shared = self._covariances[:, own[..., None], numbers[:, None]]
            among = torch.searchsorted(numbers, own)  # places of the tokens' numbers
        left = torch.baddbmm(  # (r, K, m d, U d)
            shared.transpose(0, 1).flatten(0, 1),
            of_token.flatten(0, 1),
            of_open.flatten(0, 1).mT,
            alpha=-1,
        ).unflatten(0, (len(rows), K))
        within = left[place, :, :, among].permute(0, 2, 1, 3)  # (r, K, m d, m d)
        root = torch.linalg.cholesky(0.5 * (within + within.mT))
        new = torch.linalg.solve_triangular(root, left, upper=False)  # (r, K, m d, U d)
        before = held.mean[which][place, :, own].transpose(1, 2)  # (r, K, m d)
        residual = (x[rows[:, None], tokens].flatten(1)[:, None] - before)[..., None]
        z = torch.linalg.solve_triangular(root, residual, upper=False)  # (r, K, m d, 1)
        step = (z.mT @ new)[..., 0, :]  # (r, K, U d)
        blocks = new.unflatten(3, (-1, d)).permute(0, 1, 3, 4, 2)  # (r, K, U, d, m d)
        upto = slice(held.used, held.used + new.shape[2])
        if not every:
            held.W[..., upto] = 0
        if left_over is None:
            held.mean[which] += step
            held.covariance[which] -= blocks @ blocks.mT
            held.W[which, ..., upto] = new.mT
        else:
            held.mean[rows[:, None], :, numbers] += step.transpose(1, 2)
            held.covariance[rows[:, None], :, left_over] -= (blocks @ blocks.mT).transpose(1, 2)
            held.W[rows[:, None], :, numbers, upto] = new.permute(0, 3, 1, 2)
        scale = root.diagonal(dim1=2, dim2=3).log().sum(2)
        held.log_weights[which] -= 0.5 * z.square().sum((2, 3)) + scale
        held.used = upto.stop


def _grows(held: _Growing, x: Tensor, known: Tensor) -> bool:
    """Whether every token that was known still is, with the same value."""
    if held.known.shape != known.shape or not bool((held.known <= known).all()):
        return False
    return bool((torch.where(held.known[..., None], x, 0) == held.x).all())
