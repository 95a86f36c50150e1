"""Likelihood objectives: cross-entropy of token laws, -log q of flows, ELBO.

If the target's conditional law p* is a table, the loss is the exact -sum_v p*(v) log q(v).
Otherwise it is -log q(x) at a fresh draw x, with the floor -log p*(x) of the same draw. The ELBO
E[log p(x | z) + log N(z) - log q(z | x)] is a lower bound of log q(x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
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
    "FINITE",
    "CrossEntropy",
    "EvidenceBound",
    "Likelihood",
    "masked",
    "prefix_masked",
    "transitions",
]

FINITE = -1e4  # least log-probability (nats) in a loss, so that one row cannot dominate it


@dataclass(kw_only=True, eq=False)
class CrossEntropy(Objective):
    """Cross-entropy of the laws of those tokens that the procedure uses, in nats per call.

    Attributes:
        questions: Function of n and random numbers that returns the network's inputs, the oracle's
            law, a draw x of the tokens, and which tokens count in the loss, (n, N) bool.
        exact: Whether the oracle's law is a table, so that the loss needs no draws.
        shares: Whether the last input is the same for all rows; the network receives one row of it.
    """

    questions: Callable[[int, Randomness], tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]]
    exact: bool = False
    shares: bool = False

    def __post_init__(self) -> None:
        """Set `mixes` and `large`; rows that share an input must not be mixed with others."""
        self.mixes = not self.shares
        self.large = 1 << 12 if self.exact else 1 << 15

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Inputs `0`, `1`, .., the table `p` or the draw `x`, and the mask `counts`."""
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
        """Mean cross-entropy per row, nats."""
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
    """Log-probabilities (nats) of all values, (n, N, V)."""
    if isinstance(law, (Categorical, DeferredCategorical)):
        return law.log_probabilities
    p = law.mean()
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()


def masked(target: Target, oracle: Callable[..., TokenLaw], calls: Sequence[Call]) -> CrossEntropy:
    """Cross-entropy on fresh draws with recorded masks.

    Tokens count in the loss if they are unknown and the procedure used their laws.
    """

    def mask_and_use(call: Call) -> Tensor:
        return torch.cat([call.more[0], call.used.expand(len(call.shown), -1)], 1)

    pool, N = Pool.of(calls, mask_and_use), target.spec.tokens

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]:
        x = target.sample(n, rng.stream("target"))
        known, used = pool.draw(n, rng.stream("masks")).split([N, N], 1)
        return (hidden(x, known, target.spec), known), oracle(x, known), x, used & ~known

    return CrossEntropy(questions=questions, exact=target.spec.kind == "categorical")


def prefix_masked(
    target: Target, oracle: Callable[..., TokenLaw], calls: Sequence[Call]
) -> CrossEntropy:
    """Cross-entropy on fresh draws with recorded masks, for prefix predictors.

    Tokens count in the loss if the procedure used their laws, even if they are known.
    """
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
    """Cross-entropy of the tokens y_s at level s, predicted from noisier tokens at level t.

    The tokens are fresh draws, with noise added up to recorded levels s and t. All rows of a batch
    have the levels of one recorded call, since `s` is the same for all rows.
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
    """Mean of -log q(x) over fresh draws x; where tokens are given, of the others given them.

    Attributes:
        target: Law of the draws.
        spec: Spec of the sequences; it says which tokens are given.
    """

    mixed, large = False, 1 << 16
    target: Target
    spec: SequenceSpec

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw sequences `x` of the target."""
        x = self.target.sample(n, rng.stream("target"))
        if not floor:
            return {"x": x}
        log_p, given = self.target.log_prob(x), list(self.spec.given)
        if given:
            log_p = log_p - log_prob_of(self.target, given, x[:, given])
        return {"x": x, "floor": -log_p}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Mean of -log q(x) per sequence, nats."""
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
    """Mean of -(log p(x | z) + log N(z) - log q(z | x)), the negative ELBO, with z ~ q(z | x)."""

    large = 1 << 14

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Negative ELBO per sequence, nats, with one latent drawn for each sequence."""
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
