"""Likelihood objectives: cross-entropy of token laws, -log q of flows, ELBO, pseudo-likelihood.

Where the target's conditional p* is a table the loss is -sum_v p*(v) log q(v), without noise;
otherwise -log q(x) at a fresh draw x, whose floor -log p*(x) is known draw by draw. The ELBO
E[log p(x | z) + log N(z) - log q(z | x)] bounds log q(x) from below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.objectives import Batch, Objective
from capcheck.fitting.recording import Call, Pool
from capcheck.laws import LOG_2PI, Categorical, DeferredCategorical, TokenLaw
from capcheck.networks.signatures import AutoEncoder, Bijection
from capcheck.networks.signatures.given import given_arguments, hide_given
from capcheck.networks.signatures.token_predictor import hidden
from capcheck.networks.signatures.transition import added_noise
from capcheck.targets.conditional import log_prob_of
from capcheck.targets.target import ContinuousTarget, Target

__all__ = [
    "CALIBRATION",
    "FINITE",
    "CrossEntropy",
    "EvidenceBound",
    "Likelihood",
    "PseudoLikelihood",
    "ScoreMatching",
    "looking_back",
    "masked",
    "transitions",
]

CALIBRATION = 2048  # points at which the size of a score is measured
FINITE = -1e4  # nats that a log-probability is raised to, so that one row cannot be the whole loss


@dataclass(kw_only=True, eq=False)
class CrossEntropy(Objective):
    """Of the laws of the tokens that the procedure uses, in nats per call.

    Attributes:
        questions: n and random numbers -> the network's inputs, the oracle's law, the tokens x that
            it is a law of, and which of them count, (n, N) bool.
        exact: Whether the law is a table, which is compared whole.
        shares: Whether all rows share the last input, of which the network is shown one row.
    """

    questions: Callable[[int, Randomness], tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]]
    exact: bool = False
    shares: bool = False

    def __post_init__(self) -> None:
        """Rows that share an input stay together."""
        self.mixes = not self.shares
        self.large = 1 << 12 if self.exact else 1 << 15

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Inputs `0`, `1`, .., the oracle's law or its draw, and which tokens count."""
        inputs, law, x, counts = self.questions(n, rng)
        batch = {str(i): value for i, value in enumerate(inputs)}
        if self.exact:
            p = law.mean()
            counts = counts & p.isfinite().all(-1)
            batch["p"] = torch.where(counts[..., None], p, 0)
            batch["floor"] = -torch.special.xlogy(batch["p"], batch["p"]).sum((1, 2))
        else:
            batch["x"] = x
            if floor:
                batch["floor"] = -torch.where(counts, law.log_prob(x), 0).sum(1)
        return {**batch, "counts": counts}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Cross-entropy, nats."""
        inputs = [batch[str(i)] for i in range(sum(key.isdecimal() for key in batch))]
        if self.shares:
            inputs[-1] = inputs[-1][0]
        law = module(*inputs)
        if self.exact:
            log_q = _log_table(law).clamp(min=FINITE)
            each = (torch.where(batch["p"] > 0, batch["p"] * log_q, 0)).sum(-1)
        else:
            each = law.log_prob(batch["x"]).clamp(min=FINITE)
        return -torch.where(batch["counts"], each, 0).sum(1).mean()


def _log_table(law: TokenLaw) -> Tensor:
    """Log-probabilities of all values, (n, N, V)."""
    if isinstance(law, (Categorical, DeferredCategorical)):
        return law.log_probabilities
    p = law.mean()
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()


def masked(target: Target, oracle: Callable[..., TokenLaw], calls: Sequence[Call]) -> CrossEntropy:
    """Fresh draws under recorded masks, of whose unknown tokens those count that were used."""

    def mask_and_use(call: Call) -> Tensor:
        return torch.cat([call.more[0], call.used.expand(len(call.shown), -1)], 1)

    pool, N = Pool.of(calls, mask_and_use), target.spec.tokens

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]:
        x = target.sample(n, rng.stream("target"))
        known, used = pool.draw(n, rng.stream("masks")).split([N, N], 1)
        return (hidden(x, known, target.spec), known), oracle(x, known), x, used & ~known

    return CrossEntropy(questions=questions, exact=target.spec.kind == "categorical")


def looking_back(
    target: Target, oracle: Callable[..., TokenLaw], calls: Sequence[Call]
) -> CrossEntropy:
    """Fresh draws under recorded masks, where a known token is scored as well."""
    N = target.spec.tokens

    def mask_and_use(call: Call) -> Tensor:
        n = len(call.shown)
        return torch.cat([call.more[0].expand(n, N), call.used.expand(n, N)], 1)

    pool = Pool.of(calls, mask_and_use)

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]:
        x = target.sample(n, rng.stream("target"))
        known, used = pool.draw(n, rng.stream("masks")).split([N, N], 1)
        return (hidden(x, known, target.spec), known), oracle(x, known), x, used

    return CrossEntropy(questions=questions, exact=target.spec.kind == "categorical")


def transitions(
    target: ContinuousTarget, oracle: Callable[..., TokenLaw], calls: Sequence[Call]
) -> CrossEntropy:
    """Fresh draws made noisy to recorded levels s, and further to t; y_s is what is predicted.

    One batch shares the levels of one call, as `s` is the same for all rows.
    """
    weights = torch.tensor([call.weight for call in calls], dtype=torch.float64)

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]:
        x_0 = target.sample(n, rng.stream("target"))
        call = calls[int(rng.stream("calls").categorical(weights, (1, 1)))]
        t, s = call.more
        t = t[torch.arange(n) % len(t)]
        wide = s.expand_as(t)
        e, more = rng.stream("noise"), rng.stream("more")
        y_s = (1 - wide)[..., None] * x_0 + wide[..., None] * e.normal(tuple(x_0.shape)).to(x_0)
        unseen = t == 1
        r, scale = added_noise(torch.where(unseen, wide, t), wide)
        noise = more.normal(tuple(x_0.shape)).to(x_0)
        y_t = r[..., None] * y_s + scale.nan_to_num()[..., None] * noise
        y_t = torch.where(unseen[..., None], 0, y_t)
        return (y_t, t, wide), oracle(y_t, t, s), y_s, call.used & (t > wide)

    return CrossEntropy(questions=questions, shares=True)


@dataclass(kw_only=True, eq=False)
class Likelihood(Objective):
    """Mean of -log q(x) over fresh draws, or of the free tokens given the others.

    Attributes:
        target: The law.
        spec: Of its sequences, some of whose tokens may be given.
    """

    mixed, large = False, 1 << 16
    target: Target
    spec: SequenceSpec

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Target draws."""
        x = self.target.sample(n, rng.stream("target"))
        if not floor:
            return {"x": x}
        log_p, given = self.target.log_prob(x), list(self.spec.given)
        if given:
            log_p = log_p - log_prob_of(self.target, given, x[:, given])
        return {"x": x, "floor": -log_p}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Nats per sequence."""
        if not isinstance(module, Bijection):
            raise InputError(
                "network of a flow must have a method log_prob(x) to be fitted by likelihood, got "
                f"{type(module).__name__}; add one."
            )
        x = batch["x"]
        log_q: Tensor = module.log_prob(x, *given_arguments(x, self.spec)[1:])
        return -log_q.clamp(min=FINITE).mean()


@dataclass(kw_only=True, eq=False)
class EvidenceBound(Likelihood):
    """Mean of -(log p(x | z) + log N(z) - log q(z | x)), z drawn by the encoder."""

    large = 1 << 14

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Nats per sequence, one latent for each."""
        if not isinstance(module, AutoEncoder):
            raise InputError(
                "network of a decoder must have a method encode(x, rng) to be fitted by the ELBO, "
                f"got {type(module).__name__}; add one."
            )
        x, free = batch["x"], list(self.spec.free)
        given = given_arguments(x, self.spec)
        z, log_q = module.encode(x, rng, *given[1:])
        log_prior = -0.5 * (z.square() + LOG_2PI).sum(1)
        law = module(*hide_given((z, *given), self.spec))
        log_p: Tensor = law.select(free).log_prob(x[:, free]).sum(1)
        return -(log_p + log_prior - log_q).clamp(min=FINITE).mean()


@dataclass(kw_only=True, eq=False)
class ScoreMatching(Objective):
    """Mean of |s grad E + s score|^2 over that of |s score|^2, s the tokens' deviations.

    Half of the points are fresh draws, the others states of the recorded chains.

    Attributes:
        target: The law.
        states: Recorded states.
        size: Mean square of the scaled score, positive.
    """

    exact, mixed = True, False
    target: ContinuousTarget
    states: Pool
    size: float

    @classmethod
    def of(cls, target: ContinuousTarget, states: Pool) -> ScoreMatching:
        """With the size of the score measured at some points."""
        unit = cls(target=target, states=states, size=1.0)
        score = unit.draw(CALIBRATION, CounterRandomness(0, device=target.device))["score"]
        return cls(target=target, states=states, size=float(score.square().mean()))

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Points and their scores."""
        drawn = self.target.sample(n - n // 2, rng.stream("target"))
        x = torch.cat([drawn, self.states.draw(n // 2, rng.stream("states")).to(drawn)])
        score = self.target.score(x) * self._deviation(x)
        return {"x": x, "score": score / self.size**0.5}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Share of the score that is missed."""
        x = batch["x"].detach().requires_grad_()
        energy = module(x).sum()
        (slope,) = torch.autograd.grad(energy, x, create_graph=True)
        scaled = slope * self._deviation(x) / self.size**0.5
        missed: Tensor = scaled + batch["score"]
        return missed.square().mean()

    def _deviation(self, like: Tensor) -> Tensor:
        v = self.target.spec.variance.to(like)
        return torch.where(v > 0, v, 1).sqrt()


@dataclass(kw_only=True, eq=False)
class PseudoLikelihood(Objective):
    """Cross-entropy of softmax_v(-E(x with x_i = v)) against p(x_i | all others), i at random.

    Attributes:
        target: The law.
        states: Recorded states.
    """

    exact = True
    target: Target
    states: Pool

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """The V variants of each sequence and their shares."""
        spec = self.target.spec
        drawn = self.target.sample(n - n // 2, rng.stream("target"))
        x = torch.cat([drawn, self.states.draw(n // 2, rng.stream("states")).to(drawn)])
        even = torch.ones(spec.tokens, dtype=torch.float64, device=x.device)
        i = rng.stream("place").categorical(even, (n, 1))  # (n, 1)
        level = torch.zeros(x.shape, device=x.device, dtype=self.target.dtype).scatter(1, i, 1.0)
        p = self.target.marginals(x, level).mean()  # (n, N, V)
        p = p.gather(1, i[..., None].expand(n, 1, spec.dim))[:, 0]
        values = torch.arange(spec.dim, device=x.device).to(x)[None, :, None]
        place = nn.functional.one_hot(i, spec.tokens).bool()  # (n, 1, N)
        variants = torch.where(place, values, x[:, None])  # (n, V, N)
        return {"x": variants, "p": p, "floor": -torch.special.xlogy(p, p).sum(1)}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Nats per token."""
        energy = module(batch["x"].flatten(0, 1)).reshape(batch["p"].shape)
        law = Categorical(-energy[:, None])
        log_q = law.log_probabilities[:, 0].clamp(min=FINITE)
        return -torch.where(batch["p"] > 0, batch["p"] * log_q, 0).sum(1).mean()
