"""Posterior means and covariances of component means, of which derivatives of denoisers consist."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.slopes import FewDirections, SharedMeans, Slope
from capcheck.core.tiles import slices
from capcheck.core.weighted import weighted_sums
from capcheck.targets.components import PRODUCTS, Components
from capcheck.targets.evidence import Evidence, Prefix

__all__ = [
    "FEW",
    "FEW_NUMBERS",
    "MATRIX_FREE",
    "MOST_DIRECTIONS",
    "NOTHING",
    "posterior_moments",
    "posterior_slope",
]

NOTHING = 1e-18  # share of a component that is left out of moments
MOST_DIRECTIONS = 128  # most components whose directions are held for each row
MATRIX_FREE = 100.0  # products with all means that a derivative takes which is not written out
FEW = 8  # a sum over this fraction of the components is made over these alone
FEW_NUMBERS = 18  # numbers whose products take less time over all components than the choice of few


def posterior_moments(
    components: Components, evidence: Evidence, prefix: Prefix, tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Posterior mean (n, S, d) and covariance (n, S d, S d) of the centred mu_c, in float64.

    If each token has a posterior of its own (`prefix` is not "all"), row block i of the second
    is E_i[mu_i mu_j^T] - E_i[mu_i] E_i[mu_j]^T for the posterior of token i; the blocks of j
    whose evidence does not enter are 0.

    Args:
        components: The components c with their means mu_c.
        evidence: Evidence of the row about its component, (n, N, d), in float64.
        prefix: Tokens whose evidence enters.
        tokens: Indices of the S tokens.
    """
    chosen, d = list(tokens), components.centre.shape[1]
    n, S = len(evidence), len(chosen)
    E = S * d
    mean = torch.zeros(n, E, dtype=torch.float64, device=evidence.linear.device)
    square = mean.new_zeros(n, E, E)
    if prefix == "all":
        for rows, share in components.shares(evidence, prefix, chosen):
            kept = len(components) if E <= FEW_NUMBERS else int((share > NOTHING).sum(-1).max())
            if kept * FEW <= len(components):
                mean[rows], square[rows] = _of_few(components, share[:, 0], chosen, kept)
            else:
                mean[rows], square[rows] = _of_all(components, share[:, 0], chosen)
        return mean.unflatten(1, (S, d)), square
    parts = list(slices(len(components), max(1, PRODUCTS * components.tile // E**2)))
    first = mean.new_zeros(n, S, E)  # means by the posterior of each token
    for rows, share in components.shares(evidence, prefix, chosen):
        for part in parts:
            mu = components.centred(part)[:, chosen].flatten(1)
            first[rows] += weighted_sums(share[..., part].transpose(0, 1), mu).transpose(0, 1)
            for place in range(S):
                own, seen = slice(place * d, (place + 1) * d), (place + 1) * d
                both = (mu[:, own, None] * mu[:, None, :seen]).flatten(1)
                found = weighted_sums(share[:, place, part], both)
                square[rows, own, :seen] += found.unflatten(1, (d, seen))
    for place in range(S):
        own, seen = slice(place * d, (place + 1) * d), (place + 1) * d
        mean[:, own] = first[:, place, own]
        square[:, own, :seen] -= mean[:, own, None] * first[:, place, None, :seen]
    return mean.unflatten(1, (S, d)), square


def posterior_slope(
    components: Components,
    evidence: Evidence,
    tokens: Sequence[int],
    own: Tensor,
    gain: Tensor,
    pull: Tensor,
) -> tuple[Tensor, Slope]:
    """Posterior mean (n, S, d) of the centred mu_c, and diag(own) + diag(gain) Cov diag(pull).

    The covariance is that of `posterior_moments` over the evidence of all tokens; it is not written
    out. Directions of components that carry weight stand for it where they are few.

    Args:
        components: The components c with their means mu_c.
        evidence: Evidence of the row about its component, (n, N, d), in float64.
        tokens: Indices of the S tokens.
        own: (n|1, S d).
        gain: (n|1, S d).
        pull: (n|1, S d).
    """
    chosen, d = list(tokens), components.centre.shape[1]
    parts = components.shares(evidence, "all", chosen)
    share = torch.cat([part[:, 0].clone() for _, part in parts])
    n, E = len(share), len(chosen) * d
    own, gain, pull = (each.expand(n, E) for each in (own, gain, pull))
    kept = int((share > NOTHING).sum(-1).max())
    if kept <= MOST_DIRECTIONS:
        weight, component = share.topk(kept, 1)
        mu = components.centred(component.flatten())[:, chosen].reshape(n, kept, E)
        mean = (weight[:, None] @ mu)[:, 0]
        deviation = mu - mean[:, None]
        left = gain[..., None] * (weight[..., None] * deviation).mT
        slope: Slope = FewDirections(own, left, deviation * pull[:, None])
    else:
        means = components.centred(slice(None))[:, chosen].flatten(1)
        mean = weighted_sums(share, means)
        slope = SharedMeans(own=own, gain=gain, pull=pull, share=share, means=means, mean=mean)
    return mean.unflatten(1, (len(chosen), d)), slope


def _of_all(components: Components, share: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Means (r, E) and covariances (r, E, E) of some tokens, by sums over all components."""
    E = len(tokens) * components.centre.shape[1]
    pairs = torch.tril_indices(E, E, device=share.device)
    total = share.new_zeros(len(share), E + pairs.shape[1])
    for part in slices(len(components), max(1, PRODUCTS * components.tile // total.shape[1])):
        mu = components.centred(part)[:, tokens].flatten(1)  # (c, E)
        both = torch.cat([mu, mu[:, pairs[0]] * mu[:, pairs[1]]], 1)
        total += weighted_sums(share[:, part], both)
    mean, square = total[:, :E], _symmetric(total[:, E:], pairs)
    return mean, square - mean[:, :, None] * mean[:, None]


def _of_few(
    components: Components, share: Tensor, tokens: list[int], kept: int
) -> tuple[Tensor, Tensor]:
    """The same by sums over the `kept` components of largest weight in each row."""
    E = len(tokens) * components.centre.shape[1]
    means, covariances = [], []
    for rows in slices(len(share), max(1, components.tile // (kept * components.centre.numel()))):
        weight, component = share[rows].topk(kept, 1)
        mu = components.centred(component.flatten())[:, tokens].reshape(*component.shape, E)
        mean = (weight[:, None] @ mu)[:, 0]
        deviation = mu - mean[:, None]
        means.append(mean)
        covariances.append((weight[..., None] * deviation).mT @ deviation)
    return torch.cat(means), torch.cat(covariances)


def _symmetric(lower: Tensor, pairs: Tensor) -> Tensor:
    """Symmetric matrices (n, E, E) from their entries (n, pairs) on and below the diagonal."""
    E = int(pairs.max()) + 1
    whole = lower.new_empty(len(lower), E, E)
    whole[:, pairs[0], pairs[1]] = lower
    whole[:, pairs[1], pairs[0]] = lower
    return whole
