"""Fits against the loops that people write by hand, on the same module, batches and steps.

    .venv/bin/python tests/benchmarks/fitting.py

The peers are plain PyTorch: a denoiser that regresses on the clean rows (Ho et al. 2020) and a
predictor that is scored on its masked tokens, both with Adam and rows of the data. Printed are the
ratios of time (below 1: capcheck is faster) and of what both leave to learn, measured by the same
held-out loss against the oracle.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from capcheck import fit
from capcheck.core.budget import Grid
from capcheck.core.randomness import CounterRandomness
from capcheck.data import Layout, load_target
from capcheck.fitting import RecordedRun, as_network, build, objective_for
from capcheck.fitting.batches import BatchSource
from capcheck.fitting.fit import LEARNING_RATE
from capcheck.noise.paths import PATHS
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets.target import Target

STEPS, BATCH, RUNS = 400, 512, 3
NETWORK = "mlp:width=128,depth=3"
Loss = Callable[[nn.Module, Tensor], Tensor]


def denoising(module: nn.Module, x: Tensor) -> Tensor:
    t = torch.rand(len(x), 1).expand(x.shape[:2])
    path = PATHS["cosine"]
    x_t = path.alpha(t)[..., None] * x + path.sigma(t)[..., None] * torch.randn_like(x)
    loss: Tensor = (module(x_t, t) - x).square().mean()
    return loss


def masking(module: nn.Module, x: Tensor) -> Tensor:
    known = torch.arange(x.shape[1]) < torch.randint(x.shape[1], (len(x), 1))
    first = known.sum(1, keepdim=True)  # the token that comes next
    loss: Tensor = -module(x, known).log_prob(x).gather(1, first).mean()
    return loss


def by_hand(module: nn.Module, rows: Tensor, loss: Loss) -> nn.Module:
    """Adam with a cosine, as in a tutorial."""
    adam = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    for _ in range(STEPS):
        adam.zero_grad()
        loss(module, rows[torch.randint(len(rows), (BATCH,))]).backward()
        adam.step()
        cosine.step()
    return module


def left_to_learn(module: nn.Module, supply: BatchSource) -> float:
    return supply.validate(module.eval(), torch.float32)


def compare(family: str, target: Target, rows: Tensor, loss: Loss) -> None:
    probe, budgets = build_probe(family), Grid.over(target.spec.tokens).budgets()
    module = build(probe.signature, target.spec, NETWORK)
    run = RecordedRun(Procedure.of(probe, target), budgets=budgets, seed=1)
    judge = BatchSource(
        objective_for(probe.signature, run), batch=BATCH, seed=1, device=torch.device("cpu")
    )
    spent: dict[str, list[float]] = {"capcheck": [], "by hand": []}
    left: dict[str, float] = {}
    for _ in range(RUNS):
        for name in spent:
            began = time.perf_counter()
            if name == "capcheck":
                fitted = fit(probe, target, module, budgets=budgets, steps=STEPS, batch=BATCH)
                found = fitted.network.module
            else:
                found = by_hand(copy.deepcopy(module), rows, loss)
            spent[name].append(time.perf_counter() - began)
            left[name] = left_to_learn(as_network(found, torch.float32).module, judge)
    ratio = min(spent["capcheck"]) / min(spent["by hand"])
    print(
        f"{family}, {STEPS} steps of {BATCH}: time {ratio:.2f} of the loop by hand "
        f"({min(spent['capcheck']):.1f} s); left to learn {left['capcheck']:.4g} against "
        f"{left['by hand']:.4g}"
    )


def main() -> None:
    target = load_target("digits", Layout())
    rows = target.sample(20_000, CounterRandomness(0))
    compare("diffusion", target, rows.float(), denoising)
    compare("gpt", target, rows.float(), masking)


if __name__ == "__main__":
    main()
