"""Objective: batches of what a network will be shown, the oracle's answers, and a loss on them.

Inputs are those that the procedure really meets: fresh draws of the target at the levels, masks and
times of its recorded calls. Every loss is a divergence from the oracle plus what the oracle itself
would lose, the floor: loss - floor is what training has left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.generators import Relaxed
from capcheck.fitting.networks import as_network
from capcheck.fitting.recording import Call, Pool
from capcheck.networks.signatures import (
    BijectionSignature,
    ConsistencySignature,
    DenoiserSignature,
    FlowMapSignature,
    GeneratorSignature,
)
from capcheck.networks.signatures.generator import normals_for
from capcheck.networks.signatures.given import given_arguments
from capcheck.noise.paths import PATHS, PathName
from capcheck.procedures.procedure import AnyProcedure
from capcheck.targets.target import ContinuousTarget

__all__ = [
    "DIFFERENTIABLE",
    "QUESTIONS",
    "UNIFORM",
    "Batch",
    "Objective",
    "Regression",
    "SampleDistance",
    "denoising",
    "distilling",
    "energy_distance",
    "mapping",
]

Batch = dict[str, Tensor]
QUESTIONS = 8  # that are asked of one path along a flow, which is dear to integrate
UNIFORM = 8  # of every so many rows, one gets a uniform level in place of a recorded one
DIFFERENTIABLE = (
    DenoiserSignature,
    FlowMapSignature,
    ConsistencySignature,
    GeneratorSignature,
    BijectionSignature,
)


class Objective(ABC):
    """What a module is fitted to.

    Attributes:
        exact: Whether the loss is at its floor at the oracle on every single batch, so that few
            rows tell how close a module is.
        mixes: Whether rows of several draws may stand in one batch.
        mixed: Whether bfloat16 products are safe early in a fit.
        large: Rows, at most, of the one batch that ends a fit (see `polish`); 0 where the loss is
            no mean over rows.
    """

    exact: bool = False
    large: int = 1 << 12
    mixes: bool = True
    mixed: bool = True

    @abstractmethod
    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """A batch of n rows; `floor`, where there is one, is the oracle's loss on each, (n,).

        Args:
            n: Rows.
            rng: Source of all of it.
            floor: Whether it is asked for; steps can do without.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """The module's mean loss, ().

        Args:
            module: In its own precision.
            batch: In the module's precision.
            rng: For losses that are means over more than the batch.
        """


@dataclass(kw_only=True, eq=False)
class Regression(Objective):
    """Mean of |f(inputs) - oracle(inputs)|^2 over the tokens' coordinates, in their variances.

    Attributes:
        spec: Of the sequences.
        questions: n and random numbers -> the network's inputs and the oracle's answer.
    """

    exact = True
    spec: SequenceSpec
    questions: Callable[[int, Randomness], tuple[tuple[Tensor, ...], Tensor]]

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Inputs `0`, `1`, .. and the answer."""
        inputs, answer = self.questions(n, rng)
        return {**{str(i): x for i, x in enumerate(inputs)}, "answer": answer}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """Squared error in units of the tokens' variances."""
        inputs = [batch[str(i)] for i in range(len(batch) - 1)]
        variance = self.spec.variance.to(batch["answer"])
        error = (module(*inputs) - batch["answer"]).square()
        scaled: Tensor = error / torch.where(variance > 0, variance, 1)
        return scaled.mean()


def denoising(
    target: ContinuousTarget, oracle: Callable[..., Tensor], calls: Sequence[Call], path: PathName
) -> Regression:
    """Fresh draws at recorded levels; of some rows the noisiest level is uniform instead."""
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
    """Noise carried by the exact flow through all recorded levels, any two of which are a question.

    Args:
        target: The law.
        carry: The flow map (x_t, t, s) -> x_s.
        calls: Of a flow map, or of a consistency function.
        spec: Of the sequences; given tokens are clean throughout.
        lands: Whether the network is told the level s to land at.
    """
    free, given = list(spec.free), list(spec.given)
    moves = torch.ones(spec.tokens).to(spec.mean)
    moves[given] = 0

    def pair(call: Call) -> Tensor:
        t = call.more[0][:, free[0]]
        return torch.stack([t, call.more[1][:, free[0]] if lands else torch.zeros_like(t)], 1)

    pairs = Pool.of(calls, pair)
    levels = pairs.rows.unique()  # rising

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
    """Fresh draws at recorded levels, for a function that is no exact flow: level after level."""
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


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, a U-statistic of rows x (n, D) and y (m, D)."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        # By differences: products would put equal rows apart by rounding.
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    within = [distances(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return 2 * distances(x, y).mean() - within[0] - within[1]


@dataclass(kw_only=True, eq=False)
class SampleDistance(Objective):
    """The energy distance between what a procedure makes with the module and fresh target draws.

    Attributes:
        procedure: With any network.
        budget: The one budget at which it is run.
    """

    large = 0
    procedure: AnyProcedure
    budget: Budget
    _relaxed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Refuse procedures through which there is no gradient."""
        self.target = self.procedure.coordinates.target
        signature = self.procedure.probe.signature
        tokens = self.target.spec.kind
        generates = isinstance(signature, GeneratorSignature)
        if not isinstance(signature, DIFFERENTIABLE) or (tokens != "continuous" and not generates):
            raise InputError(
                f"objective end_to_end needs a procedure that can be differentiated, got "
                f"{self.procedure.probe.family} on {tokens} tokens; leave it out."
            )
        self._relaxed = tokens == "categorical"

    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Target draws."""
        return {"x": self.target.sample(n, rng.stream("target"))}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """The distance, in units of the tokens' deviations."""
        spec, x = self.target.spec, batch["x"]
        if self._relaxed:
            y = self._one_hot(module, len(x), rng)
            x = nn.functional.one_hot(x.long(), spec.dim).to(y)
            return energy_distance(y.flatten(1), x.flatten(1))
        network: Any = as_network(module, spec.mean.dtype)
        *_, state = self.procedure.with_network(network).run_for_gradient(self.budget, len(x), rng)
        if not bool(state.placed.all()):
            raise InputError(
                f"budgets must place every token for objective end_to_end, got {self.budget}; "
                f"give length {spec.tokens}."
            )
        deviation = torch.where(spec.variance > 0, spec.variance, 1).sqrt()
        made, own = ((v.to(deviation) / deviation).flatten(1) for v in (state.tokens, x))
        return energy_distance(made, own)

    def _one_hot(self, module: nn.Module, n: int, rng: Randomness) -> Tensor:
        """One-hot vectors (n, N, V) that a generator of token ids makes, with a gradient."""
        if not isinstance(module, Relaxed):
            raise InputError(
                "network of token ids must have a method relaxed(z), which returns one-hot vectors "
                f"with a gradient, got {type(module).__name__}; add one."
            )
        spec = self.procedure.spec
        start = self.procedure.start(n, rng)
        z = normals_for(spec, n, rng).to(next(module.parameters()))
        return module.relaxed(z, *given_arguments(start.tokens, spec))
