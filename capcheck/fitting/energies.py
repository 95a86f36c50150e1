"""Objectives of energies: score matching for numbers, pseudo-likelihood for token ids.

An energy E defines a law up to its normalisation, q(x) ~ exp(-E(x)), so that neither objective may
need it: the score -grad E and the conditionals of single tokens do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.fitting.likelihoods import FINITE
from capcheck.fitting.objectives import Batch, Objective
from capcheck.fitting.recording import Pool
from capcheck.laws import Categorical
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["CALIBRATION", "PseudoLikelihood", "ScoreMatching"]

CALIBRATION = 2048  # points over which the mean square of the score is computed


@dataclass(kw_only=True, eq=False)
class ScoreMatching(Objective):
    """Mean of |s grad E + s score|^2 divided by the mean of |s score|^2.

    The factor s is the tokens' deviations, coordinate by coordinate. Half of the points are fresh
    draws of the target, and the others are states of the recorded chains.

    Attributes:
        target: Law whose score is matched.
        states: Recorded states.
        size: Mean square of s score, positive.
    """

    exact, mixed = True, False
    target: ContinuousTarget
    states: Pool
    size: float

    @classmethod
    def of(cls, target: ContinuousTarget, states: Pool) -> ScoreMatching:
        """The objective for a target, with `size` computed from `CALIBRATION` points."""
        unit = cls(target=target, states=states, size=1.0)
        score = unit.draw(CALIBRATION, CounterRandomness(0, device=target.device))["score"]
        return cls(target=target, states=states, size=float(score.square().mean()))

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw points `x` and their scaled scores `score`."""
        drawn = self.target.sample(n - n // 2, rng.stream("target"))
        x = torch.cat([drawn, self.states.draw(n // 2, rng.stream("states")).to(drawn)])
        score = self.target.score(x) * self._deviation(x)
        return {"x": x, "score": score / self.size**0.5}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Mean squared error of the score, relative to the mean square of the score."""
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
    """Cross-entropy of softmax_v(-E(x with x_i = v)) against p(x_i | all others), for a random i.

    Half of the sequences are fresh draws of the target, and the others are states of the recorded
    chains.

    Attributes:
        target: Law whose conditionals are matched.
        states: Recorded states.
    """

    exact = True
    target: Target
    states: Pool

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw sequences, each with its V variants `x` at token i and their probabilities `p`."""
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
        """Mean cross-entropy of one token, nats."""
        energy = module(batch["x"].flatten(0, 1)).reshape(batch["p"].shape)
        law = Categorical(-energy[:, None])
        log_q = law.log_probabilities[:, 0].clamp(min=FINITE)
        return -torch.where(batch["p"] > 0, batch["p"] * log_q, 0).sum(1).mean()
