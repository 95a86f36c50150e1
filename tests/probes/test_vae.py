"""Decoders and their limits: closed forms, scikit-learn, enumeration and direct optimisation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference.gaussians import Gaussians
from scipy import optimize, stats
from scipy.special import log_expit, logsumexp
from sklearn.decomposition import FactorAnalysis

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.laws import Categorical, TokenLaw
from capcheck.networks.oracles import latent_classes
from capcheck.networks.oracles.factor_analysis import factor_analysis, probabilistic_pca
from capcheck.networks.oracles.latent_index import index_of, latent_of, latent_of_token
from capcheck.networks.signatures import Decoder
from capcheck.probes.neither.vae import VAE
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec, from_table

AR1 = 0.9 ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
UNEVEN = np.diag([1.0, 2, 3, 0.5, 1, 2]) @ AR1 @ np.diag([1.0, 2, 3, 0.5, 1, 2])


def gaussian(covariance: np.ndarray, dim: int = 1) -> GaussianMixture:
    D = len(covariance)
    return GaussianMixture(
        torch.zeros(1, D // dim, dim, dtype=torch.float64), torch.tensor(covariance[None].copy())
    )


def density(
    target: Target, x: torch.Tensor, network: Decoder | None = None, **options: object
) -> LogDensity:
    procedure = Procedure.of(VAE(**options), target)  # type: ignore[arg-type]
    if network is not None:
        procedure = procedure.with_trusted_network(network)
    found = procedure.log_density(Budget(length=0, steps=1), x, CounterRandomness(9))
    assert isinstance(found, LogDensity)
    return found


def kl(target: Target, **options: object) -> float:
    """KL of the family at full budget, which must be exact."""
    N = target.spec.tokens
    found = check("vae", target, options=options, lengths=[N], steps=[1], samples=200)
    estimate = found.cells[0].estimates["kl"]
    assert estimate.kind == "exact"
    assert estimate.value is not None
    return estimate.value


def gaussian_kl(C: np.ndarray, S: np.ndarray) -> float:
    fit = np.linalg.solve(S, C)
    return 0.5 * float(np.trace(fit) - len(C) - np.linalg.slogdet(fit)[1])


PRODUCTS: dict[str, Target] = {
    "modes": from_spec("modes:tokens=3,modes=4,gap=3"),
    "copy": from_spec("copy:tokens=4,symbols=5"),
    "vectors": ProductMixture(
        torch.tensor([[[0.0, 1.0], [2.0, -1.0]], [[1.0, 1.0], [-2.0, 0.5]]]).double(),
        torch.tensor([[0.5, 1.0], [0.7, 0.4]]).double(),
        torch.tensor([0.9, 0.1]).double(),
    ),
}
SEQUENCES = {
    "parity": from_spec("parity:4"),
    "brackets": from_spec("brackets:4"),
    "ising": from_spec("ising:rows=2,columns=2"),
}


@pytest.mark.parametrize("target", [*PRODUCTS.values(), *SEQUENCES.values()])
def test_an_unlimited_decoder_is_exact(target: Target) -> None:
    x = target.sample(50, CounterRandomness(0))
    found = density(target, x)
    assert not found.bound
    assert found.values.tolist() == pytest.approx(target.log_prob(x).tolist(), abs=1e-10)
    result = check("vae", target, lengths=[0, 1], steps=[1, 2], samples=200)
    assert result.outcome is Outcome.REPRESENTABLE
    assert [cell.estimates["kl"].value for cell in result.cells] == [0] * 4
    assert (result.axes.length, result.axes.steps) == ("flat", "flat")
    assert result.found.loop_order == "none"


def test_the_latent_names_components_by_weight() -> None:
    p = torch.tensor([[0.1, 0.0, 0.6, 0.3]], dtype=torch.float64)
    u = (torch.arange(10_000).double() + 0.5) / 10_000
    named = index_of(p, torch.special.ndtri(u))
    shares = torch.bincount(named, minlength=4) / 10_000
    assert (shares - p[0]).abs().max() < 1e-4
    index = torch.tensor([0, 2, 3, 3])
    v = torch.tensor([0.25, 0.5, 0.001, 1 - 1e-16], dtype=torch.float64)
    z, log_density = latent_of(p, index, v)
    assert torch.equal(index_of(p, z), index)
    # Phi(z) = 0.1 v, 0.1 + 0.6 v, 0.7 + 0.3 v; its density is phi(z) / p.
    assert stats.norm.cdf(z[:3].numpy()) == pytest.approx([0.025, 0.4, 0.7003], abs=1e-12)
    expected = stats.norm.logpdf(z.numpy()) - np.log([0.1, 0.6, 0.3, 0.3])
    assert log_density.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    laws = Categorical(p.log().expand(4, 1, 4))
    of_laws, same = latent_of_token(laws, index[:, None], v)
    assert of_laws.tolist() == pytest.approx(z.tolist(), abs=1e-12)
    assert same.tolist() == pytest.approx(log_density.tolist(), abs=1e-12)


@pytest.mark.parametrize("q", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("C", [AR1, UNEVEN], ids=["even", "uneven"])
def test_shared_noise_leaves_the_floor_of_probabilistic_pca(C: np.ndarray, q: int) -> None:
    rest = np.linalg.eigvalsh(C)[::-1][q:]
    floor = 0.5 * (len(rest) * np.log(rest.mean()) - np.log(rest).sum()) if len(rest) else 0.0
    assert kl(gaussian(C), latent=q, noise="shared") == pytest.approx(floor, abs=1e-9)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("C", [AR1, UNEVEN], ids=["even", "uneven"])
def test_noise_for_each_token_leaves_the_floor_of_factor_analysis(C: np.ndarray, q: int) -> None:
    D = len(C)
    rows = np.sqrt(D) * np.linalg.cholesky(C).T  # with their negatives, of covariance exactly C
    model = FactorAnalysis(q, svd_method="lapack", tol=1e-10, max_iter=20_000)
    model.fit(np.concatenate([rows, -rows]))
    expected = gaussian_kl(C, model.get_covariance())
    found = kl(gaussian(C, dim=2), latent=q)
    assert found == pytest.approx(expected, abs=2e-6)
    W, psi = probabilistic_pca(C, q)
    assert found < gaussian_kl(C, W @ W.T + np.diag(psi)) - 1e-3
    # In other units it is the same model.
    u = np.array([1.0, 10, 0.1, 3, 1, 5])
    W, psi = factor_analysis(u[:, None] * C * u, q)
    assert gaussian_kl(u[:, None] * C * u, W @ W.T + np.diag(psi)) == pytest.approx(found, abs=1e-7)


def test_one_gaussian_needs_no_limit() -> None:
    assert kl(gaussian(UNEVEN)) == pytest.approx(0, abs=1e-9)
    assert kl(gaussian(UNEVEN[:1, :1])) == pytest.approx(0, abs=1e-9)


def test_a_linear_decoder_of_a_mixture_is_fitted_to_its_moments() -> None:
    rng = np.random.default_rng(0)
    means, C = 2 * rng.normal(size=(2, 4, 1)), np.stack([AR1[:4, :4], np.eye(4)])
    target = GaussianMixture(torch.tensor(means), torch.tensor(C))
    x = target.sample(40, CounterRandomness(0))
    found = density(target, x, latent=2, noise="shared")
    m = means[..., 0].mean(0)
    total = C.mean(0) + np.mean([np.outer(mu - m, mu - m) for mu in means[..., 0]], axis=0)
    values, vectors = np.linalg.eigh(total)
    s2 = values[:2].mean()
    S = s2 * np.eye(4) + (vectors[:, 2:] * (values[2:] - s2)) @ vectors[:, 2:].T
    expected = stats.multivariate_normal(m, S).logpdf(x[..., 0].numpy())
    assert not found.bound
    assert found.values.tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    with pytest.raises(UnfitError, match="neither a mixture of products nor one"):
        VAE().signature.oracle(target)


@pytest.mark.parametrize(("V", "K"), [(4, 2), (4, 1), (6, 3), (8, 4), (4, 4), (4, 9)])
def test_classes_leave_the_rest_of_a_copied_symbol(V: int, K: int) -> None:
    target, N = from_spec(f"copy:tokens=3,symbols={V}"), 3
    floor = (N - 1) * math.log(max(V / K, 1))
    assert kl(target, classes=K) == pytest.approx(floor, abs=1e-9)
    # Twin: classes of 3 symbols and of 1 leave 3/4 (N-1) ln 3, more than (N-1) ln 2.
    assert 0.75 * math.log(3) > math.log(2) + 0.1


def test_no_two_classes_are_better() -> None:
    V, N, K = 2, 4, 2
    p = np.random.default_rng(5).dirichlet(np.full(V**N, 0.4))
    x = np.array(list(itertools.product(range(V), repeat=N)))

    def loss(theta: np.ndarray) -> float:
        logits = theta[1:].reshape(K, N)  # of x_i = 1 in each class
        log_w = log_expit(theta[0] * np.array([1, -1]))
        joint = log_w[:, None] + log_expit(logits) @ x.T + log_expit(-logits) @ (1 - x).T
        return float(p @ (np.log(p) - logsumexp(joint, axis=0)))

    rng = np.random.default_rng(0)
    starts = [rng.normal(size=1 + K * N) for _ in range(8)]
    best = min(optimize.minimize(loss, start, options={"gtol": 1e-7}).fun for start in starts)
    target = from_table(torch.tensor(p).reshape(V, V, V, V))
    assert kl(target, classes=K) == pytest.approx(best, abs=1e-6)
    assert best > 0.05


def test_classes_of_numbers_are_fitted_to_draws() -> None:
    target = from_spec("modes:tokens=2,modes=3,gap=5")
    options = {"classes": 2}
    found = check("vae", target, options=options, lengths=[2], steps=[1], samples=400)
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert found.found.failure == "limited emission"
    # One class for each of two modes, one for both: N(2.5, 1 + 2.5^2) in each token by itself.
    left = Gaussians.product([[[-5.0]] * 2, [[2.5]] * 2], [[[1.0]] * 2, [[7.25**0.5]] * 2], [1, 2])
    x = target.sample(400, CounterRandomness(0))
    expected = np.array([left.log_prob(row) for row in x.numpy()]).mean()
    assert float(density(target, x, classes=2).values.mean()) == pytest.approx(expected, abs=0.02)


def test_without_an_encoder_the_prior_bounds_the_density_from_below() -> None:
    C = np.array([[2.0, 1.0], [1.0, 1.5]])
    target = gaussian(C)
    exact = Procedure.of(VAE(latent=1, noise="shared"), target).oracle
    x = target.sample(400, CounterRandomness(1))
    values, vectors = np.linalg.eigh(C)
    S = values[0] * np.eye(2) + (values[1] - values[0]) * np.outer(vectors[:, 1], vectors[:, 1])
    log_q = stats.multivariate_normal(np.zeros(2), S).logpdf(x[..., 0].numpy())
    means = {}
    for M in (1, 16, 400):
        found = density(target, x, exact.__call__, latent=1, importance_samples=M)
        assert found.bound
        means[M] = float((found.values - torch.tensor(log_q)).mean())
    assert means[1] < means[16] < means[400] < 0.005
    assert means[400] == pytest.approx(0, abs=0.01)


def test_a_false_proposal_is_a_bound_at_most() -> None:
    target = PRODUCTS["modes"]
    oracle = Procedure.of(VAE(), target).oracle

    class Vague:
        """Proposes any latent."""

        def __call__(self, z: torch.Tensor, *given: torch.Tensor) -> TokenLaw:
            law: TokenLaw = oracle(z)
            return law

        def encode(
            self, x: torch.Tensor, rng: Randomness, *known: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            z = rng.normal((len(x), 1))
            return z, torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, 0]

    x = target.sample(200, CounterRandomness(0))
    found = density(target, x, Vague())
    assert found.bound
    assert float((found.values - target.log_prob(x)).mean()) < -0.01


def test_impossible_sequences_have_no_probability() -> None:
    x = torch.tensor([[0, 1, 0, 0], [2, 2, 2, 2]])
    assert density(PRODUCTS["copy"], x).values.tolist() == pytest.approx([-math.inf, -math.log(5)])
    odd = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]])
    values = density(SEQUENCES["parity"], odd).values
    assert values.tolist() == pytest.approx([-math.inf, -3 * math.log(2)])


def test_single_precision_names_what_it_means(digits: ProductMixture) -> None:
    narrow = digits.to(device="cpu", dtype=torch.float32)
    x = narrow.sample(100, CounterRandomness(0))
    found = density(narrow, x)
    assert not found.bound
    assert (found.values - narrow.log_prob(x)).abs().max() < 1e-3


def conditional_total_correlation(C: np.ndarray, given: list[int]) -> float:
    """Of the other coordinates of N(0, C) given some: 1/2 (sum ln S_ii - ln |S|), nats."""
    rest = [i for i in range(len(C)) if i not in given]
    S = np.linalg.inv(np.linalg.inv(C)[np.ix_(rest, rest)])
    return 0.5 * float(np.log(np.diag(S)).sum() - np.linalg.slogdet(S)[1])


def test_given_tokens_reweigh_the_components() -> None:
    for target in (PRODUCTS["modes"], SEQUENCES["ising"], gaussian(AR1)):
        found = check("vae", target, given=[0], lengths=[1], steps=[1], samples=200)
        assert found.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-9)
    for options in ({"classes": 2}, {"latent": 1}):
        with pytest.raises(UnfitError, match="given"):
            check("vae", PRODUCTS["modes"], options=options, given=[0], lengths=[1])
    # Classes that are the target's own components are reweighed as well.
    own = check(
        "vae", PRODUCTS["modes"], options={"classes": 4}, given=[0], samples=200, lengths=[1]
    )
    assert own.outcome is Outcome.REPRESENTABLE


def test_the_density_given_tokens_is_that_of_the_others() -> None:
    target = PRODUCTS["modes"]
    x = target.sample(60, CounterRandomness(0))
    procedure, rng = Procedure.of(VAE(), target, given=(0, 2)), CounterRandomness(1)
    found = procedure.log_density(Budget(length=1, steps=1), x, rng)
    assert isinstance(found, LogDensity)
    assert not found.bound
    assert found.values.tolist() == pytest.approx(target.log_prob(x).tolist(), abs=1e-9)
    moved = x.clone()
    moved[:, 0] += 1
    other = procedure.log_density(Budget(length=1, steps=1), moved, rng)
    assert isinstance(other, LogDensity)  # twin: other given values, another density
    assert float((other.values - found.values).abs().mean()) > 0.1


@pytest.mark.parametrize("given", [[], [0], [1, 4]])
def test_without_a_latent_the_total_correlation_is_left(given: list[int]) -> None:
    found = check(
        "vae", gaussian(AR1), options={"latent": 0}, given=given, lengths=[1], steps=[1],
        samples=200,
    ).cells[0].estimates["kl"]  # fmt: skip
    expected = conditional_total_correlation(AR1, given)
    assert found.kind == "exact"
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert expected > 0.1


def test_without_a_latent_and_with_shared_noise_the_variances_are_evened_out() -> None:
    # KL of N(0, C) to N(0, s I) with s = tr C / D: 1/2 (D ln s - ln |C|).
    C = UNEVEN
    expected = 0.5 * (6 * math.log(np.trace(C) / 6) - np.linalg.slogdet(C)[1])
    assert kl(gaussian(C), latent=0, noise="shared") == pytest.approx(expected, abs=1e-9)
    of_tokens = conditional_total_correlation(C, [])
    assert kl(gaussian(C), latent=0) == pytest.approx(of_tokens, abs=1e-9)
    assert of_tokens < expected - 0.5


@pytest.mark.parametrize("given", [[], [1]])
def test_token_ids_without_a_latent_are_their_marginals(given: list[int]) -> None:
    # A copied symbol: (N - 1) ln V, and nothing once one copy is known.
    found = check(
        "vae", PRODUCTS["copy"], options={"latent": 0}, given=given, lengths=[1], steps=[1],
        samples=200,
    ).cells[0].estimates["kl"]  # fmt: skip
    assert found.value == pytest.approx(0.0 if given else 3 * math.log(5), abs=1e-9)


def test_classes_are_fitted_once_for_a_whole_check(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(target: Target, K: int) -> object:
        calls.append(K)
        return latent_classes.best_classes(target, K)

    monkeypatch.setattr("capcheck.networks.signatures.decoder.best_classes", counted)
    found = check(
        "vae", from_spec("sudoku"), options={"classes": 3}, precision=("float32", "bfloat16"),
        sensitivity=(0.1,), samples=200, lengths=[0, 2], steps=[1, 2],
    )  # fmt: skip
    assert calls == [3]
    assert len(found.found.precisions) == 2
    assert found.found.sensitivities


def test_nothing_depends_on_the_budget() -> None:
    assert VAE.reads == frozenset()
    procedure = Procedure.of(VAE(), PRODUCTS["modes"])
    few, many = (
        procedure.sample(Budget(length=length, steps=steps), 20, CounterRandomness(3))
        for length, steps in ((0, 1), (3, 7))
    )
    assert torch.equal(few, many)


def test_two_limits_are_one_too_many() -> None:
    with pytest.raises(InputError, match="latent and classes limit the latent in two ways"):
        build_probe("vae", {"classes": 2, "latent": 1})
    with pytest.raises(UnfitError, match="continuous"):
        VAE(latent=1).signature.oracle(PRODUCTS["copy"])
