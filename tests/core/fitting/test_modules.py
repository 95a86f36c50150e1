"""Default modules: the shapes of their signatures, what they see, and what they start as."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.fitting import Architecture, as_network, build
from capcheck.fitting.transformer import Transformer
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import (
    AutoEncoder,
    Bijection,
    BijectionSignature,
    ConsistencySignature,
    DecoderSignature,
    DenoiserSignature,
    EnergySignature,
    FlowMapSignature,
    GeneratorSignature,
    LowRankPredictorSignature,
    PrefixPredictorSignature,
    TokenPredictorSignature,
    TransitionPredictorSignature,
)
from capcheck.noise.paths import PathName
from capcheck.targets import ProductMixture, Target, from_spec

TRUNKS = ("mlp:width=8,depth=1", "transformer:width=8,depth=1")
PATHS: tuple[PathName, ...] = get_args(PathName)


def numbers() -> Target:
    return from_spec("gaussian:ar1,tokens=3,rho=0.5")


def symbols() -> Target:
    return from_spec("copy:tokens=3,symbols=4")


def draws(target: Target, n: int = 5) -> Tensor:
    return target.sample(n, CounterRandomness(0))


def stirred(signature: Any, target: Target, text: str) -> Any:
    """A network whose every weight is random, so that what it sees has a say."""
    module = build(signature, target.spec, text)
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=generator)
    return as_network(module.requires_grad_(False), torch.float64)


@pytest.mark.parametrize("text", [*TRUNKS, "mlp:depth=0"])
@pytest.mark.parametrize("target", [numbers(), symbols()], ids=["numbers", "symbols"])
def test_answers_have_the_shapes_of_their_signatures(text: str, target: Target) -> None:
    x, known = draws(target), torch.tensor([[True, False, False]]).expand(5, 3)
    z = CounterRandomness(1).normal((5, 3, 1))
    level = torch.full((5, 3), 0.5).double()
    cases: list[tuple[Any, tuple[Tensor, ...]]] = [
        (TokenPredictorSignature(), (x, known)),
        (PrefixPredictorSignature(), (x, known)),
        (EnergySignature(), (x,)),
        (GeneratorSignature(), (z,)),
        (DecoderSignature(), (z[..., 0],)),
    ]
    if target.spec.kind == "continuous":
        s = torch.tensor([0.1, 0.2, 0.3]).double()
        cases += [
            (DenoiserSignature("cosine", "causal"), (x, level)),
            (FlowMapSignature("cosine"), (x, level, 0 * level)),
            (ConsistencySignature("cosine"), (x, level)),
            (TransitionPredictorSignature(), (x, level, s)),
            (BijectionSignature("affine"), (z,)),
            (DecoderSignature(latent=2, noise="shared"), (z[:, :2, 0],)),
        ]
    else:
        cases.append((LowRankPredictorSignature(1), (x, known)))
    for signature, shown in cases:
        answer = stirred(signature, target, text)(*shown)
        signature.require(answer, shown[0])
        got = answer.mean() if isinstance(answer, TokenLaw) else answer
        assert got.dtype in (torch.float64, torch.int64)
        assert bool(got.isfinite().all())


@pytest.mark.parametrize("text", TRUNKS)
def test_a_causal_network_does_not_see_what_follows(text: str) -> None:
    x = draws(numbers())
    changed = x.clone()
    changed[:, 1] += 1
    known = torch.ones(5, 3, dtype=torch.bool)
    prefix = stirred(PrefixPredictorSignature(), numbers(), text)
    moved = (prefix(x, known).mean() - prefix(changed, known).mean()).abs().amax((0, 2))
    assert moved[:2].max() == 0  # of tokens 0 and 1 themselves
    assert moved[2] > 1e-4
    denoiser = stirred(DenoiserSignature("cosine", "causal"), numbers(), text)
    t = torch.full((5, 3), 0.5).double()
    moved = (denoiser(x, t) - denoiser(changed, t)).abs().amax((0, 2))
    assert moved[0] == 0
    assert moved[1:].min() > 1e-4


@pytest.mark.parametrize("text", TRUNKS)
def test_a_token_of_its_own_sees_itself_and_clean_tokens(text: str) -> None:
    denoiser = stirred(DenoiserSignature("cosine", "own"), numbers(), text)
    x, t = draws(numbers()), torch.tensor([[0.0, 0.5, 0.5]]).double().expand(5, 3)
    for token, seen in ((0, True), (1, False)):
        changed = x.clone()
        changed[:, token] += 1
        moved = (denoiser(x, t) - denoiser(changed, t)).abs().amax((0, 2))
        assert bool(moved[2] > 1e-4) == seen


@pytest.mark.parametrize("text", TRUNKS)
def test_values_of_unknown_tokens_mean_nothing(text: str) -> None:
    predictor = stirred(TokenPredictorSignature(), symbols(), text)
    x, known = draws(symbols()), torch.tensor([[True, True, False]]).expand(5, 3)
    shown = x.clone()
    shown[:, 2] = -1
    assert torch.equal(predictor(x, known).mean(), predictor(shown, known).mean())
    shown[:, 1] = (x[:, 1] + 1) % 4
    assert not torch.equal(predictor(x, known).mean(), predictor(shown, known).mean())


@pytest.mark.parametrize("path", PATHS)
def test_untrained_it_is_exact_on_independent_gaussians(path: PathName) -> None:
    # E[x_0 | x_t] = m + alpha v / (alpha^2 v + sigma^2) (x_t - alpha m); the flow keeps quantiles.
    target = ProductMixture(
        torch.tensor([[[1.0], [-2.0]]]).double(), torch.full((2, 1), 0.5).double()
    )
    x_t = CounterRandomness(2).normal((6, 2, 1))
    t = torch.full((6, 2), 0.6).double()
    for signature, shown in (
        (DenoiserSignature(path), (x_t, t)),
        (FlowMapSignature(path), (x_t, t, 0.5 * t)),
        (ConsistencySignature(path), (x_t, t)),
    ):
        network = as_network(
            build(signature, target.spec, TRUNKS[0]).requires_grad_(False), x_t.dtype
        )
        exact = signature.oracle(target)(*shown)
        assert torch.allclose(network(*shown), exact, atol=1e-5)
        other = from_spec("gaussian:ar1,tokens=2,rho=0.8")
        missed = signature.oracle(other)(*shown) - network(*shown)
        assert missed.abs().max() > 0.1


def test_a_bijection_states_the_density_of_what_it_makes() -> None:
    pytest.importorskip("zuko")
    # log q(f(z)) = log N(z) - log |det df/dz|, the determinant by automatic differentiation.
    for text in ("mlp:depth=0", "mlp:width=8,depth=1"):
        module = build(BijectionSignature(), numbers().spec, text).double()
        for p in module.parameters():
            p.data += 0.1
        flow: Any = as_network(module, torch.float64)
        assert isinstance(flow, Bijection)
        z = CounterRandomness(3).normal((1, 3, 1))
        J: Any = torch.autograd.functional.jacobian(flow, z)
        log_det = torch.linalg.slogdet(J.reshape(3, 3)).logabsdet
        log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum()
        assert float(flow.log_prob(flow(z)).detach()[0]) == pytest.approx(
            float(log_normal - log_det), abs=1e-4
        )


def test_a_decoder_proposes_latents_with_their_density() -> None:
    decoder = stirred(DecoderSignature(), numbers(), TRUNKS[0])
    assert isinstance(decoder, AutoEncoder)
    x = draws(numbers(), 1).expand(20_000, 3, 1)
    z, log_q = decoder.encode(x, CounterRandomness(4))
    # The mean of -log q is the entropy of the Gaussian that the draws have.
    entropy = 0.5 * torch.logdet(2 * torch.pi * torch.e * torch.cov(z.T))
    assert float(-log_q.mean()) == pytest.approx(float(entropy), abs=0.05)


def test_a_bound_on_the_rank_is_kept() -> None:
    x, known = draws(symbols(), 64), torch.tensor([[True, False, False]]).expand(64, 3)
    for rank in (1, 2):
        predictor = stirred(LowRankPredictorSignature(rank), symbols(), TRUNKS[0])
        logits = predictor(x, known).log_probabilities.flatten(0, 1)
        singular = torch.linalg.svdvals(logits - logits.mean(1, keepdim=True))
        assert int((singular > 1e-4 * singular[0]).sum()) == rank


def test_attention_can_be_differentiated_twice() -> None:
    energy = build(EnergySignature(), numbers().spec, TRUNKS[1])
    assert any(isinstance(part, Transformer) for part in energy.modules())
    x = draws(numbers()).float().requires_grad_()
    (slope,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(p.grad is not None for p in energy.parameters() if p.dim() > 1)


def test_weights_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> Tensor:
        module = build(EnergySignature(), numbers().spec, TRUNKS[0], seed=seed)
        return next(module.parameters())

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mpl", "did you mean 'mlp'"),
        ("mlp:widht=3", "did you mean 'width'"),
        ("mlp:width=x", "width must be a whole number, got 'x'"),
        ("mlp:width=0", "width must be a whole number of at least 1"),
    ],
)
def test_an_architecture_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture.parse(text)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (GeneratorSignature(lipschitz=2.0), "lipschitz=2"),
        (DecoderSignature(classes=3), "classes=3"),
        (DecoderSignature(latent=0), "latent=0"),
        (nn.Linear(1, 1), "no default module for Linear"),
    ],
)
def test_what_has_no_default_module_is_refused(signature: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(signature, numbers().spec, "mlp")
