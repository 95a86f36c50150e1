"""Exact laws by replay, against explicit matrices, scipy, quadrature and real draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.gaussians import autoregressive, log_normal
from scipy import linalg, stats
from scipy.special import logsumexp

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact import replay as module
from capcheck.exact.replay import replayed_law
from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.networks.signatures import Denoiser, DenoiserSignature
from capcheck.procedures.probe import Probe, State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.procedures.rows import Row
from capcheck.targets import GaussianMixture, Target, from_spec

Array = NDArray[np.float64]
AR1: Array = autoregressive(4, 0.9).covariances[0]
MEAN = np.array([0.5, -1.0, 2.0, 0.25])


def gaussian(mean: Array, covariance: Array, dim: int = 1) -> GaussianMixture:
    return GaussianMixture(
        torch.tensor(mean.reshape(1, -1, dim)), torch.tensor(covariance[None].copy())
    )


def law_of(
    family: str, target: Target, length: int, steps: int = 1, **options: Any
) -> GaussianLaw | MixtureLaw | Unavailable:
    return law_by(build_probe(family, options), target, length, steps)


def law_by(
    probe: Probe[Any], target: Target, length: int = 4, steps: int = 1
) -> GaussianLaw | MixtureLaw | Unavailable:
    law = Procedure.of(probe, target).exact_law(Budget(length=length, steps=steps))
    assert isinstance(law, (GaussianLaw, MixtureLaw, Unavailable))
    return law


def one(law: GaussianLaw | MixtureLaw | Unavailable) -> GaussianLaw:
    assert isinstance(law, GaussianLaw), law
    return law


def several(law: GaussianLaw | MixtureLaw | Unavailable) -> MixtureLaw:
    assert isinstance(law, MixtureLaw), law
    return law


def assert_refused(law: GaussianLaw | MixtureLaw | Unavailable, because: str) -> None:
    assert isinstance(law, Unavailable), law
    assert because in law.reason


def assert_law(law: GaussianLaw, mean: Array, covariance: Array) -> None:
    np.testing.assert_allclose(law.mean.numpy(), mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(law.covariance.numpy(), covariance, rtol=0, atol=1e-11)


def kl(m0: Array, S0: Array, m1: Array, S1: Array) -> float:
    """KL(N(m0, S0) || N(m1, S1)) = 1/2 (tr S1^-1 S0 - D + d S1^-1 d + log |S1| / |S0|)."""
    P, d = np.linalg.inv(S1), m1 - m0
    logs = np.linalg.slogdet(S1)[1] - np.linalg.slogdet(S0)[1]
    return float(0.5 * (np.trace(P @ S0) - len(d) + d @ P @ d + logs))


def flow(mean: Array, S: Array, k: int, solver: str) -> tuple[Array, Array]:
    """b and A of k steps on the cosine path, from x0 = mean + a S (a^2 S + s^2)^-1 (x - a mean)."""
    identity = np.eye(len(S))

    def denoised(t: float, b: Array, A: Array) -> tuple[Array, Array]:
        a, s = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
        J = a * S @ np.linalg.inv(a**2 * S + s**2 * identity)
        return mean + J @ (b - a * mean), J @ A

    def slope(t: float, b: Array, A: Array) -> list[Array]:
        a, s = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
        x0 = denoised(t, b, A)
        return [
            np.pi / 2 * (-s * clean + a * (x - a * clean) / s)
            for x, clean in zip((b, A), x0, strict=True)
        ]

    b, A = np.zeros(len(S)), identity
    for t, u in itertools.pairwise(np.linspace(1, 0, k + 1)):
        if solver == "heun" and u > 0:
            first = slope(t, b, A)
            second = slope(u, b + (u - t) * first[0], A + (u - t) * first[1])
            b = b + (u - t) * (first[0] + second[0]) / 2
            A = A + (u - t) * (first[1] + second[1]) / 2
            continue
        a_t, s_t = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
        a_u, s_u = np.cos(np.pi * u / 2), np.sin(np.pi * u / 2)
        b0, A0 = denoised(t, b, A)
        b = a_u * b0 + s_u / s_t * (b - a_t * b0)
        A = a_u * A0 + s_u / s_t * (A - a_t * A0)
    return b, A


def in_blocks(
    S: Array, blocks: Sequence[Sequence[int]], seen: Sequence[Sequence[int]] | None = None
) -> Array:
    """Covariance if the tokens of a block are drawn independently given what they see.

    By default that is all blocks before theirs.
    """
    R = np.zeros_like(S)  # x = R z
    known: list[int] = []
    for b, block in enumerate(blocks):
        given = known if seen is None else list(seen[b])
        for i in block:
            beta = np.linalg.solve(S[np.ix_(given, given)], S[given, i])
            R[i] = beta @ R[given]
            R[i, i] = np.sqrt(S[i, i] - beta @ S[given, i])
        known = [*known, *block]
    covariance: Array = R @ R.T
    return covariance


def orders_of(sizes: Sequence[int], S: Array) -> list[Array]:
    """The covariance of each of the N! orders, when that many tokens are placed after rounds."""
    N, covariances = len(S), []
    for order in itertools.permutations(range(N)):
        blocks = [order[a:b] for a, b in itertools.pairwise([*sizes, N])]
        covariances.append(in_blocks(S, blocks))
    return covariances


@dataclass(frozen=True, kw_only=True)
class Made(Probe[Denoiser]):
    """Writes what a function makes of its random numbers."""

    family: ClassVar[str] = "made"
    row: ClassVar[Row] = "neither"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})

    make: Callable[[Randomness, tuple[int, int, int]], torch.Tensor]

    @property
    def signature(self) -> DenoiserSignature:
        return DenoiserSignature("cosine")

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Any:
        yield start
        yield start.write(self.make(rng, (start.n, spec.tokens, spec.dim)).to(spec.mean))


def made(
    make: Callable[[Randomness, tuple[int, int, int]], torch.Tensor],
    dtype: torch.dtype = torch.float64,
) -> GaussianLaw | MixtureLaw | Unavailable:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.9").to(device="cpu", dtype=dtype)
    return law_by(Made(make=make), target)


# The replay


@pytest.mark.parametrize("k", [4, 16, 64])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_kl_of_diffusion_is_that_of_the_product_of_its_steps(k: int, solver: str) -> None:
    for mean in (np.zeros(4), MEAN):
        law = one(law_of("diffusion", gaussian(mean, AR1), 4, k, solver=solver))
        b, A = flow(np.zeros(4), AR1, k, solver)  # a procedure works around the target's mean
        assert_law(law, mean + b, A @ A.T)
        target = torch.tensor(mean), torch.tensor(AR1)
        assert law.kl_from(*target) == pytest.approx(kl(mean, AR1, mean, A @ A.T), abs=1e-10)
        assert law.kl_to(*target) == pytest.approx(kl(mean, A @ A.T, mean, AR1), abs=1e-10)
        wrong = flow(np.zeros(4), AR1, k + 1, solver)[1]
        assert abs(law.kl_from(*target) - kl(mean, AR1, mean, wrong @ wrong.T)) > 1e-7


@pytest.mark.parametrize("length", range(5))
def test_gpt_is_its_conditional_gaussians(length: int) -> None:
    law = one(law_of("gpt", gaussian(MEAN, AR1), length))
    rest = list(range(length, 4))
    covariance = in_blocks(AR1, [*([i] for i in range(length)), rest])
    assert_law(law, MEAN, covariance)
    expected = kl(MEAN, AR1, MEAN, covariance)
    assert law.kl_from(torch.tensor(MEAN), torch.tensor(AR1)) == pytest.approx(expected, abs=1e-10)
    assert (expected > 0.01) == (length < 3)


@pytest.mark.parametrize("length", [2, 4])
def test_a_window_forgets_what_lies_before_it(length: int) -> None:
    S = autoregressive(4, 0.9).covariances[0] + 0.5 * np.eye(4)  # not of Markov order 1
    law = one(law_of("gpt", gaussian(MEAN, S), length, window=1))
    blocks = [*([i] for i in range(length)), list(range(length, 4))]
    seen = [*([i - 1] if i else [] for i in range(length)), list(range(length))]
    assert_law(law, MEAN, in_blocks(S, blocks, seen))
    assert np.abs(law.covariance.numpy() - in_blocks(S, blocks)).max() > (1e-3 if length > 2 else 0)


def test_tokens_of_two_dimensions_are_drawn_from_their_joint_law() -> None:
    # Two tokens in R^2 from their marginals: the blocks of S, and nothing between them.
    S = stats.wishart(9, np.eye(4)).rvs(random_state=3)
    expected = S.copy()
    expected[:2, 2:] = expected[2:, :2] = 0
    target = gaussian(MEAN, S, dim=2)
    assert_law(one(law_of("gpt", target, 0)), MEAN, expected)
    assert_law(one(law_of("gpt", target, 1)), MEAN, S)


def test_maskgit_in_fixed_order_draws_its_rounds_independently() -> None:
    # floor(4 cos(pi / 4)) = 2 tokens are left after round 1 of 2.
    target = gaussian(MEAN, AR1)
    law = one(law_of("maskgit", target, 4, order="fixed", rounds=2))
    assert_law(law, MEAN, in_blocks(AR1, [[0, 1], [2, 3]]))
    cut = one(law_of("maskgit", target, 3, order="fixed", rounds=2))
    assert_law(cut, MEAN, in_blocks(AR1, [[0, 1], [2], [3]]))


@pytest.mark.parametrize(
    ("length", "sizes", "distinct"),
    # Which tokens share a round decides; a token that is drawn alone is drawn exactly.
    [(0, [0], 1), (1, [0, 1], 4), (3, [0, 2, 3], 6), (4, [0, 2], 6)],
)
def test_random_order_is_the_mixture_over_all_orders(
    length: int, sizes: list[int], distinct: int
) -> None:
    S = autoregressive(4, 0.9).covariances[0] * np.outer([1, 2, 3, 4], [1, 2, 3, 4])
    target = gaussian(MEAN, S)
    law = law_of("maskgit", target, length, rounds=2)
    if distinct == 1:
        assert_law(one(law), MEAN, np.diag(np.diag(S)))
        return
    law = several(law)
    assert len(law.laws) == distinct
    covariances = orders_of(sizes, S)
    assert len({np.round(C, 9).tobytes() for C in covariances}) >= distinct
    np.testing.assert_allclose(law.mean, MEAN, atol=1e-12)
    np.testing.assert_allclose(law.covariance, np.mean(covariances, axis=0), atol=1e-11)
    x = np.random.default_rng(1).normal(size=(30, 4)) @ np.linalg.cholesky(S).T + MEAN
    terms = [log_normal(x, MEAN, C) for C in covariances]
    expected = logsumexp(terms, axis=0) - math.log(24)
    points = torch.tensor(x[..., None])
    np.testing.assert_allclose(law.log_prob(points), expected, atol=1e-10)
    probe = build_probe("maskgit", {"rounds": 2})
    procedure, budget = Procedure.of(probe, target), Budget(length=length, steps=1)
    own = procedure.log_density(budget, points, CounterRandomness(0))
    assert isinstance(own, LogDensity)
    np.testing.assert_allclose(law.log_prob(points), own.values, atol=1e-10)
    assert np.abs(np.mean(terms, axis=0) - expected).max() > 1e-3  # not the mean over orders


def test_one_token_per_round_is_exact_in_every_order() -> None:
    law = one(law_of("maskgit", gaussian(MEAN, AR1), 4, tokens_per_round=1))
    assert_law(law, MEAN, AR1)


def test_draws_of_the_procedure_have_the_law_that_the_replay_finds() -> None:
    target, budget, n = gaussian(MEAN, AR1), Budget(length=3, steps=1), 40_000
    probe = build_probe("maskgit", {"rounds": 2})
    rng = CounterRandomness(5, name="model")
    drawn = Procedure.of(probe, target).sample(budget, n, rng)[..., 0].numpy() - MEAN
    products = drawn[:, :, None] * drawn[:, None, :]  # (n, 4, 4)

    def worst(length: int) -> float:
        law = several(law_of("maskgit", target, length, rounds=2))
        difference = products.mean(0) - law.covariance.numpy()
        return float(np.abs(difference / products.std(0) * math.sqrt(n)).max())

    assert worst(3) < 4
    assert worst(1) > 10


def test_a_stream_opened_twice_repeats_itself() -> None:
    def repeated(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        return rng.stream("a").normal(shape) + rng.stream("a").normal(shape)

    def fresh(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        return rng.stream("a").normal(shape) + rng.stream("b").normal(shape)

    assert_law(one(made(repeated)), np.zeros(4), 4 * np.eye(4))
    assert_law(one(made(fresh)), np.zeros(4), 2 * np.eye(4))
    drawn = repeated(CounterRandomness(0), (20_000, 4, 1))
    assert float(drawn.var()) == pytest.approx(4, abs=0.1)


def test_blocks_of_rows_give_the_same_law(monkeypatch: pytest.MonkeyPatch) -> None:
    target = gaussian(MEAN, AR1)
    whole = several(law_of("maskgit", target, 4, rounds=2))
    for block in (40, 300):
        monkeypatch.setattr(module, "BLOCK", block)
        parts = several(law_of("maskgit", target, 4, rounds=2))
        for a, b in zip(whole.laws, parts.laws, strict=True):
            assert_law(a, b.mean.numpy(), b.covariance.numpy())


# What is refused


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", [0, 1e-4, -1e-4])
def test_a_mildly_cubic_procedure_is_refused(c: float, dtype: torch.dtype) -> None:
    def cubic(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        z = rng.normal(shape).to(dtype)
        return z.cumsum(1) + c * z**3

    law = made(cubic, dtype)
    if c == 0:
        assert_law(one(law), np.zeros(4), np.tril(np.ones((4, 4))) @ np.triu(np.ones((4, 4))))
    else:
        assert_refused(law, "not affine in the normal draws: check rows miss by up to")


def test_a_small_curvature_beside_a_large_coordinate_is_refused() -> None:
    target = gaussian(np.array([0, 1e3, 0, 0]), np.diag([1e-3, 1e3, 1, 1]) ** 2)

    def curved(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        z = rng.normal(shape) * torch.tensor([1e-3, 1e3, 1, 1])[:, None]
        return z + c * (z[:, :1] * 1e3).square() * 1e-3 * torch.eye(4)[:, :1]

    c = 0.0
    assert one(law_by(Made(make=curved), target)).rank == 4
    c = 1e-4
    assert_refused(law_by(Made(make=curved), target), "not affine")


def test_accepting_and_rejecting_is_refused() -> None:
    def accepting(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        x, proposal = rng.normal(shape), rng.normal(shape)
        log_ratio = 0.5 * sharpness * (x.square() - proposal.square()).sum((1, 2))
        kept = rng.uniform((shape[0],)).log() < log_ratio
        return torch.where(kept[:, None, None], proposal, x)

    sharpness = 0.3
    assert_refused(made(accepting), "not affine")
    sharpness = 0.0  # always accepts: the uniform is drawn and changes nothing
    assert_law(one(made(accepting)), np.zeros(4), np.eye(4))


@pytest.mark.parametrize("interval", [(0.999, 1), (0, 0.001), (0.7, 0.75)])
def test_a_procedure_that_uses_a_uniform_is_refused(interval: tuple[float, float]) -> None:
    def jumping(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        u = rng.uniform(shape)
        return rng.normal(shape) + 1e-3 * ((u > interval[0]) & (u < interval[1]))

    assert_refused(made(jumping), "depends on uniform draws")


def test_confidence_order_mixtures_and_categorical_tokens_are_refused() -> None:
    target = gaussian(MEAN, AR1)
    assert_refused(law_of("maskgit", target, 4, order="confidence"), "not affine")
    assert_refused(law_of("diffusion", from_spec("modes:tokens=2"), 2, 4), "not affine")
    assert_refused(law_of("gpt", from_spec("modes:tokens=2"), 2), "not affine")
    assert_refused(replayed_law(_unused, from_spec("copy:tokens=2").spec), "continuous")


def _unused(n: int, rng: Randomness) -> torch.Tensor:
    raise AssertionError("it was refused before it ran")


def test_draws_that_change_from_run_to_run_are_refused() -> None:
    def shapely(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        x = rng.normal(shape)
        extra = rng.normal((shape[0], 2 if bool(x.any()) else 1))
        return x + extra[:, :1, None]

    def sometimes(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        x = rng.normal(shape)
        return x if bool(x.any()) else x + rng.normal(shape)

    def more(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        x = rng.normal(shape)
        return x + rng.normal(shape) if bool(x.any()) else x

    def common(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        return rng.normal((1, *shape[1:])).expand(shape)

    changing = "which draws are made is not the same in all runs: draw 1 of stream ''"
    for make in (shapely, sometimes, more):
        assert_refused(made(make), changing)
    assert_refused(made(common), "for 1 rows, not one for each of 2 samples")


def test_draws_that_do_not_matter_are_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    places = [7, 130, 1999]  # of the draws that are used, of 2,000 for each of the four tokens

    def sparse(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        n, N, d = shape
        rows.append(n)
        draws = rng.normal((n, 2000, N, d))
        return draws[:, places[0]] + 2 * draws[:, places[1]] - 0.5 * draws[:, places[2]]

    law = one(made(sparse))
    assert_law(law, np.zeros(4), (1 + 4 + 0.25) * np.eye(4))
    assert sum(rows) < 500
    monkeypatch.setattr(module, "normals_that_matter", lambda *_: torch.arange(4 * 1999))
    assert_refused(made(sparse), "not affine")  # a draw that matters is left out


def test_draws_of_which_most_matter_are_all_replayed() -> None:
    def dense(rng: Randomness, shape: tuple[int, int, int]) -> torch.Tensor:
        draws = rng.normal((shape[0], 300, *shape[1:]))
        weights = torch.ones(300, dtype=torch.float64)
        weights[100:110] = 0
        return torch.einsum("nkij,k->nij", draws, weights)

    assert_law(one(made(dense)), np.zeros(4), 290 * np.eye(4))


def test_what_is_not_a_number_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(made(lambda rng, shape: rng.normal(shape).log()), "not finite")
    assert_refused(made(lambda rng, shape: 1 / (rng.normal(shape) < 3)), "not finite")
    assert_refused(law_of("maskgit", from_spec("gaussian:ar1,tokens=7"), 7), "5040 orders")
    assert_refused(law_of("gpt", from_spec("gaussian:tokens=4097"), 0), "4097 dimensions")
    monkeypatch.setattr(module, "DRAWS", 3)
    assert_refused(law_of("diffusion", gaussian(MEAN, AR1), 4, 2), "4 normal draws")
    monkeypatch.setattr(module, "DRAWS", 4)
    one(law_of("diffusion", gaussian(MEAN, AR1), 4, 2))


def test_float32_is_replayed_to_its_rounding() -> None:
    target = gaussian(MEAN, AR1).to(device="cpu", dtype=torch.float32)
    law = one(law_of("diffusion", target, 4, 64))
    b, A = flow(MEAN, AR1, 64, "ddim")
    expected = kl(MEAN, AR1, b, A @ A.T)
    assert law.kl_from(torch.tensor(MEAN), torch.tensor(AR1)) == pytest.approx(expected, abs=1e-5)
    narrow = gaussian(MEAN, AR1 * np.outer([1e-4, 1, 1, 1], [1e-4, 1, 1, 1]))
    assert_refused(law_of("gpt", narrow.to(device="cpu", dtype=torch.float32), 4), "too coarse")
    one(law_of("gpt", narrow, 4))


# The laws


def test_one_ddim_step_returns_the_mean() -> None:
    target = torch.tensor(MEAN), torch.tensor(AR1)
    law = one(law_of("diffusion", gaussian(MEAN, AR1), 4, 1))
    assert law.rank == 0
    assert law.kl_from(*target) == math.inf
    assert law.kl_to(*target) == math.inf
    assert law.w2_squared(*target) == pytest.approx(4, abs=1e-12)  # tr S
    points = torch.tensor(np.stack([MEAN, MEAN + 1e-6]))
    assert law.log_prob(points).tolist() == [math.inf, -math.inf]


def test_log_prob_is_that_of_scipy_and_infinite_off_a_singular_support() -> None:
    x = np.random.default_rng(2).normal(size=(20, 4))
    S = AR1 * np.outer([1, 1e-6, 1e3, 1], [1, 1e-6, 1e3, 1])
    law = GaussianLaw(mean=torch.tensor(MEAN), covariance=torch.tensor(S))
    assert law.rank == 4
    near = MEAN + x * np.sqrt(np.diag(S))
    np.testing.assert_allclose(law.log_prob(torch.tensor(near)), log_normal(near, MEAN, S))
    A = np.random.default_rng(3).normal(size=(4, 2))
    flat = GaussianLaw(mean=torch.tensor(MEAN), covariance=torch.tensor(A @ A.T))
    assert flat.rank == 2
    on = torch.tensor(MEAN + x[:, :2] @ A.T)
    assert bool((flat.log_prob(on) == math.inf).all())
    assert bool((flat.log_prob(on + 1e-5) == -math.inf).all())
    assert flat.kl_from(torch.tensor(MEAN), torch.tensor(AR1)) == math.inf


def on_grid(mean: Array, S: Array, points: Array) -> Array:
    """Density of a two-dimensional Gaussian on the square grid of those points."""
    grid = np.stack(np.meshgrid(points, points, indexing="ij"), axis=-1)
    density: Array = np.exp(log_normal(grid, mean, S))
    return density


PAIR = (
    (np.array([0.3, -0.2]), np.array([[1.0, 0.7], [0.7, 0.8]])),
    (np.array([-0.1, 0.4]), np.array([[0.9, 0.2], [0.2, 1.3]])),
)


def as_law(mean: Array, S: Array) -> GaussianLaw:
    return GaussianLaw(mean=torch.tensor(mean), covariance=torch.tensor(S))


def test_kl_is_its_integral() -> None:
    points = np.linspace(-9, 9, 361)
    (m, S), (mean, C) = PAIR
    p, q = on_grid(m, S, points), on_grid(mean, C, points)
    area = (points[1] - points[0]) ** 2
    safe = (p > 1e-300) & (q > 1e-300)
    forward = (p[safe] * np.log(p[safe] / q[safe])).sum() * area
    backward = (q[safe] * np.log(q[safe] / p[safe])).sum() * area
    law, target = as_law(mean, C), (torch.tensor(m), torch.tensor(S))
    assert law.kl_from(*target) == pytest.approx(forward, abs=1e-9)
    assert law.kl_to(*target) == pytest.approx(backward, abs=1e-9)
    assert abs(forward - backward) > 1e-2


@pytest.mark.parametrize("D", [1, 2, 5, 20])
def test_w2_is_bures(D: int) -> None:
    rng = np.random.default_rng(D)
    A, B = rng.normal(size=(2, D, D))
    S, C, shift = A @ A.T + 0.1 * np.eye(D), B @ B.T + 0.1 * np.eye(D), rng.normal(size=D)
    root = linalg.sqrtm(S)
    cross = linalg.sqrtm(root @ C @ root)
    expected = shift @ shift + np.trace(S + C - 2 * cross).real
    found = as_law(np.zeros(D), C).w2_squared(torch.tensor(shift), torch.tensor(S))
    assert found == pytest.approx(expected, rel=1e-9)
    assert as_law(shift, S).w2_squared(torch.tensor(shift), torch.tensor(S)) < 1e-24 * D**3


def test_w2_of_singular_covariances_is_exact() -> None:
    # Along shared axes W2^2 = sum (sqrt a - sqrt b)^2; a rotation of both changes nothing.
    a, b = np.array([1.0, 0, 4, 0]), np.array([2.0, 3, 0, 0])
    Q = stats.ortho_group(4).rvs(random_state=1)
    law = as_law(MEAN, (Q * a) @ Q.T)
    expected = (math.sqrt(2) - 1) ** 2 + 3 + 4
    found = law.w2_squared(torch.tensor(MEAN), torch.tensor((Q * b) @ Q.T))
    assert found == pytest.approx(expected, abs=1e-12)
    # Orthogonal lines: W2^2 = tr S + tr C, where a root of a rounded 0 would cost 1e-8.
    u, v = Q[:, :1], Q[:, 1:2]
    assert as_law(MEAN, u @ u.T).w2_squared(
        torch.tensor(MEAN), torch.tensor(v @ v.T)
    ) == pytest.approx(2, abs=1e-12)


def test_mmd_is_its_integral() -> None:
    points = np.linspace(-9, 9, 361)
    (m, S), (mean, C) = PAIR
    narrow = 0.25 * C
    target, area = (torch.tensor(m), torch.tensor(S)), (points[1] - points[0]) ** 2
    mixture = MixtureLaw(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        laws=(as_law(mean, C), as_law(-mean, narrow)),
    )
    p = on_grid(m, S, points)
    q = on_grid(mean, C, points)
    mixed = 0.3 * q + 0.7 * on_grid(-mean, narrow, points)
    bandwidths = (0.3, 1.0, 4.0)
    of_one = as_law(mean, C).mmd_squared(*target, bandwidths=bandwidths)
    of_two = mixture.mmd_squared(*target, bandwidths=bandwidths)
    for i, h in enumerate(bandwidths):
        K = np.exp(-((points[:, None] - points) ** 2) / (2 * h**2))

        def square(difference: Array, K: Array = K) -> float:
            return float((difference * (K @ difference @ K)).sum() * area**2)

        assert float(of_one[i]) == pytest.approx(square(q - p), abs=1e-10)
        assert float(of_two[i]) == pytest.approx(square(mixed - p), abs=1e-10)
        assert abs(float(of_one[i] - of_two[i])) > 1e-4
    assert as_law(m, S).mmd_squared(*target, bandwidths=bandwidths).abs().max() < 1e-14


def test_a_mixture_has_no_closed_kl_or_w2_unless_it_is_infinite() -> None:
    law = several(law_of("maskgit", gaussian(MEAN, AR1), 4, rounds=2))
    target = torch.tensor(MEAN), torch.tensor(AR1)
    for number in (law.kl_from(*target), law.kl_to(*target), law.w2_squared(*target)):
        assert isinstance(number, Unavailable)
        assert "mixture over 6 orders" in number.reason
    atom = as_law(MEAN, np.zeros((4, 4)))
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    half = MixtureLaw(weights=weights, laws=(atom, as_law(MEAN, AR1)))
    assert isinstance(half.kl_from(*target), Unavailable)
    assert half.kl_to(*target) == math.inf
    line = as_law(MEAN, np.ones((4, 4)))
    assert MixtureLaw(weights=weights, laws=(atom, line)).kl_from(*target) == math.inf


def test_wrong_input_is_said_in_one_sentence() -> None:
    law = as_law(MEAN, AR1)
    three = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for measure in (law.kl_from, law.kl_to, law.w2_squared):
        with pytest.raises(InputError, match="must be those of 4 numbers"):
            measure(*three)
    with pytest.raises(InputError, match="positive definite"):
        law.kl_from(torch.tensor(MEAN), torch.ones(4, 4))
    with pytest.raises(InputError, match="rows of 4 numbers"):
        law.log_prob(torch.zeros(2, 3))
    with pytest.raises(InputError, match="bandwidths must be positive"):
        law.mmd_squared(torch.tensor(MEAN), torch.tensor(AR1), bandwidths=[1.0, 0.0])


@pytest.mark.parametrize(("dtype", "known"), [(torch.float32, False), (torch.float64, True)])
def test_the_same_runs_are_judged_by_both_roundings(dtype: torch.dtype, known: bool) -> None:
    runs: list[int] = []

    def sample(n: int, rng: Randomness) -> torch.Tensor:
        runs.append(n)
        return (1.1 * rng.normal((n, 4, 1)).to(dtype)).double()

    spec = gaussian(MEAN, AR1).spec
    fine = replayed_law(sample, spec)
    assert isinstance(fine, GaussianLaw) == known
    of_fine = len(runs)
    coarse = replayed_law(sample, spec, rounding=2.0**-19)
    assert len(runs) == 2 * of_fine
    assert isinstance(coarse, GaussianLaw)
    np.testing.assert_allclose(coarse.covariance.numpy(), 1.21 * np.eye(4), rtol=0, atol=1e-5)
    assert not isinstance(fine, GaussianLaw) or torch.equal(coarse.covariance, fine.covariance)
