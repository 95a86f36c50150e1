"""The best K latent classes for a target: q(x) = sum_c w_c prod_i q_ci(x_i) with K components.

If all sequences of the target can be listed, the classes are fitted to the law itself: by EM with
each sequence weighted by its probability, without pseudo-counts, from several starts. Each start
cuts a random order of the sequences into K parts of equal probability. Otherwise, the classes are
fitted to draws of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.sequence_law import batches, target_law
from capcheck.targets.from_data.fitted_categorical import fit_latent_class
from capcheck.targets.from_data.fitted_continuous import fit_diagonal_mixture
from capcheck.targets.from_data.maximisation import maximised
from capcheck.targets.products import Products
from capcheck.targets.target import Target, require_one_law

__all__ = ["CONVERGED", "DRAWS", "ROUNDS", "STARTS", "WARM", "best_classes", "weighted_classes"]

DRAWS = 20_000  # draws to which classes are fitted if sequences cannot be listed
STARTS = 16  # number of starts of EM
WARM = 30  # rounds of EM from each start, after which only the best one is continued
ROUNDS = 2000  # largest number of further rounds of EM
CONVERGED = 1e-12  # gain in nats per sequence below which EM stops


def best_classes(target: Target, K: int) -> Products:
    """The best K classes; the target's own components if there are at most K.

    Args:
        target: Any target; its rows must have one law, unless it has at most K components.
        K: Number of classes, at least 1.

    Raises:
        UnfitError: The classes cannot be fitted to the draws, or rows have different laws (as they
            do given tokens) of more than K components.
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
    """Fit K classes to weighted sequences by EM from several starts, and return the best fit.

    Args:
        x: Distinct sequences, (R, N) integers.
        p: Probabilities of the sequences, (R,), positive.
        K: Number of classes.
        vocabulary: Number V of values.
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
    """Initial shares of the sequences in K classes, (R, K): a random cut into equal parts."""
    order = torch.randperm(len(p), generator=generator)
    ends = p[order].cumsum(0) / p.sum()
    part = (K * (ends - 0.5 * p[order])).long().clamp(max=K - 1)
    shares = torch.zeros(len(p), K, dtype=torch.float64)
    shares[order, part] = 1
    # A small share in every class keeps classes alive that got no sequence.
    return 0.98 * shares + 0.02 / K


def _laws(x: Tensor, p: Tensor, shares: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The laws (K, N, V) and weights (K,) of the classes for posteriors `shares` (R, K)."""
    joint = p[:, None] * shares  # (R, K)
    counts = torch.zeros(shares.shape[1], x.shape[1], vocabulary, dtype=torch.float64)
    for i in range(x.shape[1]):
        counts[:, i].index_add_(1, x[:, i], joint.T)
    weights = joint.sum(0)
    tiny = torch.finfo(weights.dtype).tiny  # the weight of a class may become 0
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
