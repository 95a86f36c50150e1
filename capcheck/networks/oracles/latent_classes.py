"""The best K latent classes for a target: q(x) = sum_c w_c prod_i q_ci(x_i) with K components.

Where all sequences are listed the classes are fitted to the law itself: EM with each sequence
counted by its probability, without pseudo-counts, from starts that cut a random order of the
sequences into K parts of equal probability. Otherwise they are fitted to draws of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.sequence_law import batches, target_law
from capcheck.targets.from_data.fitting import fit_diagonal_mixture, fit_latent_class
from capcheck.targets.from_data.maximisation import maximised
from capcheck.targets.products import Products
from capcheck.targets.target import Target, require_one_law

__all__ = ["CONVERGED", "DRAWS", "ROUNDS", "STARTS", "WARM", "best_classes", "weighted_classes"]

DRAWS = 20_000  # that classes are fitted to where sequences cannot be listed
STARTS = 16
WARM = 30  # rounds after which the best start is known
ROUNDS = 2000
CONVERGED = 1e-12  # gain in nats per sequence below which rounds stop


def best_classes(target: Target, K: int) -> Products:
    """K classes, or the target's own components if they are no more.

    Args:
        target: Any; one law for all rows, unless its own components are no more.
        K: At least 1.

    Raises:
        UnfitError: K classes cannot be fitted to the draws, or each row has a law of its own, as
            given tokens make, of more than K components.
    """
    own = target.products()
    if own is not None and own.log_weights.shape[1] <= K:
        return own
    require_one_law(target, "vae.classes")
    law = target_law(target)
    if not isinstance(law, Unavailable):
        listed = law.log_probabilities > -torch.inf
        x = torch.cat(list(batches(target.spec)))[listed]
        fitted = weighted_classes(x, law.probabilities[listed], K, vocabulary=target.spec.dim)
        products = fitted.to(device=target.device, dtype=target.dtype).products()
    else:
        products = _fitted_to_draws(target, K)
    return products


def weighted_classes(x: Tensor, p: Tensor, K: int, *, vocabulary: int) -> CategoricalMixture:
    """The best of some starts of EM on weighted sequences.

    Args:
        x: (R, N) integers, each sequence once.
        p: (R,) their probabilities, positive.
        K: Classes.
        vocabulary: V.
    """

    def improve(shares: Tensor) -> tuple[tuple[Tensor, Tensor], float, Tensor]:
        laws, weights = _laws(x, p, shares, vocabulary)
        log_joint = weights.log() + sum(laws[:, i].log().T[x[:, i]] for i in range(x.shape[1]))
        return (laws, weights), float(p @ log_joint.logsumexp(1)), log_joint.softmax(1)

    laws, weights = maximised(
        lambda generator: _cut(p, K, generator),
        improve,
        seed=0,
        starts=STARTS,
        warm=WARM,
        rounds=ROUNDS,
        converged=CONVERGED,
    )
    alive = weights > 0
    return CategoricalMixture(laws[alive], weights[alive])


def _cut(p: Tensor, K: int, generator: torch.Generator) -> Tensor:
    """A random order of the sequences cut into K parts of equal probability, (R, K)."""
    order = torch.randperm(len(p), generator=generator)
    ends = p[order].cumsum(0) / p.sum()
    part = (K * (ends - 0.5 * p[order])).long().clamp(max=K - 1)
    shares = torch.zeros(len(p), K, dtype=torch.float64)
    shares[order, part] = 1
    # A little of every class keeps one that got no sequence alive.
    return 0.98 * shares + 0.02 / K


def _laws(x: Tensor, p: Tensor, shares: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Laws (K, N, V) of the classes with these posteriors, and their weights (K,)."""
    joint = p[:, None] * shares  # (R, K)
    counts = torch.zeros(shares.shape[1], x.shape[1], vocabulary, dtype=torch.float64)
    for i in range(x.shape[1]):
        counts[:, i].index_add_(1, x[:, i], joint.T)
    weights = joint.sum(0)
    tiny = torch.finfo(weights.dtype).tiny  # a class may die
    return counts / weights.clamp(min=tiny)[:, None, None], weights / weights.sum()


def _fitted_to_draws(target: Target, K: int) -> Products:
    spec = target.spec
    draws = target.sample(DRAWS, CounterRandomness(0, name="classes", device=target.device))
    rows = draws.cpu().numpy()
    if spec.kind == "continuous":
        fitted: Target = fit_diagonal_mixture(rows, K)
    else:
        fitted = fit_latent_class(rows, K, vocabulary=spec.dim)
    products = fitted.to(device=target.device, dtype=target.dtype).products()
    if products is None:
        raise UnfitError(f"vae.classes could not be fitted to {DRAWS} draws; leave it out.")
    return products
