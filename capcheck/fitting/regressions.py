"""Regressions: objectives of networks whose oracle's answer is a point, fitted by squared error.

A denoiser, a flow map and a consistency function answer with tokens (n, N, d). The loss is
|f(inputs) - oracle(inputs)|^2 / Var x, coordinate by coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.objectives import Batch, Objective
from capcheck.fitting.recording import Call, Pool
from capcheck.noise.paths import PATHS, PathName
from capcheck.targets.target import ContinuousTarget

__all__ = ["QUESTIONS", "UNIFORM", "Regression", "denoising", "distilling", "mapping"]

QUESTIONS = 8  # most rows made from one path along a flow, which is slow to integrate
UNIFORM = 8  # one in this many rows has a uniform level in place of a recorded one


@dataclass(kw_only=True, eq=False)
class Regression(Objective):
    """Mean squared error (f(inputs) - oracle(inputs))^2, in units of each coordinate's variance.

    Attributes:
        spec: Spec of the sequences.
        questions: Function of n and random numbers that returns the network's inputs and the
            oracle's answer.
    """

    exact = True
    spec: SequenceSpec
    questions: Callable[[int, Randomness], tuple[tuple[Tensor, ...], Tensor]]

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw inputs `0`, `1`, .. and the oracle's `answer`."""
        inputs, answer = self.questions(n, rng)
        return {**{str(i): x for i, x in enumerate(inputs)}, "answer": answer}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Mean squared error in units of the tokens' variances."""
        inputs = [batch[str(i)] for i in range(len(batch) - 1)]
        variance = self.spec.variance.to(batch["answer"])
        error = (module(*inputs) - batch["answer"]).square()
        scaled: Tensor = error / torch.where(variance > 0, variance, 1)
        return scaled.mean()


def denoising(
    target: ContinuousTarget, oracle: Callable[..., Tensor], calls: Sequence[Call], path: PathName
) -> Regression:
    """Regression for a denoiser, on fresh draws with noise of recorded levels.

    In one of `UNIFORM` rows, a uniform level replaces the row's highest level.
    """
    levels = Pool.of(calls, lambda call: call.more[0])
    noise = PATHS[path]

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], Tensor]:
        x_0 = target.sample(n, rng.stream("target"))
        t = levels.draw(n, rng.stream("levels")).to(x_0)
        u = rng.stream("uniform").uniform((n, 1)).to(t)
        other = torch.where((t == t.amax(1, keepdim=True)) & (t > 0), u, t)
        t = torch.where(torch.arange(n, device=t.device)[:, None] % UNIFORM == 0, other, t)
        e = rng.stream("noise").normal(tuple(x_0.shape)).to(x_0)
        x_t = noise.alpha(t)[..., None] * x_0 + noise.sigma(t)[..., None] * e
        return (x_t, t), oracle(x_t, t)

    return Regression(spec=target.spec, questions=questions)


def mapping(
    target: ContinuousTarget,
    carry: Callable[..., Tensor],
    calls: Sequence[Call],
    spec: SequenceSpec,
    *,
    lands: bool,
) -> Regression:
    """Regression for a flow map or consistency function, on pairs of points of exact flow paths.

    The exact flow carries noise through all recorded levels. Each row of a batch asks for the point
    x_s of a path given its point x_t, for a recorded pair of levels (t, s).

    Args:
        target: Law that the flow generates.
        carry: Exact flow map (x_t, t, s) -> x_s.
        calls: Recorded calls of a flow map or of a consistency function.
        spec: Spec of the sequences; given tokens are at level 0 on the whole path.
        lands: Whether the network has the level s as an argument; otherwise s = 0.
    """
    free, given = list(spec.free), list(spec.given)
    moves = torch.ones(spec.tokens).to(spec.mean)
    moves[given] = 0

    def pair(call: Call) -> Tensor:
        t = call.more[0][:, free[0]]
        return torch.stack([t, call.more[1][:, free[0]] if lands else torch.zeros_like(t)], 1)

    pairs = Pool.of(calls, pair)
    levels = pairs.rows.unique()  # ascending

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], Tensor]:
        ways = -(-n // min(QUESTIONS, len(pairs.rows)))
        x = rng.stream("noise").normal((ways, spec.tokens, spec.dim)).to(spec.mean)
        if given:
            x[:, given] = target.sample(ways, rng.stream("target"))[:, given]
        chosen = pairs.draw(n, rng.stream("levels"))
        place = torch.searchsorted(levels, chosen.contiguous())  # (n, 2)
        stops, at = [], moves.expand(ways, spec.tokens)
        for level in levels.flip(0):
            to = float(level) * moves.expand(ways, spec.tokens)
            x = x if bool((to == at).all()) else carry(x, at, to)
            stops.append(x)
            at = to
        way = torch.stack(stops[::-1])  # (levels, ways, N, d)
        row = torch.arange(n, device=x.device) % ways
        t, s = (chosen[:, [side]] * moves for side in (0, 1))
        inputs = (way[place[:, 0], row], t, s) if lands else (way[place[:, 0], row], t)
        return inputs, way[place[:, 1], row]

    return Regression(spec=spec, questions=questions)


def distilling(
    target: ContinuousTarget, oracle: Callable[..., Tensor], calls: Sequence[Call], path: PathName
) -> Regression:
    """Regression for a consistency function whose oracle uses finitely many solver steps.

    The inputs are fresh draws with noise of recorded levels; the oracle is called once for each
    highest level in a batch.
    """
    levels = Pool.of(calls, lambda call: call.more[0])
    noise = PATHS[path]

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], Tensor]:
        x_0 = target.sample(n, rng.stream("target"))
        t = levels.draw(n, rng.stream("levels")).to(x_0)
        e = rng.stream("noise").normal(tuple(x_0.shape)).to(x_0)
        x_t = noise.alpha(t)[..., None] * x_0 + noise.sigma(t)[..., None] * e
        answer = torch.empty_like(x_t)
        noisiest = t.amax(1)
        for level in noisiest.unique():
            rows = noisiest == level
            answer[rows] = oracle(x_t[rows], t[rows])
        return (x_t, t), answer

    return Regression(spec=target.spec, questions=questions)
