"""A procedure binds a probe, a target, coordinates and a network, so that it can be run.

A procedure returns draws, log-densities and exact laws in the tokens of the target, while its probe
works in `coordinates`. The oracle is made when it is first needed. It is shared by all procedures
derived from this one: with another network, in fewer digits, or with errors of a known size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

from torch import Tensor

from capcheck.core.budget import AXES, Budget
from capcheck.core.errors import InputError, ProbeError, UnfitError
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
    EnergySignature,
    NetworkT,
    TokenPredictor,
    TokenPredictorSignature,
    Wrapper,
    counted,
)
from capcheck.procedures.coordinates import Coordinates, ExactLaw, coordinates_of
from capcheck.procedures.errors import named_errors, wrong_kind
from capcheck.procedures.principal_axes import RotatedNoise, in_principal_axes
from capcheck.procedures.probe import Probe, State
from capcheck.procedures.speculation import Acceptances
from capcheck.targets.conditional import log_prob_of
from capcheck.targets.target import Target

__all__ = ["ROUNDED_LAW", "AnyProcedure", "Procedure"]

ROUNDED_LAW = Unavailable(reason="the law of rounded arithmetic is not known")
"""The law or density of a procedure that runs in fewer digits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Procedure(Generic[NetworkT]):
    """A family's inference procedure on one target with one network; made by `Procedure.of`.

    Attributes:
        probe: The inference procedure of the family.
        target: The law of the tokens.
        coordinates: The coordinates that the probe works in.
        spec: Specification of the sequences in these coordinates, as the probe sees it.
        make_oracle: Returns the oracle, the same object at every call.
        substitute: The network that replaces the oracle, or None for the oracle.
        wrappers: Wrappers around the network, the innermost first.
        precision: Precision of the run, or None for that of the target.
        rotated: Whether the coordinates are rotated, and the noise with them.
    """

    probe: Probe[NetworkT]
    target: Target
    coordinates: Coordinates
    spec: SequenceSpec
    make_oracle: Callable[[], NetworkT]
    substitute: NetworkT | None = None
    wrappers: tuple[Wrapper, ...] = ()
    precision: Precision | None = None
    rotated: bool = False

    @classmethod
    def of(
        cls, probe: Probe[NetworkT], target: Target, *, given: Sequence[int] = ()
    ) -> Procedure[NetworkT]:
        """Makes the procedure of a probe on a target, with its oracle.

        Args:
            probe: The inference procedure of the family.
            target: The law that the procedure should produce.
            given: Indices of tokens that are known from the start, in rising order; their values
                are drawn from the target.

        Raises:
            UnfitError: The probe is not defined for such tokens, or the target's law is not known
                in the coordinates of the probe.
        """
        if target.spec.kind not in probe.kinds:
            raise UnfitError(wrong_kind(probe, target))
        with named_errors(probe):
            coordinates = coordinates_of(probe, target, given)
        return cls(
            probe=probe,
            target=target,
            coordinates=coordinates,
            spec=replace(coordinates.target.spec, given=tuple(given)),
            make_oracle=_oracle_of(probe, coordinates.target),
        )

    @functools.cached_property
    def in_quickest_coordinates(self) -> Procedure[NetworkT]:
        """The same procedure, with the same draws, in principal axes where these save time.

        It is this procedure itself if its probe treats numbers differently, if tokens are given, or
        if its network is not the oracle, as networks answer in the coordinates they were made for.
        """
        plain = self.substitute is None and not self.wrappers and self.precision is None
        if not (plain and self.probe.rotates) or self.spec.given or self.rotated:
            return self
        coordinates = in_principal_axes(self.coordinates)
        if coordinates is None:
            return self
        oracle = _oracle_of(self.probe, coordinates.target)
        return replace(self, coordinates=coordinates, make_oracle=oracle, rotated=True)

    @property
    def rows_at_once(self) -> int | None:
        """The most rows of a run whose conditionals are held at once, or None for any number."""
        law = self.coordinates.target if self.rotated else self.target
        return law.rows_at_once if self.probe.own_orders else law.rows_in_step

    def with_network(self, network: NetworkT) -> Procedure[NetworkT]:
        """The same procedure with another network, blinded to all that its signature hides.

        Args:
            network: A network of the probe's signature, in the coordinates of the probe.
        """
        blinding = Blinding(self.probe.signature, self.spec)
        return replace(self, substitute=network, wrappers=(blinding,))

    def wrapped(self, wrapper: Wrapper) -> Procedure[NetworkT]:
        """The same procedure with one more wrapper around its network."""
        return replace(self, wrappers=(*self.wrappers, wrapper))

    def with_cheaper_density(self) -> Procedure[NetworkT] | None:
        """The same procedure with a looser log-density that takes less time, or None."""
        cheaper = self.probe.cheaper_density()
        return None if cheaper is None else replace(self, probe=cheaper)

    def with_trusted_network(self, network: NetworkT) -> Procedure[NetworkT]:
        """The same procedure with another network that is not blinded and has no wrappers yet."""
        return replace(self, substitute=network, wrappers=())

    def perturbed(self, kind: Perturbation, size: float) -> Procedure[NetworkT]:
        """The same procedure with an error of known size in every answer of its network.

        Args:
            kind: Kind of the errors; see `capcheck.networks.perturbed`.
            size: Size of the errors, above 0; its unit depends on the kind.
        """
        return self.wrapped(Perturbing(kind, size, self.spec, self.probe.signature))

    def rounded(self, precision: Precision) -> Procedure[NetworkT]:
        """The same procedure in fewer digits, whose law and density are not known.

        Args:
            precision: Floating-point type of tokens, levels, noise and answers of the network;
                `float8` applies to the answers only.
        """
        energies = isinstance(self.probe.signature, EnergySignature)
        if precision == "float8" and energies and self.spec.kind == "continuous":
            raise UnfitError(
                "float8 rounds the answers of a network, and a chain follows the gradient of an "
                "energy, which is not rounded with them; leave float8 out."
            )
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
            UnfitError: The signature has no oracle for such a target.
        """
        return self.make_oracle()

    @functools.cached_property
    def network(self) -> NetworkT:
        """The network inside all of its wrappers.

        Raises:
            UnfitError: The network is the oracle, and there is no oracle for such a target.
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
        """The entries of a budget that the procedure reads; equal for budgets that share a run."""
        least = self.probe.effective(self.spec, budget)
        return tuple(getattr(least, axis) for axis in AXES if axis in self.probe.reads)

    def fixed(self, budget: Budget) -> tuple[int, ...]:
        """Those of them along which one run does not show the results of all smaller budgets."""
        least, axes = self.probe.effective(self.spec, budget), self.probe.reads - self.probe.anytime
        return tuple(getattr(least, axis) for axis in AXES if axis in axes)

    def start(self, n: int, rng: Randomness) -> State:
        """The state of n rows before the first iteration, in which only given tokens are placed."""
        blank = State.blank(self.spec, n)
        if not self.spec.given:
            return blank
        values = self.coordinates.coordinates(self.target.sample(n, rng.stream("given")))
        return blank.giving(values.to(blank.tokens), self.spec.given)

    def run(
        self, budget: Budget, n: int, rng: Randomness, *, calls: Calls | None = None
    ) -> Iterator[State]:
        """Runs the probe and yields the states of n rows, in the coordinates of the probe.

        Args:
            budget: Largest length and number of steps.
            n: Number of rows.
            rng: Source of every random number.
            calls: Counter of the network's calls.
        """
        network = counted(self.network, self.probe.signature, calls or Calls())
        start = self.start(n, rng)
        with named_errors(self.probe):
            yield from self.probe.run(network, self.spec, budget, start, self._noise(rng))

    def run_for_gradient(self, budget: Budget, n: int, rng: Randomness) -> Iterator[State]:
        """Runs the probe as `run` does, without counting calls, so that gradients can flow."""
        start = self.start(n, rng)
        return self.probe.run(self.network, self.spec, budget, start, rng)

    def completed(self, state: State, rng: Randomness, *, calls: Calls | None = None) -> Tensor:
        """Completes a state: draws all unplaced tokens at once, given the placed ones.

        Each unplaced token is drawn from its exact marginal given the placed tokens, which is the
        best possible draw without further steps of the model. It counts as one call.

        Args:
            state: A state in the coordinates of the probe.
            rng: The randomness that the run was given; completion draws from its own stream.
            calls: Counter of the call.

        Returns:
            (n, N, d), or (n, N) integers: tokens of the target.
        """
        return self.coordinates.tokens(self._filled(state, rng, calls))

    def sample(self, budget: Budget, n: int, rng: Randomness) -> Tensor:
        """Draws n completed sequences at a budget: (n, N, d), or (n, N) integers."""
        return self.coordinates.tokens(self._sample_inside(budget, n, rng))

    def log_density(self, budget: Budget, x: Tensor, rng: Randomness) -> LogDensity | Unavailable:
        """Log-density (nats) of sequences under the sampled law, or why it is not tractable.

        Args:
            budget: Largest length and number of steps.
            x: (n, N, d), or (n, N) integers; the density is that of all tokens, given ones
                included.
            rng: Random numbers for Monte Carlo bounds.
        """
        found = self._density_inside(budget, self.coordinates.coordinates(x), rng)
        return self.coordinates.density_of_tokens(found)

    def log_density_of_draws(
        self, budget: Budget, n: int, source: Callable[[], Randomness]
    ) -> LogDensity | Unavailable:
        """A lower bound on the log-density (nats) of the procedure's own draws.

        The bound is found by change of variables; see `capcheck.exact.change_of_variables`.

        Args:
            budget: Largest length and number of steps.
            n: Number of draws.
            source: Returns the random numbers of the run from their beginning, at every call.
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
        """The sampled law at a budget without sampling error, or why it is not known.

        The law of continuous tokens is found by replay of the normal draws, that of categorical
        tokens by enumeration.

        Args:
            budget: Largest length and number of steps.
            routes: Routes of the enumeration, in the order in which they are tried.
        """
        if self.precision is not None:
            return ROUNDED_LAW
        if self.spec.kind == "continuous":
            inside = replace(self.coordinates.target.spec, given=self.spec.given)
            # Rotated standard normals have the same law, and rotating them takes D^3 operations.
            plain = replace(self, rotated=False) if self.rotated else self
            sampler = functools.partial(plain._sample_inside, budget)
            law = replayed_law(sampler, inside, rounding=self.probe.rounding)
            return self.coordinates.law_of_tokens(law)
        sampler = functools.partial(self._sample_inside, budget)
        density = functools.partial(self._density_inside, budget)
        return enumerated_law(sampler, density, self.spec, name=self.probe.family, routes=routes)

    def speculation(self, n: int, rng: Randomness) -> Acceptances | None:
        """The drafts that a verification accepts along n sequences, or None if there are none.

        Args:
            n: Number of sequences of the base model, which is the target for an oracle that sees
                all given tokens.
            rng: Source of every random number.
        """
        base = self.probe.base_model
        if base is None or self.precision is not None:
            return None
        prompt = self.spec.given == tuple(range(len(self.spec.given)))
        if self.substitute is None and not self.wrappers and prompt:
            x = self.coordinates.coordinates(self.target.sample(n, rng))
        else:
            one_by_one = replace(self, probe=base)
            x = one_by_one._sample_inside(Budget(length=len(self.spec.free), steps=1), n, rng)
        with named_errors(self.probe):
            return self.probe.speculation(self.network, self.spec, x)

    def limit(self, n: int, rng: Randomness) -> Tensor | None:
        """The limit of `sample` with the oracle as the budget grows, from the same random numbers.

        Args:
            n: Number of rows.
            rng: The random numbers that the run is given.

        Returns:
            (n, N, d) draws of the target, or None if the limit is not known.
        """
        try:
            oracle = self.oracle
        except UnfitError:
            return None  # the procedure runs with another network, as there is no oracle
        start = self.start(n, rng)
        with named_errors(self.probe):
            found = self.probe.limit(oracle, self.spec, start, self._noise(rng))
        return None if found is None else self.coordinates.tokens(found)

    def _noise(self, rng: Randomness) -> Randomness:
        """The source of a run's random numbers, in the coordinates of the probe."""
        basis = self.coordinates.basis if self.rotated else None
        return rng if basis is None else RotatedNoise(rng, basis)

    def _sample_inside(self, budget: Budget, n: int, rng: Randomness) -> Tensor:
        calls, state = Calls(), None
        for state in self.run(budget, n, rng, calls=calls):  # noqa: B007
            pass
        if state is None:
            raise ProbeError(f"{self.probe.family}: run() yielded no state at {budget}.")
        return self._filled(state, rng, calls)

    def _filled(self, state: State, rng: Randomness, calls: Calls | None) -> Tensor:
        tokens = state.tokens
        if tokens.is_floating_point():  # the procedure may run in fewer digits
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
        with named_errors(self.probe):
            found = self.probe.log_density(network, completion, self.spec, budget, x, rng)
        given = list(self.spec.given)
        if not given or isinstance(found, Unavailable):
            return found
        of_given = log_prob_of(self.coordinates.target, given, x[:, given])
        return found.plus(of_given)


def _oracle_of(probe: Probe[NetworkT], law: Target) -> Callable[[], NetworkT]:
    """A function that returns the oracle of a law of coordinates, the same object at every call."""

    @functools.cache
    def make() -> NetworkT:
        with named_errors(probe):
            try:
                return probe.signature.oracle(law)
            except InputError as error:
                raise UnfitError(str(error)) from error

    return make


AnyProcedure = Procedure[Any]
