"""Speed and memory of the oracles of known targets, as ratios against named peers on the same work.

    .venv/bin/python tests/benchmarks/targets.py [denoiser] [chain] [mixture] [building]

Below 1 capcheck is faster. Every pair runs in turns, in one process and on one thread; the ratio is
that of the medians, and in brackets stand the least and the largest ratio of a turn. The bound is
the time of the matrix products alone, at the rate that was measured for them in the same run.
Memory is what one call adds to the peak of a fresh process (Linux). Peers that are not installed
(`pip install hmmlearn dynamax`) are named as such.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from capcheck.noise.paths import PATHS
from capcheck.targets import GaussianMixture, HiddenMarkov, ProductMixture, from_samples
from capcheck.targets.from_data.bandwidth import FEW
from capcheck.targets.from_data.empirical_categorical import QUERIES as LEFT_OUT

RUNS = 5
GOAL = 1.3  # times the bound that the denoiser may take
MISSED = "the 16 largest logits are sought in every tile (8%), and exp and centring take 6%"
Work = Callable[[], object]
Build = Callable[[], Work]

# The empirical denoiser: 1,000 queries against 60,000 rows of 784 numbers.
QUERIES, ROWS, PIXELS, LEVEL, BANDWIDTH = 1000, 60_000, 784, 0.3, 0.1


def data(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, PIXELS, generator=generator)


def denoiser() -> Work:
    scales = torch.full((PIXELS, 1), BANDWIDTH, dtype=torch.float64)
    target = ProductMixture(data(ROWS, 0)[..., None], scales)
    x, levels = data(QUERIES, 1)[..., None], torch.full((QUERIES, PIXELS), LEVEL)
    return lambda: target.denoise(x, levels, PATHS["linear"])


def denoiser_cdist() -> Work:
    """The textbook version: all distances, one softmax, one product."""
    means, x = data(ROWS, 0), data(QUERIES, 1)
    alpha, variance = 1 - LEVEL, (1 - LEVEL) ** 2 * BANDWIDTH**2 + LEVEL**2

    def run() -> object:
        distance = torch.cdist(x, alpha * means).square()
        average = torch.softmax(-0.5 * distance / variance, 1) @ means
        gain = LEVEL**2 / variance
        return gain * average + alpha * BANDWIDTH**2 * x / variance

    return run


def denoiser_attention() -> Work:
    """torch's scaled-dot-product attention: the norms of the keys enter as one more feature."""
    means, x = data(ROWS, 0), data(QUERIES, 1)
    alpha, variance = 1 - LEVEL, (1 - LEVEL) ** 2 * BANDWIDTH**2 + LEVEL**2
    norms = -0.5 * alpha**2 / variance * means.square().sum(1, keepdim=True)
    keys = torch.cat([means, norms], 1)[None, None]

    def run() -> object:
        queries = torch.cat([alpha / variance * x, torch.ones(len(x), 1)], 1)[None, None]
        average = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, means[None, None], scale=1.0
        )[0, 0]
        return LEVEL**2 / variance * average + alpha * BANDWIDTH**2 * x / variance

    return run


# Forward-backward: 64 sequences of 1,024 tokens over 32 symbols.
SEQUENCES, TOKENS, SYMBOLS = 64, 1024, 32


def chain_parameters(states: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(states)
    initial = rng.dirichlet(np.ones(states))
    transition = rng.dirichlet(np.ones(states), states)
    emission = rng.dirichlet(np.ones(SYMBOLS), states)
    return initial, transition, emission, rng.integers(0, SYMBOLS, (SEQUENCES, TOKENS))


def chain(states: int, dtype: torch.dtype) -> Build:
    def build() -> Work:
        *tables, x = chain_parameters(states)
        initial, transition, emission = (torch.tensor(table).to(dtype) for table in tables)
        model = HiddenMarkov(initial, transition, emission, tokens=TOKENS)
        rows, known = torch.tensor(x), torch.ones(x.shape, dtype=torch.bool)
        return lambda: model.state_posterior(rows, known)

    return build


def chain_hmmlearn(states: int) -> Build:
    def build() -> Work:
        hmm = importlib.import_module("hmmlearn.hmm")
        initial, transition, emission, x = chain_parameters(states)
        model = hmm.CategoricalHMM(states, implementation="scaling", n_features=SYMBOLS)
        model.startprob_, model.transmat_, model.emissionprob_ = initial, transition, emission
        column, lengths = x.reshape(-1, 1), [TOKENS] * SEQUENCES
        return lambda: model.predict_proba(column, lengths)

    return build


def chain_dynamax(states: int) -> Build:
    def build() -> Work:
        jax = importlib.import_module("jax")
        hmm = importlib.import_module("dynamax.hidden_markov_model")
        initial, transition, emission, x = chain_parameters(states)
        start, step = jax.numpy.asarray(initial), jax.numpy.asarray(transition)
        log_emission = jax.numpy.log(jax.numpy.asarray(emission))

        def smooth(row: Any) -> Any:
            return hmm.hmm_smoother(start, step, log_emission.T[row]).smoothed_probs

        rows, run = jax.numpy.asarray(x), jax.jit(jax.vmap(smooth))
        return lambda: run(rows).block_until_ready()

    return build


# Denoising under a mixture of 100 Gaussians with full covariances.
COMPONENTS, DIMENSIONS, POINTS = 100, 64, 10_000


def mixture_parameters() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(COMPONENTS, DIMENSIONS, generator=generator)
    roots = torch.randn(COMPONENTS, DIMENSIONS, DIMENSIONS, generator=generator)
    covariances = roots @ roots.mT / DIMENSIONS + 0.1 * torch.eye(DIMENSIONS)
    return means, covariances, torch.randn(POINTS, DIMENSIONS, generator=generator)


def mixture() -> Work:
    means, covariances, x = mixture_parameters()
    target = GaussianMixture(means[..., None], covariances)
    rows, levels = x[..., None], torch.full((POINTS, DIMENSIONS), LEVEL)
    return lambda: target.denoise(rows, levels, PATHS["linear"])


def mixture_autograd() -> Work:
    """The score by torch.distributions and autograd, and from it the posterior mean."""
    means, covariances, x = mixture_parameters()
    noisy = (1 - LEVEL) ** 2 * covariances + LEVEL**2 * torch.eye(DIMENSIONS)
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(COMPONENTS)),
        torch.distributions.MultivariateNormal((1 - LEVEL) * means, noisy),
    )

    def run() -> object:
        point = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(law.log_prob(point).sum(), point)
        return (x + LEVEL**2 * score) / (1 - LEVEL)

    return run


# Building a target of 60,000 rows of 784 numbers: distinct rows, bandwidths, held-out scores.
def images() -> torch.Tensor:
    """Rows near a surface of 32 dimensions, as images are."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(ROWS, 32, generator=generator)
    rows = (latent @ torch.randn(32, PIXELS, generator=generator) / 4).tanh_()
    return rows.add_(torch.randn(ROWS, PIXELS, generator=generator), alpha=0.1)


def building() -> Work:
    rows = images()
    return lambda: from_samples(rows)


def building_products() -> float:
    """Multiply-adds: 13 bandwidths thrice, two scores, and half of a symmetric product."""
    most, train = LEFT_OUT + 2 * FEW, 4 * ROWS // 5
    return PIXELS * (most * (ROWS + train) + 2 * LEFT_OUT * train + train * PIXELS / 2)


def seconds(run: Work) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def product_rate(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Multiply-adds per second of a matrix product of that shape, best of several."""
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    out = torch.empty(rows, columns, dtype=dtype)
    return rows * inner * columns / min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(10))


def high_water() -> float:
    """Peak resident memory of this process in MiB (getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def added_memory(name: str, pipe: Connection) -> None:
    """Send the MiB by which one run raises the peak of a fresh process."""
    torch.set_num_threads(1)
    run = WORKS[name]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of building the inputs is not ours
    before = high_water()
    run()
    pipe.send(high_water() - before)


def peak(name: str) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=added_memory, args=(name, theirs))
    process.start()
    found = float(ours.recv())
    process.join()
    return found


WORKS: dict[str, Build] = {
    "denoiser": denoiser,
    "denoiser, cdist and softmax": denoiser_cdist,
    "denoiser, scaled-dot-product attention": denoiser_attention,
    **{
        f"chain, {states} states, {str(dtype).removeprefix('torch.')}": chain(states, dtype)
        for states in (32, 128)
        for dtype in (torch.float64, torch.float32)
    },
    **{f"chain, {states} states, hmmlearn": chain_hmmlearn(states) for states in (32, 128)},
    **{f"chain, {states} states, dynamax": chain_dynamax(states) for states in (32, 128)},
    "mixture": mixture,
    "mixture, torch.distributions and autograd": mixture_autograd,
    "building": building,
}


def compare(
    ours: str, peers: list[str], *, bound: float, goal: float | None = None, runs: int = RUNS
) -> None:
    """Print one work's share of the matrix-product rate, its memory, and its ratios to peers."""
    works: dict[str, Work] = {}
    missing: list[str] = []
    for name in [ours, *peers]:
        try:
            works[name] = WORKS[name]()
            seconds(works[name])
        except ImportError as error:
            missing.append(f"    {name}: not installed ({error.name})")
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(runs):
        for name, run in works.items():
            times[name].append(seconds(run))
    own = statistics.median(times[ours])
    line = f"{ours}: {own / bound:.2f} x the matrix-product bound ({bound / own:.0%} of the rate)"
    if goal is not None:
        line += f", goal {goal:.2f} {'met' if own <= goal * bound else f'missed: {MISSED}'}"
    print(f"{line}, {peak(ours):.1f} MiB beyond the inputs")
    for name in list(works)[1:]:
        ratio = own / statistics.median(times[name])
        turns = [a / b for a, b in zip(times[ours], times[name], strict=True)]
        spread = f"[{min(turns):.2f}, {max(turns):.2f}]"
        print(f"    {ratio:.2f} {spread} of the time of {name} ({peak(name):.0f} MiB)")
    print(*missing, sep="\n", end="\n" if missing else "")


def chain_bound(states: int, dtype: torch.dtype) -> float:
    """Seconds of the products of both passes: a step takes every sequence's states along."""
    products = 2 * SEQUENCES * TOKENS * states**2
    return products / product_rate(SEQUENCES, states, states, dtype)


def main(chosen: list[str]) -> None:
    torch.set_num_threads(1)
    if "denoiser" in chosen:
        rate = product_rate(QUERIES, PIXELS, 2048, torch.float32)
        peers = [name for name in WORKS if name.startswith("denoiser,")]
        compare("denoiser", peers, bound=2 * QUERIES * ROWS * PIXELS / rate, goal=GOAL)
    if "chain" in chosen:
        for states in (32, 128):
            for dtype, peer in ((torch.float64, "hmmlearn"), (torch.float32, "dynamax")):
                name = str(dtype).removeprefix("torch.")  # in which the peer is, too
                bound = chain_bound(states, dtype)
                compare(
                    f"chain, {states} states, {name}",
                    [f"chain, {states} states, {peer}"],
                    bound=bound,
                )
    if "mixture" in chosen:
        rate = product_rate(POINTS, DIMENSIONS, COMPONENTS * DIMENSIONS, torch.float32)
        bound = 2 * POINTS * DIMENSIONS * COMPONENTS * DIMENSIONS / rate
        compare("mixture", ["mixture, torch.distributions and autograd"], bound=bound)
    if "building" in chosen:
        rate = product_rate(LEFT_OUT, PIXELS, 512, torch.float64)
        compare("building", [], bound=building_products() / rate, runs=1)


if __name__ == "__main__":
    main(sys.argv[1:] or ["denoiser", "chain", "mixture", "building"])
