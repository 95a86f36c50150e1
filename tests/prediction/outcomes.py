"""The divergence of a trained model's samples from the target, by the law of its samples.

KL(target || model) is a sum over all sequences where these are few, the closed form of two
Gaussians for a linear VAE, and otherwise the mean of log p - log q over fresh draws of the target.
MMD squared is that of samples, without bias, averaged over independent replicates, as a share of
the target's kernel variance and at the bandwidth at which it is largest, as capcheck defines it:

    mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j),  i != j,  k = exp(-|x - y|^2 / 2 h^2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from capcheck.targets.target import CategoricalTarget, Target
from prediction.densities import Predict, by_blocks, by_gaussian, by_sets, per_round, unmasking
from prediction.inversion import log_density, sample, schedule
from prediction.networks import Denoiser, FlowMap, Heads, LinearVAE, Window
from prediction.run import Run
from prediction.targets import fresh

__all__ = ["enumerated_kl", "mmd_squared", "outcome"]

LISTED = 1 << 12  # most sequences that are all listed
REPLICATES = 40  # of MMD
MULTIPLES = 0.5, 1.0, 2.0  # bandwidths, in units of the target's median distance
LogProb = Callable[[Tensor], Tensor]


def outcome(
    run: Run, network: nn.Module, target: Target, bandwidths: Sequence[float] = ()
) -> dict[str, Any]:
    """The divergence of a run with its standard error, in the unit of the prediction.

    Args:
        run: The run.
        network: Its trained network, which is set to double precision.
        target: Its target.
        bandwidths: Those of the prediction, if it has any; by default from draws of the target.

    Returns:
        value, error: The divergence and its standard error, 0 if the value is exact.
        degrees: Degrees of freedom of the error; 0 if there is none.
        kind: `exact` or `estimate`.
        draws: Fresh draws of the target that entered.
        lost, folded: Only of inverted samplers; see `prediction.inversion`.
    """
    network = network.double().eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    if run.divergence == "mmd":
        return _discrepancy(run, network, target, bandwidths)
    if isinstance(network, LinearVAE):
        moments = target.gaussian()  # type: ignore[attr-defined]
        return _exact(by_gaussian(network, *moments))
    if isinstance(network, Denoiser):
        return _inverted(run, network, target)
    log_q = _of_predictor(run, network)
    if isinstance(target, CategoricalTarget) and target.spec.dim**target.spec.tokens <= LISTED:
        return _exact(enumerated_kl(target, log_q))
    x = fresh(target, run.seed, "outcome", run.draws)
    return _averaged(target.log_prob(x) - log_q(x))


def _of_predictor(run: Run, network: nn.Module) -> LogProb:
    """The log-density of a predictor's samples by its family's procedure."""
    if isinstance(network, Window):
        return lambda x: network.log_prob(x).sum(1)
    if isinstance(network, Heads):
        return lambda x: by_blocks(network, x)
    predict: Predict = network.log_prob  # type: ignore[assignment]

    def log_q(x: Tensor) -> Tensor:
        N = x.shape[1]
        if run.family == "masked_diffusion":
            return by_sets(predict, unmasking(N, run.steps), x)
        return by_sets(predict, per_round(N, int(run.options["tokens_per_round"])), x)

    return log_q


def enumerated_kl(target: CategoricalTarget, log_q: LogProb) -> float:
    """KL in nats of the tokens that count, by a sum over all sequences."""
    spec = target.spec
    x = torch.tensor(list(itertools.product(range(spec.dim), repeat=spec.tokens)))
    counted = list(range(spec.tokens)) if spec.scored is None else list(spec.scored)
    place = spec.dim ** torch.arange(len(counted))
    group = (x[:, counted] * place).sum(1)
    p, q = (
        torch.zeros(spec.dim ** len(counted), dtype=torch.float64).index_add_(0, group, log.exp())
        for log in (target.log_prob(x).double(), log_q(x))
    )
    assert math.isclose(float(q.sum()), 1, abs_tol=1e-9)
    seen = p > 0
    return float((p[seen] * (p[seen] / q[seen]).log()).sum())


def _inverted(run: Run, network: Denoiser, target: Target) -> dict[str, Any]:
    x = fresh(target, run.seed, "outcome", run.draws)
    name = str(run.options.get("schedule", "full_sequence"))
    rng = torch.Generator().manual_seed(run.seed)
    found = log_density(network, schedule(x.shape[1], run.steps, name), x[..., 0], rng)
    ratios = target.log_prob(x) - found.log_q
    return _averaged(ratios) | {"lost": found.lost, "folded": found.folded}


def _discrepancy(
    run: Run, network: nn.Module, target: Target, bandwidths: Sequence[float]
) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(run.seed)
    shape = REPLICATES, run.draws, target.spec.tokens
    noise = torch.randn(shape, generator=rng, dtype=torch.float64)
    y = fresh(target, run.seed, "outcome", REPLICATES * run.draws)[..., 0].reshape(shape)
    unit = float(torch.nn.functional.pdist(y[:4].flatten(0, 1)).median())
    values = np.array(
        [
            [mmd_squared(_made(run, network, z), own, h) for z, own in zip(noise, y, strict=True)]
            for h in bandwidths or [unit * multiple for multiple in MULTIPLES]
        ]
    )
    largest = values[values.mean(1).argmax()]
    return {
        "value": float(largest.mean()),
        "error": float(largest.std(ddof=1)) / math.sqrt(REPLICATES),
        "degrees": REPLICATES - 1,
        "kind": "estimate",
        "draws": REPLICATES * run.draws,
    }


def _made(run: Run, network: nn.Module, noise: Tensor) -> Tensor:
    """The samples (n, N) that a network makes of noise (n, N)."""
    if isinstance(network, FlowMap):
        made: Tensor = network(noise)
        return made
    assert isinstance(network, Denoiser)
    return sample(network, schedule(noise.shape[1], run.steps), noise)


def mmd_squared(x: Tensor, y: Tensor, h: float) -> float:
    """Unbiased MMD squared of two samples (n, N), as a share of 1 - E k(Y, Y')."""
    n = len(x)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * h**2)).exp()

    within, own = ((kernel(a, a).sum() - n) / (n * (n - 1)) for a in (x, y))
    return float((within + own - 2 * kernel(x, y).mean()) / (1 - own))


def _exact(value: float) -> dict[str, Any]:
    return {"value": value, "error": 0.0, "degrees": 0, "kind": "exact", "draws": 0}


def _averaged(ratios: Tensor) -> dict[str, Any]:
    n = len(ratios)
    return {
        "value": float(ratios.mean()),
        "error": float(ratios.std()) / math.sqrt(n) if ratios.isfinite().all() else 0.0,
        "degrees": n - 1,
        "kind": "estimate",
        "draws": n,
    }
