"""A probe runs one family's inference procedure: a generator of states.

The first state is the start, with nothing placed and nothing written; then comes one state per
iteration, and the last one is the result. A probe is given a network, a spec, a budget and random
numbers; it never sees the target. Tokens that it leaves unplaced are completed by the engine.
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

Row = Literal["neither", "length", "steps", "length_outer", "steps_outer"]
ROWS: tuple[Row, ...] = ("neither", "length", "steps", "length_outer", "steps_outer")
"""The paper's five groups: which axes a family scales in, and which loop is outside."""
ROW_TITLES: dict[Row, str] = {
    "neither": "neither axis",
    "length": "length",
    "steps": "steps",
    "length_outer": "both, length outside",
    "steps_outer": "both, steps outside",
}

Failure = Literal["missing argument", "wrong factorisation", "limited emission", "unadjusted step"]
"""Why a procedure cannot produce a law that its network knows perfectly.

The network lacks an argument (where a step must land, tokens that it is not shown); tokens are
drawn independently that are not; what the network may emit is limited (a latent, a head, a window);
a Markov step leaves another law in place than the one it was made for.
"""

OPTIONS = ConfigDict(extra="forbid")
"""Configuration of the pydantic dataclass that a probe is: its fields are the family's options."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a procedure has made so far.

    Attributes:
        tokens: (n, N, d), or (n, N) integers; values of unplaced tokens are working values.
        placed: (n, N) bool, tokens whose value belongs to the result.
        written: (n, N) bool, tokens that this iteration wrote (an equal value is a write too).
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
        """Rows."""
        return len(self.tokens)

    def giving(self, tokens: Tensor, given: Sequence[int]) -> State:
        """A start in which the tokens of those indices are placed, with values of `tokens`."""
        where = torch.zeros_like(self.placed)
        where[:, list(given)] = True
        return replace(self.write(tokens, where), written=self.written)

    def filled(self, tokens: Tensor) -> State:
        """The same with those working values where nothing is placed: starting noise, say."""
        return replace(self, tokens=torch.where(self._mask(self.placed), self.tokens, tokens))

    def write(self, tokens: Tensor, where: Tensor | None = None) -> State:
        """The next state: `tokens` written and placed where the (n, N) mask says, or everywhere."""
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
        cure: What was changed, to follow "with": "the target time told to the network".
        probe: The changed procedure; its floor tells whether this is the cause.
    """

    failure: Failure
    cure: str
    probe: Probe[Any]


@dataclass(frozen=True, kw_only=True)
class Probe(ABC, Generic[NetworkT]):
    """One family's inference procedure; subclasses are frozen pydantic dataclasses.

    Attributes:
        family: Name of the family.
        row: Where the paper's table puts it; the report shows it beside what was measured.
        in_paper: Whether that table has it; if not, `row` is where its procedure belongs.
        kinds: Kinds of tokens that the procedure is defined for.
        reads: Axes of the budget that `run` and `log_density` depend on. Budgets that differ along
            another axis share one run; the conformance suite checks that they may.
        anytime: Axes along which one run at the largest budget holds every smaller one: for
            `length` the last state with at most l placed tokens, for `steps` the k-th iteration.
        near_oracle: Whether a survey shows it with a fitted network, too: where the oracle is a map
            of the whole sequence that says little of what can be trained.
    """

    family: ClassVar[str]
    row: ClassVar[Row]
    in_paper: ClassVar[bool] = True
    kinds: ClassVar[frozenset[Kind]]
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)
    anytime: ClassVar[frozenset[Axis]] = frozenset()
    near_oracle: ClassVar[bool] = False

    @property
    @abstractmethod
    def signature(self) -> Signature[NetworkT]:
        """What the family's network is shown and returns."""

    @abstractmethod
    def run(
        self, network: NetworkT, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Sample sequences, state by state; the first state has the start's placed tokens.

        Args:
            network: Counted network of this probe's signature.
            spec: What may be known of the sequences.
            budget: Tokens that may be placed beside the given ones, and iterations that may be
                made.
            start: One row for each sequence, (n, N, d) or (n, N) integers. The tokens `spec.given`
                are placed in it, and keep their values; the others are 0.
            rng: Source of every random number.
        """

    def log_density(
        self,
        network: NetworkT,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """Log-density of x under the completed result of `run` at that budget.

        Args:
            network: As for `run`; calls are not counted.
            completion: Predictor that the engine completes unplaced tokens with.
            spec: As for `run`.
            budget: As for `run`.
            x: (n, N, d), or (n, N) integers.
            rng: Random numbers for Monte Carlo bounds.

        Returns:
            The log-density of the free tokens given those of `spec.given`, or why there is none.
        """
        return Unavailable(reason=f"{self.family} has no tractable density")

    def basis(self, spec: SequenceSpec) -> Tensor | None:
        """The orthonormal coordinates that the procedure works in, (N d, N d), if not the tokens.

        The engine then gives it the spec and the network of `basis @ (x / units)`, where the units
        are the target's own (see `ContinuousTarget.in_basis`), and carries its results back.
        Placed, written and length count coefficients.

        Args:
            spec: Of the target's tokens.
        """
        return None

    def suspects(self) -> tuple[Suspect, ...]:
        """What may keep this procedure from the target, each with a procedure that lacks it."""
        return ()

    def limit(
        self, oracle: NetworkT, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """What `run` converges to as its budget grows, made from the same draws.

        With the oracle its law is the target's, so that it couples every budget's result with the
        target: the mean squared distance between the two is an upper bound on W2 squared.

        Args:
            oracle: The oracle of this probe's signature; calls are not counted.
            spec: As for `run`.
            start: As for `run`.
            rng: The random numbers that `run` would be given.

        Returns:
            (n, N, d), or None if it is not known.
        """
        return None


AnyProbe = Probe[Any]
