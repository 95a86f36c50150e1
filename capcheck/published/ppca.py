"""Probabilistic PCA: Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196.

A linear decoder of q latent numbers with one noise variance fits a covariance of D numbers with the
eigenvalues l_1 >= .. >= l_D best by the noise variance (equation 8)

    s2 = (l_{q+1} + .. + l_D) / (D - q),

and keeps the first q eigenvalues. What it leaves of KL follows from its likelihood,

    KL = 1/2 [(D - q) ln s2 - ln l_{q+1} - .. - ln l_D].

The covariance is circulant, with 1 on the diagonal and c between neighbours in a ring of D, so that
its eigenvalues are 1 + 2 c cos(2 pi j / D). capcheck measures `check("vae", ..)` with a linear
decoder, and reads the eigenvalues of the exact law that it samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch

from capcheck.published.cells import cell_of, exact_kl
from capcheck.published.claim import Claim, closed_form
from capcheck.targets import GaussianMixture

__all__ = ["claims"]

SOURCE = "ppca"
_claim = functools.partial(closed_form, source=SOURCE, by="check('vae')")
D, NEIGHBOURS = 6, 0.4


def claims() -> Iterator[Claim]:
    """Noise variances, kept eigenvalues and floors of KL, for 1 to 4 latent numbers."""
    ring = torch.eye(D, dtype=torch.float64)
    for step in (1, -1):
        ring = ring + NEIGHBOURS * torch.eye(D, dtype=torch.float64).roll(step, 1)
    target = GaussianMixture(torch.zeros(1, D, 1, dtype=torch.float64), ring[None])
    values = sorted(
        (1 + 2 * NEIGHBOURS * math.cos(2 * math.pi * j / D) for j in range(D)), reverse=True
    )
    for q in (0, 1, 3, 4):
        cell = cell_of("vae", target, {"latent": q, "noise": "shared"})
        assert cell.law is not None
        covariance = torch.tensor(cell.law.covariances[0], dtype=torch.float64)
        found = torch.linalg.eigvalsh(covariance).flip(0).tolist()
        left = values[q:]
        s2 = sum(left) / len(left)
        floor = 0.5 * (len(left) * math.log(s2) - sum(map(math.log, left)))
        yield _claim("equation 8", f"noise variance, q = {q}", s2, found[-1])
        if q:
            kept = f"eigenvalue {q} of the model, q = {q}"
            yield _claim("equation 7", kept, values[q - 1], found[q - 1])
        yield _claim("likelihood", f"KL, nats, q = {q}", floor, exact_kl(cell))
