"""Speed and memory of the estimators, as ratios against named peers on the same samples.

    .venv/bin/python tests/benchmarks/divergences.py [mmd] [tokens] [large] [permutation] [sliced]
                                                     [transport] [neighbours] [largest]

All but `largest` run unless some are named. Ratios above 1 say how many times faster capcheck is.
Samples are float64 and both sides return a float64 number; works run in turns in one process on
one thread, and the ratio is that of the medians of CPU time, with the default allocator: most
peers lose much of theirs to page faults. The bound is the time of the matrix products and base-2
exponentials alone, at the rates measured for them in the same run. Memory is what one call adds to
the peak of a fresh process (Linux). Peers that are not installed (`pip install geomloss faiss-cpu
alibi-detect`) are named as missing.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import ot
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics.neighbours import nearest_neighbour_kl
from capcheck.diagnostics.permutation import permutation_test
from capcheck.divergences.mmd import mmd_squared, mmd_squared_terms
from capcheck.divergences.sliced import orthogonal_directions, sliced_w2_squared
from capcheck.divergences.wasserstein import Ground, transport, transport_cost

RUNS = 5
PERMUTATIONS, DIRECTIONS, NEIGHBOUR = 200, 100, 5
Work = Callable[[], object]
Build = Callable[[], Work]


def pair(n: int, dim: int) -> tuple[Tensor, Tensor]:
    return CounterRandomness(0).normal((n, dim)), CounterRandomness(1).normal((n, dim))


# Squared MMD


def mmd(n: int, dim: int) -> Work:
    x, y = pair(n, dim)
    return lambda: mmd_squared(x, y, math.sqrt(2 * dim))


def mmd_five(n: int, dim: int) -> Work:
    (x, y), h = pair(n, dim), math.sqrt(2 * dim)
    return lambda: mmd_squared_terms(x, y, bandwidths=[h / 4, h / 2, h, 2 * h, 4 * h])


def from_matrices(x: object, y: object, n: int, kernel: Callable[..., object]) -> float:
    """The U-statistic of three kernel matrices."""
    xx, yy, xy = (float(kernel(a, b).sum()) for a, b in ((x, x), (y, y), (x, y)))  # type: ignore[attr-defined]
    return (xx - n + yy - n) / (n * (n - 1)) - 2 * xy / n**2


def mmd_sklearn(n: int, dim: int) -> Work:
    x, y = (z.numpy() for z in pair(n, dim))
    return lambda: from_matrices(x, y, n, partial(rbf_kernel, gamma=0.25 / dim))


def mmd_cdist(n: int, dim: int) -> Work:
    x, y = pair(n, dim)
    return lambda: from_matrices(
        x, y, n, lambda a, b: torch.exp(torch.cdist(a, b).square() * (-0.25 / dim))
    )


def mmd_geomloss(n: int, dim: int) -> Work:
    geomloss = importlib.import_module("geomloss")
    loss = geomloss.SamplesLoss("gaussian", blur=math.sqrt(2 * dim), backend="tensorized")
    x, y = pair(n, dim)
    return lambda: loss(x, y)


def token_ids(symbols: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, symbols, (2, 3000, 64))
    return torch.from_numpy(x), torch.from_numpy(y)


def tokens(symbols: int) -> Work:
    x, y = token_ids(symbols)
    return lambda: mmd_squared(x, y, 8.0)


def tokens_scipy(symbols: int) -> Work:
    x, y = (z.numpy().astype(float) for z in token_ids(symbols))
    return lambda: from_matrices(x, y, 3000, lambda a, b: np.exp(-cdist(a, b, "hamming")))


def tokens_one_hot(symbols: int) -> Work:
    """scikit-learn's kernel of one-hot vectors."""
    x, y = (np.eye(symbols)[z].reshape(3000, -1) for z in token_ids(symbols))
    return lambda: from_matrices(x, y, 3000, partial(rbf_kernel, gamma=1 / 128))


# Permutations


def permutations() -> Work:
    x, y = pair(5000, 64)
    rng = CounterRandomness(2)
    return lambda: permutation_test(x, y, bandwidths=(8.0,), rng=rng, permutations=PERMUTATIONS)


def permutations_alibi(count: int) -> Work:
    detect = importlib.import_module("alibi_detect.cd")
    x, y = (z.float().numpy() for z in pair(5000, 64))  # which is its faster precision

    def run() -> object:
        test = detect.MMDDrift(
            x, backend="pytorch", sigma=np.array([8.0]), n_permutations=count, device="cpu"
        )
        return test.predict(y)

    return run


# Sliced and exact transport


def sliced(n: int) -> Work:
    (x, y), theta = pair(n, 64), orthogonal_directions(DIRECTIONS, 64, rng=CounterRandomness(2))
    return lambda: sliced_w2_squared(x, y, directions=theta)


def sliced_pot(n: int) -> Work:
    theta = orthogonal_directions(DIRECTIONS, 64, rng=CounterRandomness(2)).T
    x, y = (z.numpy() for z in pair(n, 64))
    return lambda: ot.sliced_wasserstein_distance(x, y, projections=theta.numpy()) ** 2


def sliced_pot_torch(n: int) -> Work:
    theta = orthogonal_directions(DIRECTIONS, 64, rng=CounterRandomness(2)).T
    x, y = pair(n, 64)
    return lambda: ot.sliced_wasserstein_distance(x, y, projections=theta) ** 2


def grounded(dim: int, ground: Ground) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two samples and their costs."""
    x, y = (z.numpy() for z in pair(1000, dim))
    if ground == "Hamming":
        x, y = x.round(), y.round()
        return x, y, np.rint(cdist(x, y, "hamming") * dim)
    return x, y, np.asarray(ot.dist(x, y))


def cost(dim: int, ground: Ground) -> Work:
    x, y, _ = grounded(dim, ground)
    return lambda: transport_cost(x, y, ground)


def plan(dim: int, ground: Ground) -> Work:
    x, y, _ = grounded(dim, ground)
    return lambda: transport(x, y, ground)


def cost_pot(dim: int, ground: Ground) -> Work:
    """The network simplex alone, its costs given."""
    costs = grounded(dim, ground)[2]
    return lambda: ot.emd2([], [], costs, numItermax=10_000_000)


def cost_assignment(dim: int, ground: Ground) -> Work:
    """scipy's assignment alone, its costs given."""
    costs = grounded(dim, ground)[2]
    return lambda: costs[linear_sum_assignment(costs)].mean()


# Nearest neighbours


def neighbours(dim: int) -> Work:
    x, y = pair(10_000, dim)
    return lambda: nearest_neighbour_kl(x, y, k=NEIGHBOUR)


def formula(rho: np.ndarray, nu: np.ndarray, dim: int) -> float:
    return float(dim * np.log(nu / rho).mean())


def neighbours_tree(dim: int) -> Work:
    x, y = (z.numpy() for z in pair(10_000, dim))

    def run() -> object:
        rho, nu = cKDTree(x).query(x, NEIGHBOUR + 1)[0], cKDTree(y).query(x, NEIGHBOUR)[0]
        return formula(rho[:, -1], nu[:, -1], dim)

    return run


def neighbours_faiss(dim: int) -> Work:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    x, y = (z.float().numpy() for z in pair(10_000, dim))

    def run() -> object:
        within, across = faiss.IndexFlatL2(dim), faiss.IndexFlatL2(dim)
        within.add(x)
        across.add(y)
        rho, nu = within.search(x, NEIGHBOUR + 1)[0], across.search(x, NEIGHBOUR)[0]
        return formula(np.sqrt(rho[:, -1]), np.sqrt(nu[:, -1]), dim)

    return run


# Measuring


def seconds(run: Work) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def high_water() -> float:
    """Peak resident memory of this process in MiB (getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def added_memory(build: Build, pipe: Connection) -> None:
    """Send the MiB by which one run raises the peak of a fresh process."""
    torch.set_num_threads(1)
    run = build()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of building the inputs is not ours
    before = high_water()
    run()
    pipe.send(high_water() - before)


def peak(build: Build) -> float:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=added_memory, args=(build, theirs))
    process.start()
    found = float(ours.recv())
    process.join()
    return found


def medians(builds: Mapping[str, Build], runs: int) -> dict[str, float]:
    """CPU seconds of each work, in turns; peers that are not installed are left out, aloud."""
    works: dict[str, Work] = {}
    for name, build in builds.items():
        try:
            works[name] = build()
        except ImportError as missing:
            print(f"    {name}: not measured, {missing.name} is not installed")
            continue
        if runs > 1:
            works[name]()
    times = [{name: seconds(run) for name, run in works.items()} for _ in range(runs)]
    return {name: statistics.median(found[name] for found in times) for name in works}


def compare(
    title: str, build: Build, peers: Mapping[str, Build], *, runs: int = RUNS, bound: float = 0.0
) -> None:
    """Print what one work takes, and how many times longer its peers take."""
    found = medians({"capcheck": build, **peers}, runs)
    own = found.pop("capcheck")
    line = f"{title}: {own:.3f} s, {peak(build):.0f} MiB beyond the inputs"
    print(line + (f", {own / bound:.2f} x the bound" if bound else ""))
    for name, taken in found.items():
        print(f"    {taken / own:.1f} times faster than {name} ({peak(peers[name]):.0f} MiB)")


def mmd_bound(n: int, dim: int) -> float:
    """Seconds of the products and exponentials of 2 n^2 pairs of rows in float32, best of ten."""
    x, tile = torch.randn(512, dim), torch.empty(512, 512)
    product = min(
        seconds(lambda: [torch.mm(x, x.T, out=tile) for _ in range(10)]) for _ in range(10)
    )
    tile.fill_(-1.0)
    power = min(seconds(lambda: [torch.exp2(tile, out=tile) for _ in range(10)]) for _ in range(10))
    return 2 * n**2 / 512**2 * (product + power) / 10


def compare_mmd() -> None:
    for dim in (2, 64, 768):
        peers = {"scikit-learn": mmd_sklearn, "cdist": mmd_cdist, "geomloss": mmd_geomloss}
        compare(
            f"MMD squared, 5,000 x {dim}",
            partial(mmd, 5000, dim),
            {name: partial(build, 5000, dim) for name, build in peers.items()},
            bound=mmd_bound(5000, dim),
            runs=3 if dim == 768 else RUNS,
        )
        found = medians({"one": partial(mmd, 5000, dim), "five": partial(mmd_five, 5000, dim)}, 3)
        print(f"    five bandwidths take {found['five'] / found['one']:.2f} times one")


def compare_tokens() -> None:
    for symbols in (2, 16):
        compare(
            f"MMD squared, 3,000 x 64 tokens of {symbols} symbols",
            partial(tokens, symbols),
            {
                "scipy's cdist": partial(tokens_scipy, symbols),
                "scikit-learn on one-hot vectors": partial(tokens_one_hot, symbols),
            },
            runs=3,
        )


def compare_large(dims: tuple[int, ...]) -> None:
    for dim in dims:
        title = f"MMD squared, 50,000 x {dim} (kernel matrices would take 60 GB)"
        compare(title, partial(mmd, 50_000, dim), {}, runs=1, bound=mmd_bound(50_000, dim))


def compare_permutations() -> None:
    compare(f"{PERMUTATIONS} permutations, 5,000 x 64", permutations, {})
    names = {f"{count} permutations": partial(permutations_alibi, count) for count in (1, 3)}
    found = medians({"capcheck": permutations, **names}, 2)
    if len(found) == 3:
        _, one, three = found.values()
        total = one + (three - one) / 2 * (PERMUTATIONS - 1)
        ratio = total / found["capcheck"]
        print(f"    {ratio:.0f} times faster than alibi-detect, extrapolated from 1 and 3 of them")


def compare_sliced() -> None:
    for n, runs in ((10_000, RUNS), (100_000, 1)):
        peers = {"POT (numpy)": sliced_pot, "POT (torch)": sliced_pot_torch}
        compare(
            f"sliced W2 squared, {DIRECTIONS} directions, {n:,} x 64",
            partial(sliced, n),
            {name: partial(build, n) for name, build in peers.items()},
            runs=runs,
        )


def compare_transport() -> None:
    cases: list[tuple[int, Ground]] = [
        (2, "squared Euclidean"),
        (64, "squared Euclidean"),
        (16, "Hamming"),
    ]
    peers = {"POT's simplex alone": cost_pot, "scipy's assignment alone": cost_assignment}
    for dim, ground in cases:
        for what, build in (("cost", cost), ("cost and potentials", plan)):
            compare(
                f"transport, {what}, 1,000 x {dim}, {ground}",
                partial(build, dim, ground),
                {name: partial(peer, dim, ground) for name, peer in peers.items()},
            )


def compare_neighbours() -> None:
    for dim in (2, 6, 8, 16, 32):
        peers = {"faiss": partial(neighbours_faiss, dim)}
        if dim <= 8:
            peers["cKDTree"] = partial(neighbours_tree, dim)
        compare(f"nearest-neighbour KL, 10,000 x {dim}", partial(neighbours, dim), peers)


SECTIONS: dict[str, Callable[[], None]] = {
    "mmd": compare_mmd,
    "tokens": compare_tokens,
    "large": partial(compare_large, (2, 64)),
    "permutation": compare_permutations,
    "sliced": compare_sliced,
    "transport": compare_transport,
    "neighbours": compare_neighbours,
    "largest": partial(compare_large, (768,)),
}


def main(chosen: list[str]) -> None:
    # numba would take the script coverage.py beside this one for the package of that name.
    sys.path[:] = [place for place in sys.path if Path(place) != Path(__file__).parent]
    torch.set_num_threads(1)
    for name in chosen:
        SECTIONS[name]()


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in SECTIONS if name != "largest"])
