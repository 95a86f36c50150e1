"""A probe implements the inference procedure of one family as a generator of states.

The first state is the start, in which only given tokens are placed and nothing is written. One
state follows per iteration, and the last state is the result. Tokens that the probe leaves unplaced
are completed by the engine.

A probe is given a network, a spec, a budget and random numbers. It never sees the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from capcheck.core.budget import AXES, Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.signatures import NetworkT, Signature, TokenPredictor
from capcheck.procedures.rows import Row
from capcheck.procedures.speculation import Acceptances

__all__ = [
    "OPTIONS",
    "AnyProbe",
    "Failure",
    "Probe",
    "State",
    "Suspect",
]

Failure = Literal["missing argument", "wrong factorisation", "limited emission", "unadjusted step"]
"""The classes of reasons why a procedure with a perfect network cannot produce a law.

- `missing argument`: the network is not told something that it needs, such as the level where a
  step must land, or tokens that it is not shown;
- `wrong factorisation`: dependent tokens are drawn independently;
- `limited emission`: the form of the network's output is limited, such as by a latent, a head or a
  window;
- `unadjusted step`: a Markov step does not leave the intended law invariant.
"""

OPTIONS = ConfigDict(extra="forbid")
"""Configuration of the pydantic dataclass of a probe, whose fields are the family's options."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """The sequences of a run after one iteration.

    Attributes:
        tokens: (n, N, d), or (n, N) integers; unplaced tokens hold working values.
        placed: (n, N) bool, tokens whose value belongs to the result.
        written: (n, N) bool, tokens that this iteration wrote; writing an equal value counts.
    """

    tokens: Tensor
    placed: Tensor
    written: Tensor

    @classmethod
    def blank(cls, spec: SequenceSpec, n: int) -> State:
        """A start of n rows: all tokens 0, nothing placed, nothing written."""
        device = spec.mean.device
        dtype = spec.mean.dtype if spec.kind == "continuous" else torch.int64
        nothing = torch.zeros(n, spec.tokens, dtype=torch.bool, device=device)
        tokens = torch.zeros(n, spec.tokens, *spec.token_shape, dtype=dtype, device=device)
        return cls(tokens=tokens, placed=nothing, written=nothing)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.tokens)

    def giving(self, tokens: Tensor, given: Sequence[int]) -> State:
        """The start in which the tokens of indices `given` are placed, with values of `tokens`."""
        where = torch.zeros_like(self.placed)
        where[:, list(given)] = True
        return replace(self.write(tokens, where), written=self.written)

    def filled(self, tokens: Tensor) -> State:
        """The state whose unplaced tokens have the working values `tokens`, such as noise."""
        return replace(self, tokens=torch.where(self._mask(self.placed), self.tokens, tokens))

    def write(self, tokens: Tensor, where: Tensor | None = None) -> State:
        """The next state, in which `tokens` are written and placed where a mask is true.

        Args:
            tokens: (n, N, d), or (n, N) integers.
            where: (n, N) bool mask; all tokens if None.
        """
        if where is None:
            where = torch.ones_like(self.placed)
        return State(
            tokens=torch.where(self._mask(where), tokens, self.tokens),
            placed=self.placed | where,
            written=where,
        )

    def _mask(self, where: Tensor) -> Tensor:
        return where.reshape(*where.shape, *[1] * (self.tokens.dim() - 2))


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A possible cause of a family's floor, and the procedure with that cause switched off.

    Attributes:
        failure: Class of the cause.
        cure: The change that removes the cause, as a phrase to follow "with", such as "the target
            time told to the network".
        probe: The changed procedure; if it has no floor, the suspect is the cause.
    """

    failure: Failure
    cure: str
    probe: Probe[Any]


@dataclass(frozen=True, kw_only=True)
class Probe(ABC, Generic[NetworkT]):
    """The inference procedure of one family; subclasses are frozen pydantic dataclasses.

    Attributes:
        family: Name of the family.
        row: The family's row in the paper's table; the report compares it with the measured row.
        in_paper: Whether the paper's table lists the family; if not, `row` is the row that its
            procedure belongs to.
        kinds: Kinds of tokens that the procedure is defined for.
        reads: Axes of the budget that `run` and `log_density` depend on. Budgets that differ only
            along another axis share one run; the conformance suite checks this.
        anytime: Axes along which one run at the largest budget contains every smaller run. For
            `length`, length l ends with the last state of at most l placed tokens; for `steps`, k
            steps end with the k-th iteration.
        two_sided: Whether the network is shown known tokens on both sides of those that it predicts
            in every iteration, which takes a whole recursion on chains.
        rounding: Relative rounding error of arithmetic in `run` that is coarser than the tokens'
            type, as of code that computes in float32; 0 if there is none. A law that is found by
            replay is then as coarse.
        raw_tokens: Whether the procedure is given the tokens in their own unit, as other people's
            code expects, where one that adds noise has them at mean 0 and variance 1.
        rotates: Whether the procedure commutes with rotations of whole sequences where no tokens
            are given: it treats all numbers alike, at one noise level, and all its draws are normal
            numbers of whole sequences.
        near_oracle: Whether a survey also measures the family with a fitted network. It is set
            where the oracle is a map of the whole sequence, which may be far from trainable.
    """

    family: ClassVar[str]
    row: ClassVar[Row]
    in_paper: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]]
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)
    anytime: ClassVar[frozenset[Axis]] = frozenset()
    two_sided: ClassVar[bool] = False
    rounding: ClassVar[float] = 0.0
    raw_tokens: ClassVar[bool] = False
    rotates: ClassVar[bool] = False
    near_oracle: ClassVar[bool] = False

    @property
    @abstractmethod
    def signature(self) -> Signature[NetworkT]:
        """The signature of the family's network: its arguments and its answer."""

    @abstractmethod
    def run(
        self, network: NetworkT, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Samples sequences and yields every state; the first state equals the start where placed.

        Args:
            network: Counted network of this probe's signature.
            spec: Specification of the sequences.
            budget: Largest number of tokens to be placed beside the given ones, and largest number
                of iterations.
            start: The state before the first iteration, with one row for each sequence. The tokens
                `spec.given` are placed and keep their values; the others are 0.
            rng: Source of every random number.
        """

    def effective(self, spec: SequenceSpec, budget: Budget) -> Budget:
        """A budget, as small as is known, with the same `run` and `log_density` as this one.

        By default it is the budget itself. Budgets for which it is equal are measured once.

        Args:
            spec: As for `run`.
            budget: As for `run`.
        """
        return budget

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """The number of states that `run` yields after the first one, at most.

        By default it is that of a procedure which visits every token that it places, every
        iteration, or every iteration for every token, by the axes that it reads. The engine tells
        from it early how long a run will take.

        Args:
            spec: As for `run`.
            budget: As for `run`.
        """
        length = min(budget.length, len(spec.free)) if "length" in self.reads else 1
        return length * (budget.steps if "steps" in self.reads else 1)

    def log_density(
        self,
        network: NetworkT,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """Log-density (nats) of x under the law of the completed result of `run` at a budget.

        Args:
            network: As for `run`; calls are not counted.
            completion: The predictor with which the engine completes unplaced tokens.
            spec: As for `run`.
            budget: As for `run`.
            x: (n, N, d), or (n, N) integers.
            rng: Random numbers for Monte Carlo bounds.

        Returns:
            The log-density of the free tokens given the tokens `spec.given`, or the reason why it
            is not tractable.
        """
        return Unavailable(reason=f"{self.family} has no tractable density")

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """How often `log_density` takes a denoiser's derivative or a token's law; 0 if it is cheap.

        Both are expensive where a large data set stands behind them. The engine evaluates the
        log-density at only so many rows as take it some seconds.

        Args:
            spec: As for `run`.
            budget: As for `run`.
        """
        return 0.0

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """How often `log_density` asks for the laws of categorical tokens given some; 0 if seldom.

        Args:
            spec: As for `run`.
            budget: As for `run`.
        """
        return 0.0

    @property
    def own_orders(self) -> bool:
        """Whether each row of a run knows tokens of its own, as in a random order."""
        return False

    def conditional_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """How often `run` asks for laws of categorical tokens between known ones; 0 if seldom.

        Args:
            spec: As for `run`.
            budget: As for `run`.
        """
        return float(self.iterations(spec, budget)) if self.two_sided else 0.0

    def cheaper_density(self) -> Probe[NetworkT] | None:
        """The same procedure with a looser log-density that takes less time, or None.

        The engine evaluates it where the log-density takes too long on a target.
        """
        return None

    def density_work(self, spec: SequenceSpec, budget: Budget) -> float:
        """Multiply-adds that `log_density` makes for a row, beside those of its derivatives.

        Args:
            spec: As for `run`.
            budget: As for `run`.
        """
        return 0.0

    def basis(self, spec: SequenceSpec) -> Tensor | None:
        """The orthonormal basis (N d, N d) that the procedure works in, or None for the tokens.

        With a basis, spec and network are those of the coefficients basis @ ((x - mean) / units),
        where the units are the target's own (see `capcheck.procedures.coordinates`), and the
        engine transforms the results back. `placed`, `written` and the length budget then count
        coefficients.

        Args:
            spec: Specification of the target's tokens.
        """
        return None

    def suspects(self) -> tuple[Suspect, ...]:
        """Possible causes of a floor, each with the procedure that lacks the cause."""
        return ()

    @property
    def base_model(self) -> Probe[NetworkT] | None:
        """The same procedure one token at a time, if it drafts tokens that can be verified."""
        return None

    def speculation(self, network: NetworkT, spec: SequenceSpec, x: Tensor) -> Acceptances | None:
        """The drafts that a verification accepts, or None if the procedure drafts nothing.

        Args:
            network: As for `run`; calls are not counted.
            spec: As for `run`.
            x: (n, N, d), or (n, N) integers: draws of the law of `base_model`.
        """
        return None

    def limit(
        self, oracle: NetworkT, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The limit of `run` with the oracle as its budget grows, from the same random numbers.

        The law of the limit is the target. The limit therefore couples the result of every budget
        with a draw of the target, and their mean squared distance is an upper bound on W2 squared.

        Args:
            oracle: The oracle of this probe's signature; calls are not counted.
            spec: As for `run`.
            start: As for `run`.
            rng: The random numbers that `run` would be given.

        Returns:
            (n, N, d), or None if the limit is not known.
        """
        return None


AnyProbe = Probe[Any]
