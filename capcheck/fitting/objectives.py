"""An objective draws batches of a network's inputs with the oracle's answers, and defines a loss.

The inputs are those that occur in the procedure: fresh draws of the target at the levels, masks and
times of its recorded calls. Every loss is a divergence from the oracle plus the oracle's own loss,
the floor, so that loss - floor is the remaining error of a module.
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
QUESTIONS = 8  # most rows made from one path along a flow, which is slow to integrate
UNIFORM = 8  # one in this many rows has a uniform level in place of a recorded one
DIFFERENTIABLE = (
    DenoiserSignature,
    FlowMapSignature,
    ConsistencySignature,
    GeneratorSignature,
    BijectionSignature,
)


class Objective(ABC):
    """A loss that a module is fitted to, and the batches that it is computed on.

    Attributes:
        exact: Whether the oracle attains the floor on every single batch, so that a few rows
            suffice to measure how close a module is.
        mixes: Whether one batch may contain rows of several draws.
        mixed: Whether products may be computed in bfloat16 early in a fit (mixed precision).
        large: Largest number of rows in the batch of the final L-BFGS descent (see `polish`); 0 if
            the loss is not a mean over rows.
    """

    exact: bool = False
    large: int = 1 << 12
    mixes: bool = True
    mixed: bool = True

    @abstractmethod
    def draw(self, n: int, rng: Randomness, *, floor: bool = True) -> Batch:
        """Draw a batch of n rows; its entry `floor`, if any, is the oracle's loss per row, (n,).

        Args:
            n: Number of rows.
            rng: Source of every random number.
            floor: Whether the entry `floor` is needed; training steps do without it.
        """

    @abstractmethod
    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """The module's mean loss over a batch, ().

        Args:
            module: Module in its own precision.
            batch: Batch in the module's precision.
            rng: Source of the random numbers that the loss itself needs.
        """


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


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """The U-statistic of 2 E|X - Y| - E|X - X'| - E|Y - Y'| from rows x (n, D) and y (m, D)."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        # By matrix products, the distance of equal rows would be rounding noise in place of 0.
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    within = [distances(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return 2 * distances(x, y).mean() - within[0] - within[1]


@dataclass(kw_only=True, eq=False)
class SampleDistance(Objective):
    """The energy distance between the output of a procedure with the module and target draws.

    Attributes:
        procedure: Procedure, whose network is replaced by the module.
        budget: Budget at which the procedure is run.
    """

    large = 0
    procedure: AnyProcedure
    budget: Budget
    _relaxed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raise InputError if the procedure cannot be differentiated."""
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
        """Draw sequences `x` of the target."""
        return {"x": self.target.sample(n, rng.stream("target"))}

    def loss(self, module: nn.Module, batch: Batch, rng: Randomness) -> Tensor:
        """The energy distance in units of the tokens' deviations, or of one-hot vectors."""
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
        """One-hot vectors (n, N, V) from a generator of token ids, with a gradient."""
        if not isinstance(module, Relaxed):
            raise InputError(
                "network of token ids must have a method relaxed(z), which returns one-hot vectors "
                f"with a gradient, got {type(module).__name__}; add one."
            )
        spec = self.procedure.spec
        start = self.procedure.start(n, rng)
        z = normals_for(spec, n, rng).to(next(module.parameters()))
        return module.relaxed(z, *given_arguments(start.tokens, spec))
