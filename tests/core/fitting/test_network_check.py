"""What a few calls of a network show before anything is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capcheck import InputError, check
from capcheck.core.budget import Budget
from capcheck.fitting import build
from capcheck.fitting.causal_check import require_causal
from capcheck.fitting.named import placed
from capcheck.fitting.network_check import check_network, require_density
from capcheck.laws import MixtureOfGaussians
from capcheck.networks.signatures import DenoiserSignature
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec

CHAIN = "gaussian:ar1,tokens=3,rho=0.6,std="
PLANE = from_spec("gaussian:tokens=2")
BITS = from_spec("parity:4")
HOW: dict[str, Any] = {"samples": 200, "steps": [4]}


class Chain:
    """The conditionals of a chain in its coordinates, of which some of each token itself is shown.

    Args:
        std: Deviation of the tokens.
        mean: How much of the way from its true mean to the token's value the law's mean goes.
        variance: How much the law's variance grows with the token's square.
    """

    def __init__(self, std: float, mean: float = 0.0, variance: float = 0.0) -> None:
        self.std, self.mean, self.variance = std, mean, variance

    def __call__(self, tokens: Tensor, known: Tensor) -> MixtureOfGaussians:
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1)
        mean = 0.6 * before + self.mean * (tokens - 0.6 * before)
        own = torch.full_like(tokens, 0.64 * self.std**2)
        own = own + self.variance * tokens.square()
        return MixtureOfGaussians(torch.zeros_like(mean), mean[..., None, :], own[..., None, :])


@pytest.mark.parametrize("std", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("leak", [{"mean": 0.02}, {"mean": 1.0}, {"variance": 0.02}])
def test_a_network_that_must_look_back_may_not_look_ahead(std: float, leak: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must not look ahead, and its answer for token 0 changes"):
        check("parallel_solve", from_spec(f"{CHAIN}{std}"), network=Chain(std, **leak), **HOW)


@pytest.mark.parametrize("std", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("family", ["parallel_solve", "blockwise"])
def test_a_network_that_looks_back_passes(family: str, std: float) -> None:
    assert check(family, from_spec(f"{CHAIN}{std}"), network=Chain(std), **HOW).cells


def test_default_prefix_predictors_look_back() -> None:
    for law in (from_spec(f"{CHAIN}1e-4"), BITS):
        procedure = Procedure.of(build_probe("parallel_solve"), law)
        for name in ("mlp:width=8,depth=1", "transformer:width=8,depth=1"):
            module = build(procedure.probe.signature, procedure.spec, name, seed=0)
            network = placed(module, procedure.spec, name=name)
            assert check_network(network, procedure, [Budget(length=1, steps=1)], name=name)


def looking(weights: list[list[float]]) -> Any:
    """A denoiser whose answer for token i is a weighted sum of the tokens, row i of the weights."""
    W = torch.tensor(weights).double()

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("ij,njd->nid", W, x_t)

    return denoise


@pytest.mark.parametrize("place", [(0, 1), (0, 2), (1, 2)])
def test_a_bidirectional_denoiser_is_refused_where_a_causal_one_is_meant(
    place: tuple[int, int],
) -> None:
    chain = from_spec(f"{CHAIN}1.0")
    how: dict[str, Any] = {"options": {"causal": True}, **HOW}
    back = [[0.5, 0.0, 0.0], [0.3, 0.5, 0.0], [0.1, 0.3, 0.5]]
    assert check("diffusion_forcing", chain, network=looking(back), **how).cells
    back[place[0]][place[1]] = 0.02
    words = (
        f"must not look ahead, and its answer for token {place[0]} changes with token {place[1]}"
    )
    with pytest.raises(InputError, match=words):
        check("diffusion_forcing", chain, network=looking(back), **how)
    # Where the whole sequence is seen it is a network like any other.
    assert check("diffusion_forcing", chain, network=looking(back), **HOW).cells


def test_a_token_with_a_view_of_its_own_may_not_see_other_noisy_tokens() -> None:
    signature = DenoiserSignature("cosine", "own")
    spec = from_spec("gaussian:tokens=4").spec

    def at_clean_ones(share: float) -> Any:
        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            clean = torch.where(t[..., None] == 0, x_t, share * x_t)
            return 0.5 * x_t + 0.1 * (clean.sum(1, keepdim=True) - clean)

        return denoise

    require_causal(at_clean_ones(0.0), signature, spec, name="it")
    with pytest.raises(InputError, match="must not look at other noisy tokens, and its answer for"):
        require_causal(at_clean_ones(0.05), signature, spec, name="it")
    module = build(signature, spec, "mlp:width=8,depth=1", seed=0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    require_causal(placed(module, spec, name="it"), signature, spec, name="it")
    for view in ("all", "causal"):
        other = build(DenoiserSignature("cosine", view), spec, "mlp:width=8,depth=1", seed=0)
        with torch.no_grad():
            for weight in other.parameters():
                weight.fill_(0.3)
        with pytest.raises(InputError, match="must not look at other noisy tokens"):
            require_causal(placed(other, spec, name="it"), signature, spec, name="it")


@pytest.mark.parametrize("family", ["gan", "flow", "vae"])
def test_a_network_that_does_not_take_given_tokens_is_told(family: str) -> None:
    def alone(z: Tensor) -> Tensor:
        return z

    words = r"z, tokens and which of them are known, and raised TypeError: .* takes 1 positional"
    with pytest.raises(InputError, match=words) as caught:
        check(family, PLANE, network=alone, given=[0], samples=200, steps=[1])
    assert "\n" not in str(caught.value)


def test_what_is_shown_is_a_copy() -> None:
    def plain(x: Tensor, t: Tensor) -> Tensor:
        return x * (1 - t)[..., None]

    def hasty(x: Tensor, t: Tensor) -> Tensor:
        return x.mul_((1 - t)[..., None])

    first, second = (
        check("diffusion", PLANE, network=one, samples=200, steps=[4]) for one in (plain, hasty)
    )
    assert [c.estimates for c in first.cells] == [c.estimates for c in second.cells]


def test_a_fit_is_not_disturbed_by_a_module_that_changes_what_it_is_shown() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1).double()

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.inner(torch.cat([x, t[..., None], t[..., None] ** 2], -1))  # type: ignore[no-any-return]

    class Hasty(Plain):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            answer = super().forward(x, t)
            x.zero_()
            t.fill_(7.0)
            return answer

    def fitted(kind: type[Plain]) -> float:
        torch.manual_seed(0)
        found = check("diffusion", PLANE, network=kind(), objective="oracle", fit_steps=40, **HOW)
        assert found.found.facts is not None
        assert found.found.facts.fit is not None
        return found.found.facts.fit.validation

    assert fitted(Plain) == fitted(Hasty)


def test_a_network_that_draws_numbers_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, training=True)

    def unsure(tokens: Tensor, known: Tensor) -> MixtureOfGaussians:
        law = Chain(1.0)(tokens, known)
        return MixtureOfGaussians(law.log_weights, law.means, law.variances * (1 + torch.rand(1)))

    chain = from_spec(f"{CHAIN}1.0")
    for family, law, network in (("diffusion", PLANE, Noisy()), ("parallel_solve", chain, unsure)):
        with pytest.raises(InputError, match="must answer the same when it is asked the same"):
            check(family, law, network=network, **HOW)


def test_a_network_that_cannot_score_a_draft_is_told() -> None:
    def drafts(tokens: Tensor, known: Tensor) -> MixtureOfGaussians:
        if known.all():
            raise ValueError("nothing is left to draw")
        return Chain(1.0)(tokens, known)

    with pytest.raises(InputError, match="nothing is left to draw"):
        check("blockwise", from_spec(f"{CHAIN}1.0"), network=drafts, **HOW)


class Scale(nn.Module):
    """A bijection that multiplies, and a log-density that is made of its right one.

    Args:
        change: Right log-density of each coordinate, (n, N, d), and the scale -> what is returned.
        scale: What it multiplies with.
    """

    def __init__(self, change: Any, scale: float = 2.0) -> None:
        super().__init__()
        self.change = change
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z

    def log_prob(self, x: Tensor) -> Tensor:
        each = torch.distributions.Normal(torch.zeros(()).to(x), self.scale).log_prob(x)
        return self.change(each, self.scale)  # type: ignore[no-any-return]


def whole(each: Tensor, scale: Tensor) -> Tensor:
    """The density of a sequence."""
    return each.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda each, _: each.sum(-1), r"of shape \(3,\), got \(3, 2\); sum over tokens"),
        (lambda each, s: whole(each, s)[:, None], r"of shape \(3,\), got \(3, 1\)"),
        (lambda each, s: float(whole(each, s)[0]), r"of shape \(3,\), got float"),
        (lambda each, s: whole(each, s) * torch.nan, "must be a number, got NaN"),
        (lambda each, s: whole(each, s) + 2 * s.log(), "where the change of variables gives"),
    ],
)
def test_a_log_density_must_be_that_of_the_draws(change: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check("flow", PLANE, network=Scale(change), **HOW)


def test_a_log_density_that_is_right_at_the_start_alone_is_refused_after_the_fit() -> None:
    module = Scale(lambda each, s: whole(each, s) + 2 * s.log(), scale=1.0)
    with pytest.raises(InputError, match="where the change of variables gives"):
        check("flow", from_spec("gaussian:tokens=2,std=3"), network=module, objective="oracle",
              fit_steps=50, **HOW)  # fmt: skip


class Boastful:
    """A bijection that claims one nat more than another has."""

    def __init__(self, honest: Any) -> None:
        self.honest = honest

    def __call__(self, *shown: Tensor) -> Tensor:
        return self.honest(*shown)  # type: ignore[no-any-return]

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        return self.honest.log_prob(x, *known) + 1  # type: ignore[no-any-return]


@pytest.mark.parametrize("spec", ["gaussian:tokens=2", "modes:tokens=6,modes=3,gap=6"])
@pytest.mark.parametrize("given", [(), (1,)])
def test_default_flows_know_their_density(spec: str, given: tuple[int, ...]) -> None:
    procedure = Procedure.of(build_probe("flow"), from_spec(spec), given=given)
    for name in ("mlp:width=16,depth=2", "mlp:width=64,depth=0"):
        module = build(procedure.probe.signature, procedure.spec, name, seed=3)
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        require_density(placed(module, procedure.spec, name=name), procedure, name=name)
        boastful = Boastful(placed(module, procedure.spec, name=name))
        with pytest.raises(InputError, match="where the change of variables gives"):
            require_density(boastful, procedure, name=name)  # so that it was looked at


def test_a_log_density_that_nobody_asks_for_is_not_looked_at() -> None:
    class Denoiser(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x * (1 - t)[..., None]

        def log_prob(self, x: Tensor) -> Tensor:
            raise AssertionError("it was asked")

    assert check("diffusion", PLANE, network=Denoiser(), **HOW).cells


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda z: (0 * z[..., 0] + 99).long(), "integers from 0 to 1, got 99 to 99, int64"),
        (lambda z: (0 * z[..., 0] - 1).long(), "integers from 0 to 1, got -1 to -1, int64"),
        (lambda z: 0 * z.abs(), "integers from 0 to 1, got 0 to 0, float64"),
    ],
)
def test_generators_of_token_ids_return_token_ids(answer: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check("gan", BITS, network=answer, samples=200, steps=[1])


def test_a_shape_is_told_in_the_precision_that_the_module_sees() -> None:
    with pytest.raises(InputError, match=r"called with \(3, 2, 1\) float32, \(3, 2\) float32"):
        check("diffusion", PLANE, network=nn.Bilinear(5, 5, 5), **HOW)
