"""The triangular map against scipy, finite differences and quadrature; what one layer leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.gaussians import Gaussians
from scipy import integrate, stats
from scipy.special import ndtr

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws import Categorical
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.oracles.moments import mean_and_covariance
from capcheck.networks.oracles.rosenblatt import Rosenblatt, uniform_of
from capcheck.networks.signatures import Bijection, BijectionSignature
from capcheck.probes.neither.flow import Flow
from capcheck.procedures.procedure import Procedure
from capcheck.targets import (
    DiagonalMixture,
    GaussianMixture,
    ProductMixture,
    Target,
    from_spec,
)
from capcheck.targets.target import ContinuousTarget

GENERATOR = np.random.default_rng(4)
MEANS = GENERATOR.normal(size=(3, 2, 2)) * 1.5  # K = 3, N = 2, d = 2
SCALES = GENERATOR.uniform(0.4, 1.2, size=(3, 2, 2))
ROOTS = GENERATOR.normal(size=(3, 4, 4))
COVARIANCES = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.3 * np.eye(4)
WEIGHTS = np.array([0.2, 0.5, 0.3])


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array) for array in arrays]


CASES: dict[str, tuple[ContinuousTarget, Gaussians]] = {
    "product": (
        ProductMixture(*tensors(MEANS, SCALES[0], WEIGHTS)),
        Gaussians.product(MEANS, SCALES[0], WEIGHTS),
    ),
    "diagonal": (
        DiagonalMixture(*tensors(MEANS, SCALES, WEIGHTS)),
        Gaussians.product(MEANS, SCALES, WEIGHTS),
    ),
    "full": (
        GaussianMixture(*tensors(MEANS, COVARIANCES, WEIGHTS)),
        Gaussians(MEANS, COVARIANCES, WEIGHTS),
    ),
    "one number per token": (
        GaussianMixture(*tensors(MEANS.reshape(3, 4, 1), COVARIANCES, WEIGHTS)),
        Gaussians(MEANS.reshape(3, 4, 1), COVARIANCES, WEIGHTS),
    ),
}


@pytest.mark.parametrize(("target", "reference"), CASES.values(), ids=CASES.keys())
def test_the_map_is_the_conditional_quantiles(
    target: ContinuousTarget, reference: Gaussians
) -> None:
    z = CounterRandomness(0).normal((30, target.spec.tokens, target.spec.dim))
    x = Rosenblatt(target=target)(z)
    u = reference.rosenblatt(x.numpy())
    assert np.abs(u - ndtr(z.flatten(1).numpy())).max() < 1e-12
    swapped = Gaussians(reference.means[:, ::-1], reference.covariances, reference.weights)
    assert np.abs(swapped.rosenblatt(x.numpy()) - u).max() > 0.01  # twin: another law's map


@pytest.mark.parametrize(("target", "reference"), CASES.values(), ids=CASES.keys())
def test_the_inverse_and_the_density_are_those_of_the_map(
    target: ContinuousTarget, reference: Gaussians
) -> None:
    f = Rosenblatt(target=target)
    shape = (6, target.spec.tokens, target.spec.dim)
    z = CounterRandomness(1).normal(shape)
    x = f(z)
    assert (f.inverse(x) - z).abs().max() < 1e-10
    # log q(x) = log N(z) - log |det df/dz|, the derivative by central differences.
    columns, h = [], 1e-5
    for k in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[k] = h
        moved = [f(z + sign * step.reshape(shape[1:])) for sign in (1, -1)]
        columns.append((moved[0] - moved[1]).flatten(1) / (2 * h))
    log_det = np.linalg.slogdet(torch.stack(columns, 2).numpy())[1]
    expected = stats.norm.logpdf(z.flatten(1).numpy()).sum(1) - log_det
    assert f.log_prob(x).tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    joint = [reference.log_prob(row) for row in x.numpy()]
    assert f.log_prob(x).tolist() == pytest.approx(joint, abs=1e-10)


def test_tails_keep_their_digits() -> None:
    f = Rosenblatt(target=from_spec("gaussian:tokens=1,std=1"))
    z = torch.tensor([-30.0, -8.0, -5.0, 0.0, 5.0, 8.0]).double()[:, None, None]
    assert (f(z) - z)[:5].abs().max() < 1e-9
    assert bool(f(10 * z).isfinite().all())
    assert float(uniform_of(z).max()) < 1


def test_one_row_is_mapped_as_it_is_among_others(digits: ProductMixture) -> None:
    f, z = Rosenblatt(target=digits), CounterRandomness(2).normal((40, 8, 1))
    assert (f(z)[17:18] - f(z[17:18])).abs().max() < 1e-12


def test_a_gaussian_is_made_by_its_cholesky_factor() -> None:
    C = 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    target = from_spec("gaussian:ar1,tokens=4,rho=0.8")
    root = Rosenblatt(target=target)(torch.eye(4).double()[:, :, None])[..., 0].T
    assert root.numpy() == pytest.approx(np.linalg.cholesky(C), abs=1e-9)
    for layer in ("triangular", "affine"):
        law = law_of(Flow(layer=layer), target)
        assert law.covariance.numpy() == pytest.approx(C, abs=1e-9)


def law_of(probe: Flow, target: Target) -> GaussianLaw:
    found = Procedure.of(probe, target).exact_law(Budget(length=0, steps=1))
    assert isinstance(found, GaussianLaw)
    return found


def test_a_triangular_flow_is_exact_on_vectors() -> None:
    found = check("flow", CASES["full"][0], lengths=[0, 2], steps=[1, 4], samples=300)
    assert found.outcome is Outcome.REPRESENTABLE
    assert [cell.estimates["kl"].value for cell in found.cells] == [0] * 4
    assert {cell.model_calls for cell in found.cells} == {1}
    assert (found.axes.length, found.axes.steps, found.found.loop_order) == ("flat", "flat", "none")


def bimodal(x: float) -> float:
    return float(0.5 * stats.norm.pdf(x, -2) + 0.5 * stats.norm.pdf(x, 2))


def kl_of_affine(mean: float, variance: float) -> float:
    """KL of the bimodal law to N(mean, variance), nats, by quadrature."""

    def integrand(x: float) -> float:
        log_q = stats.norm.logpdf(x, mean, np.sqrt(variance))
        return float(bimodal(x) * (np.log(bimodal(x)) - log_q))

    return float(integrate.quad(integrand, -14, 14, points=[-2, 0, 2], epsabs=1e-12)[0])


def test_an_affine_layer_leaves_the_negentropy() -> None:
    target = from_spec("modes:tokens=1,modes=2,gap=4")
    layer = BijectionSignature("affine").oracle(target)

    def integrand(x: float) -> float:
        log_q = float(layer.log_prob(torch.full((1, 1, 1), x, dtype=torch.float64)))
        return float(bimodal(x) * (np.log(bimodal(x)) - log_q))

    found = integrate.quad(integrand, -14, 14, points=[-2, 0, 2], epsabs=1e-12)[0]
    entropy = -integrate.quad(lambda x: bimodal(x) * np.log(bimodal(x)), -14, 14)[0]
    negentropy = 0.5 * np.log(2 * np.pi * np.e * 5) - entropy  # Var = 1 + 2^2
    assert found == pytest.approx(negentropy, abs=1e-9)
    assert found > 0.1
    for other in ((0.1, 5.0), (0.0, 5.5), (0.0, 4.5)):
        assert kl_of_affine(*other) > negentropy + 1e-3  # twin: any other layer leaves more


def test_the_affine_floor_is_a_limited_emission() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=5")
    found = check("flow", target, options={"layer": "affine"}, lengths=[2], steps=[1], samples=400)
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert found.found.failure == "limited emission"
    assert Flow().suspects() == ()


@pytest.mark.parametrize("D", [1, 2, 5, 6])
def test_moments_of_any_mixture(D: int) -> None:
    rng = np.random.default_rng(D)
    means, weights = rng.normal(size=(2, D, 1)), np.array([0.3, 0.7])
    roots = rng.normal(size=(2, D, D))
    full = roots @ roots.transpose(0, 2, 1) + np.eye(D)
    scales = rng.uniform(0.5, 2, size=(2, D, 1))
    diagonal = np.stack([np.diag(s**2) for s in scales[..., 0]])
    m = weights @ means[..., 0]
    between = sum(
        w * np.outer(mu - m, mu - m) for w, mu in zip(weights, means[..., 0], strict=True)
    )
    for target, within in (
        (GaussianMixture(*tensors(means, full, weights)), full),
        (DiagonalMixture(*tensors(means, scales, weights)), diagonal),
    ):
        mean, covariance = mean_and_covariance(target)
        assert mean[0].numpy() == pytest.approx(m, abs=1e-12)
        expected = np.einsum("k,kij->ij", weights, within) + between
        assert covariance[0].numpy() == pytest.approx(expected, abs=1e-11)


def test_given_tokens_leave_a_flow_exact() -> None:
    target = from_spec("modes:tokens=3,modes=2,gap=3")
    found = check("flow", target, given=[1], lengths=[2], steps=[1], samples=300)
    assert found.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-10)
    affine = check(
        "flow", target, options={"layer": "affine"}, given=[1], lengths=[2], steps=[1], samples=300
    )
    assert affine.cells[0].estimates["kl"].value > 0.05  # type: ignore[operator]


def test_what_is_no_bijection_is_told_so() -> None:
    target = from_spec("gaussian:tokens=2")
    x = target.sample(3, CounterRandomness(0))

    def without_density(z: torch.Tensor) -> torch.Tensor:
        return z

    found = density(without_density, target, x)  # type: ignore[arg-type]
    assert isinstance(found, Unavailable)
    assert isinstance(density(None, target, x), LogDensity)
    with pytest.raises(InputError, match="sequence for every row"):
        Flow().signature.require(Categorical(torch.zeros(1, 1, 2)), x)
    with pytest.raises(UnfitError, match="continuous"):
        Flow().signature.oracle(from_spec("copy:tokens=2,symbols=2"))
    with pytest.raises(InputError, match="continuous"):
        Rosenblatt(target=from_spec("copy:tokens=2,symbols=2")).inverse(x)


def density(network: Bijection | None, target: Target, x: torch.Tensor) -> LogDensity | Unavailable:
    procedure = Procedure.of(Flow(), target)
    if network is not None:
        procedure = procedure.with_network(network)
    return procedure.log_density(Budget(length=0, steps=1), x, CounterRandomness(0))


@pytest.mark.parametrize(("target", "reference"), CASES.values(), ids=CASES.keys())
def test_the_map_and_its_density_given_tokens(
    target: ContinuousTarget, reference: Gaussians
) -> None:
    f = Rosenblatt(target=target)
    x = target.sample(12, CounterRandomness(2))
    N = target.spec.tokens
    known = torch.zeros(12, N, dtype=torch.bool)
    known[:6, 0], known[6:, N - 1] = True, True  # rows may know different tokens
    z = CounterRandomness(3).normal(tuple(x.shape))
    made = f(z, x, known)
    assert torch.equal(made[known], x[known])
    assert (f.inverse(made, known) - z)[~known].abs().max() < 1e-9
    # log p(x) = log p(given) + log q(rest | given), the first by integrating the others out.
    for row in range(12):
        kept = [i for i in range(N) if bool(known[row, i])]
        columns = [i * target.spec.dim + j for i in kept for j in range(target.spec.dim)]
        at = made[row].flatten().numpy()[columns]
        parts = [
            w * stats.multivariate_normal(m.flatten()[columns], C[np.ix_(columns, columns)]).pdf(at)
            for w, m, C in zip(
                reference.weights, reference.means, reference.covariances, strict=True
            )
        ]
        log_given = np.log(np.sum(parts) / np.sum(reference.weights))
        joint = reference.log_prob(made[row].numpy())
        own = float(f.log_prob(made[[row]], known[[row]]))
        assert own == pytest.approx(joint - log_given, abs=1e-8)
        assert abs(float(f.log_prob(made[[row]])) - own) > 1e-3  # twin: nothing given


def test_an_affine_flow_given_tokens_of_a_gaussian_is_exact() -> None:
    # With mean and covariance of the others given them, which here are all that there is.
    target = from_spec("gaussian:ar1,tokens=4,rho=0.9")
    procedure = Procedure.of(Flow(layer="affine"), target, given=(1, 3))
    x = target.sample(50, CounterRandomness(0))
    found = procedure.log_density(Budget(length=2, steps=1), x, CounterRandomness(1))
    assert isinstance(found, LogDensity)
    assert found.values.tolist() == pytest.approx(target.log_prob(x).tolist(), abs=1e-9)
    law = procedure.exact_law(Budget(length=2, steps=1))
    C = 0.9 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    assert isinstance(law, GaussianLaw)
    assert law.covariance.numpy() == pytest.approx(C, abs=1e-9)


def test_rows_that_know_different_tokens_have_no_affine_map() -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.9")
    layer = BijectionSignature("affine").oracle(target)
    x = target.sample(2, CounterRandomness(0))
    known = torch.tensor([[True, False, False], [False, True, False]])
    with pytest.raises(InputError, match="the same tokens in every row"):
        layer(x, x, known)


def test_modes_far_apart_are_drawn_as_the_density_says() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=80")
    found = check("flow", target, lengths=[2], steps=[1], samples=600)
    assert found.cells[0].estimates["kl"].value == 0
    f = Procedure.of(Flow(), target)
    x = f.sample(Budget(length=2, steps=1), 10_000, CounterRandomness(7))[..., 0].numpy()
    assert np.array_equal(np.sign(x[:, 0]), np.sign(x[:, 1]))  # of one mode
    standard = x - 40 * np.sign(x)
    for token in (0, 1):
        assert stats.kstest(standard[:, token], ndtr).pvalue > 1e-3
        assert stats.kstest(1.2 * standard[:, token], ndtr).pvalue < 1e-3  # twin
    assert abs(float((x[:, 0] > 0).mean()) - 0.5) < 0.02


def test_nothing_depends_on_the_budget() -> None:
    assert Flow.reads == frozenset()
    procedure = Procedure.of(Flow(), from_spec("modes:tokens=3,modes=2,gap=3"))
    few, many = (
        procedure.sample(Budget(length=length, steps=steps), 20, CounterRandomness(3))
        for length, steps in ((0, 1), (3, 7))
    )
    assert torch.equal(few, many)
