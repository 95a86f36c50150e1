"""Procedure: a probe on a target with a network, as one object that is run, sampled and inverted.

It is made once for a probe and a target; its oracle is made when it is first needed, and shared by
every procedure that follows from it: with another network, in fewer digits, with errors of a known
size. Tokens of the user go in and come out; the probe works in `coordinates`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

from torch import Tensor

from capcheck.core.budget import AXES, Budget
from capcheck.core.errors import (
    CapcheckError,
    ControlFlow,
    InputError,
    NetworkError,
    ProbeError,
    UnfitError,
)
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.change_of_variables import density_of_draws
from capcheck.exact.enumeration import ROUTES, Route, enumerated_law
from capcheck.exact.replay import replayed_law
from capcheck.networks.perturbed import Perturbation, Perturbing
from capcheck.networks.rounded import Precision, Rounding, spec_in
from capcheck.networks.signatures import (
    Blinding,
    Calls,
    NetworkT,
    TokenPredictor,
    TokenPredictorSignature,
    Wrapper,
    counted,
)
from capcheck.procedures.coordinates import Coordinates, ExactLaw, coordinates_of
from capcheck.procedures.probe import Probe, State
from capcheck.targets.conditional import log_prob_of
from capcheck.targets.target import Target

ROUNDED_LAW = Unavailable(reason="the law of rounded arithmetic is not known")
"""The law that a procedure in fewer digits samples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Procedure(Generic[NetworkT]):
    """A family's inference procedure on one target, with a network in it; see `Procedure.of`.

    Attributes:
        probe: What is run.
        target: The law of the tokens.
        coordinates: What the probe works in.
        spec: What the probe may know of the sequences in these coordinates.
        make_oracle: Returns the oracle, the same one at every call.
        substitute: The network in the oracle's place, or None for the oracle.
        wrappers: What stands around the network, the innermost first.
        precision: In which it runs, if not in the target's own.
    """

    probe: Probe[NetworkT]
    target: Target
    coordinates: Coordinates
    spec: SequenceSpec
    make_oracle: Callable[[], NetworkT]
    substitute: NetworkT | None = None
    wrappers: tuple[Wrapper, ...] = ()
    precision: Precision | None = None

    @classmethod
    def of(
        cls, probe: Probe[NetworkT], target: Target, *, given: Sequence[int] = ()
    ) -> Procedure[NetworkT]:
        """The procedure of a probe on a target, with its oracle.

        Args:
            probe: The family's procedure.
            target: What it should produce.
            given: Indices of tokens that are known from the start, in rising order; their values
                are drawn from the target.

        Raises:
            UnfitError: The probe is not defined for such tokens, or does not know such a target in
                the coordinates that it works in.
        """
        if target.spec.kind not in probe.kinds:
            raise UnfitError(wrong_kind(probe, target))
        coordinates = coordinates_of(probe, target, given)
        inside = coordinates.target

        def make() -> NetworkT:
            try:
                return probe.signature.oracle(inside)
            except InputError as error:
                raise UnfitError(str(error)) from error

        return cls(
            probe=probe,
            target=target,
            coordinates=coordinates,
            spec=replace(inside.spec, given=tuple(given)),
            make_oracle=functools.cache(make),
        )

    def with_network(self, network: NetworkT) -> Procedure[NetworkT]:
        """The same procedure with another network, which sees no more than its signature lets it.

        Args:
            network: Of the probe's signature, in the coordinates of the probe.
        """
        blinding = Blinding(self.probe.signature, self.spec)
        return replace(self, substitute=network, wrappers=(blinding,))

    def wrapped(self, wrapper: Wrapper) -> Procedure[NetworkT]:
        """The same procedure with one more wrapper around its network."""
        return replace(self, wrappers=(*self.wrappers, wrapper))

    def watched(self, network: NetworkT) -> Procedure[NetworkT]:
        """The same procedure with a network of capcheck's own, which needs no blinding."""
        return replace(self, substitute=network, wrappers=())

    def perturbed(self, kind: Perturbation, size: float) -> Procedure[NetworkT]:
        """The same procedure with errors of a size in every answer of its network.

        Args:
            kind: Of the errors; see `capcheck.networks.perturbed`.
            size: Above 0.
        """
        return self.wrapped(Perturbing(kind, size, self.spec, self.probe.signature))

    def rounded(self, precision: Precision) -> Procedure[NetworkT]:
        """The same procedure in fewer digits; its law is then not known.

        Args:
            precision: Of tokens, levels, noise and answers; `float8` of answers only.
        """
        return replace(
            self,
            spec=spec_in(self.spec, precision),
            wrappers=(*self.wrappers, Rounding(precision)),
            precision=precision,
        )

    @property
    def oracle(self) -> NetworkT:
        """The optimum of the family's training objective, in the coordinates of the probe.

        Raises:
            UnfitError: There is none for such a target.
        """
        return self.make_oracle()

    @functools.cached_property
    def network(self) -> NetworkT:
        """The network with all that stands around it.

        Raises:
            UnfitError: It is the oracle, and there is none for such a target.
        """
        network = self.oracle if self.substitute is None else self.substitute
        for wrapper in self.wrappers:
            network = self.probe.signature.wrap(network, wrapper)
        return network

    @functools.cached_property
    def completion(self) -> TokenPredictor:
        """The exact marginals that unplaced tokens are drawn from."""
        return TokenPredictorSignature().oracle(self.coordinates.target)

    def relevant(self, budget: Budget) -> tuple[int, ...]:
        """What the procedure depends on of a budget; equal for budgets that may share a run."""
        return tuple(getattr(budget, axis) for axis in AXES if axis in self.probe.reads)

    def start(self, n: int, rng: Randomness) -> State:
        """The state before the first iteration: n rows, in which the given tokens are placed."""
        blank = State.blank(self.spec, n)
        if not self.spec.given:
            return blank
        values = self.coordinates.coordinates(self.target.sample(n, rng.stream("given")))
        return blank.giving(values.to(blank.tokens), self.spec.given)

    def run(
        self, budget: Budget, n: int, rng: Randomness, *, calls: Calls | None = None
    ) -> Iterator[State]:
        """The states of n rows, in the coordinates of the probe.

        Args:
            budget: What it may spend.
            n: Rows.
            rng: Source of every random number.
            calls: Where calls of the network are counted.
        """
        network = counted(self.network, self.probe.signature, calls or Calls())
        start = self.start(n, rng)
        with blaming(self.probe):
            yield from self.probe.run(network, self.spec, budget, start, rng)

    def run_for_gradient(self, budget: Budget, n: int, rng: Randomness) -> Iterator[State]:
        """As `run`, through a network whose parameters are to have a gradient."""
        start = self.start(n, rng)
        return self.probe.run(self.network, self.spec, budget, start, rng)

    def completed(self, state: State, rng: Randomness, *, calls: Calls | None = None) -> Tensor:
        """The tokens of a state, those that are not placed drawn in one shot given the others.

        The draw is from the exact marginals, the best that can be done without further steps of the
        model. It counts as one call.

        Args:
            state: In the coordinates of the probe.
            rng: The one that the run was given; completion draws from a stream of its own.
            calls: Where the call is counted.

        Returns:
            (n, N, d), or (n, N) integers: tokens of the target.
        """
        return self.coordinates.tokens(self._filled(state, rng, calls))

    def sample(self, budget: Budget, n: int, rng: Randomness) -> Tensor:
        """What a run at a budget returns, completed: (n, N, d), or (n, N) integers."""
        return self.coordinates.tokens(self._sample_inside(budget, n, rng))

    def log_density(self, budget: Budget, x: Tensor, rng: Randomness) -> LogDensity | Unavailable:
        """Log-density (nats) of sequences under the law that is sampled, or why there is none.

        Args:
            budget: What the procedure may spend.
            x: (n, N, d), or (n, N) integers; where tokens are given, the law is that of all.
            rng: Random numbers for bounds.
        """
        found = self._density_inside(budget, self.coordinates.coordinates(x), rng)
        return self.coordinates.density_of_tokens(found)

    def log_density_of_draws(
        self, budget: Budget, n: int, source: Callable[[], Randomness]
    ) -> LogDensity | Unavailable:
        """A lower bound on the log-density (nats) of what n rows return, by change of variables.

        Args:
            budget: What the procedure may spend.
            n: Rows.
            source: Makes the random numbers of the run, each time anew.
        """
        if self.precision is not None:
            return ROUNDED_LAW
        if self.spec.kind == "categorical":
            return Unavailable(reason="token ids have no change of variables")
        sampler = functools.partial(self._sample_inside, budget)
        found = density_of_draws(sampler, self.spec, n=n, source=source, name=self.probe.family)
        return self.coordinates.density_of_tokens(found)

    def exact_law(
        self, budget: Budget, *, routes: Sequence[Route] = ROUTES
    ) -> ExactLaw | Unavailable:
        """The law of what is sampled at a budget, with no sampling error, or why it is not known.

        By replay of the normal draws where tokens are continuous, by enumeration where they are
        categorical.

        Args:
            budget: What the procedure may spend.
            routes: Of the enumeration, in the order in which they are tried.
        """
        if self.precision is not None:
            return ROUNDED_LAW
        sampler = functools.partial(self._sample_inside, budget)
        if self.spec.kind == "continuous":
            return self.coordinates.law_of_tokens(replayed_law(sampler, self.spec))
        density = functools.partial(self._density_inside, budget)
        return enumerated_law(sampler, density, self.spec, name=self.probe.family, routes=routes)

    def limit(self, n: int, rng: Randomness) -> Tensor | None:
        """What `sample` with the oracle converges to as the budget grows, from the same draws.

        Args:
            n: Rows.
            rng: The random numbers that the run is given.

        Returns:
            (n, N, d) draws of the target, or None if the limit is not known.
        """
        try:
            oracle = self.oracle
        except UnfitError:
            return None  # a network stands where there is no oracle
        start = self.start(n, rng)
        with blaming(self.probe):
            found = self.probe.limit(oracle, self.spec, start, rng)
        return None if found is None else self.coordinates.tokens(found)

    def _sample_inside(self, budget: Budget, n: int, rng: Randomness) -> Tensor:
        calls, state = Calls(), None
        for state in self.run(budget, n, rng, calls=calls):  # noqa: B007
            pass
        if state is None:
            raise CapcheckError(f"{self.probe.family}: run() yielded no state at {budget}.")
        return self._filled(state, rng, calls)

    def _filled(self, state: State, rng: Randomness, calls: Calls | None) -> Tensor:
        tokens = state.tokens
        if tokens.is_floating_point():  # a procedure may work in fewer digits
            tokens = tokens.to(self.target.dtype)
        if bool(state.placed.all()):
            return tokens
        predictor = counted(self.completion, TokenPredictorSignature(), calls or Calls())
        draws = predictor(tokens, state.placed).sample(rng.stream("completion"))
        return replace(state, tokens=tokens).filled(draws).tokens

    def _density_inside(
        self, budget: Budget, x: Tensor, rng: Randomness
    ) -> LogDensity | Unavailable:
        if self.precision is not None:
            return ROUNDED_LAW
        network, completion = self.network, self.completion
        with blaming(self.probe):
            found = self.probe.log_density(network, completion, self.spec, budget, x, rng)
        given = list(self.spec.given)
        if not given or isinstance(found, Unavailable):
            return found
        of_given = log_prob_of(self.coordinates.target, given, x[:, given])
        return replace(found, values=found.values + of_given)


AnyProcedure = Procedure[Any]


@contextlib.contextmanager
def blaming(probe: Probe[Any]) -> Iterator[None]:
    """Turn whatever the code of a probe raises into an error that names the probe.

    Raises:
        ProbeError: The probe is a third party's.
        CapcheckError: It is capcheck's own.
    """
    try:
        yield
    except (ControlFlow, UnfitError, NetworkError, ProbeError):
        raise
    except Exception as error:
        said = f"{probe.family} raised {type(error).__name__}: {error}"
        module = type(probe).__module__
        if module.startswith("capcheck."):
            raise CapcheckError(said) from error
        raise ProbeError(f"{said} (a family of {module}; tell its author)") from error


def wrong_kind(probe: Probe[Any], target: Target) -> str:
    """The sentence that a procedure is not defined for the tokens of a target."""
    kinds = " and ".join(sorted(probe.kinds))
    return f"{probe.family} is defined for {kinds} tokens, not {target.spec.kind} ones."
