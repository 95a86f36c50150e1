"""EBM: k iterations of a Markov chain that descends an energy with noise.

Source: LeCun et al. 2006, "A Tutorial on Energy-Based Learning"; Du & Mordatch 2019, "Implicit
Generation and Modeling with Energy Based Models" (Langevin with a noise scale of its own),
https://arxiv.org/abs/1903.08689; Roberts & Tweedie 1996 (ULA, MALA).
Signature: energy x -> E(x) = -log p(x), with its gradient.
Assumption: a step leaves the target invariant, and k steps reach the target from the initial law.
Budgets: `steps` is the number k of iterations; `length` is ignored.
Given tokens: shown to the energy, and never moved by a step.
Initial law: every other token is drawn independently from N(mean, variance), or from its marginal
if tokens are integers.
ULA: x' = x - h/2 grad E(x) + tau xi with tau = sqrt(h), or tau = `noise_scale` as in the practice
of Langevin sampling.
MALA: the proposal x' of ULA is accepted with probability
min(1, exp(E(x) - E(x')) q(x | x') / q(x' | x)).
Gibbs: for integers, one iteration is a sweep that draws every token in turn from
softmax_v(-E(x with x_i = v)). A token costs one call, of V energies that do not wait for each
other. If all V energies are infinite, the token is drawn from its marginal.
KL: of numbers bounded from above by the mean density of the last step over many chains (see
`capcheck.exact.look_ahead`), and from below by the draws. Exact for Gibbs sampling of at most 512
sequences, by carrying the whole law along; of more sequences bounded from below.
Known: on N(0, v) the variance of ULA approaches (tau^2 / h) v / (1 - h/(4v)) geometrically, by the
factor (1 - h/(2v))^2 in each step; at tau^2 = h this limit is not v. MALA and Gibbs leave the
target invariant. Modes that are far apart mix in exponential time.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.laws import Categorical
from capcheck.networks.signatures import (
    Energy,
    EnergySignature,
    TokenPredictor,
    of_values,
    together,
)
from capcheck.procedures.langevin import Langevin, initial_normals
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["EBM", "NUMBERS", "STATES"]

NUMBERS = 1 << 21  # largest number of tokens for which energies are evaluated in one tile
ROWS = 1024  # rows at which chains that they share cost as much as derivatives of their own
PAIR = 1500  # multiply-adds in the time of the density of one step between two points
STATES = 512  # largest number of sequences V^F for which the law of a Gibbs chain is computed


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class EBM(Probe[Energy]):
    """Runs a Markov chain on an energy: Langevin, Metropolis-adjusted Langevin or Gibbs."""

    family: ClassVar[str] = "ebm"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"steps"})

    sampler: Annotated[
        Literal["ula", "mala", "gibbs"] | None,
        Field(description="Markov chain; by default ula for numbers and gibbs for token ids"),
    ] = None
    step_size: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="h, in squared token units; by default the smallest component variance",
        ),
    ] = None
    noise_scale: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="tau, in token units; by default the square root of step_size",
        ),
    ] = None

    chains: Annotated[
        int,
        Field(
            ge=1,
            description="number M of chains for the density after ULA steps; MALA, which compares "
            "all points with the chains at every step, has an eighth",
        ),
    ] = 16_384

    @property
    def signature(self) -> EnergySignature:
        """The energy x -> E(x)."""
        return EnergySignature()

    def run(
        self, network: Energy, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield the start, then one state per iteration, which writes all tokens not given."""
        free = ~start.placed
        if self._chosen(spec) == "gibbs":
            marginals = Categorical(spec.mean.log().expand(start.n, -1, -1))
            state = start.filled(marginals.sample(rng))
            chain = _gibbs(network, state.tokens, spec, rng)
        else:
            state = start.filled(initial_normals(spec, start.n, rng))
            chain = self._langevin(network, spec).run(state.tokens, free[..., None], rng)
        yield state
        for tokens in itertools.islice(chain, budget.steps):
            state = state.write(tokens, free)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The ULA step, which is never rejected."""
        if self.sampler not in (None, "ula"):
            return ()
        adjusted = dataclasses.replace(self, sampler="mala")
        return (
            Suspect(
                failure="unadjusted step", cure="Metropolis' rule on every step", probe=adjusted
            ),
        )

    def log_density(
        self,
        network: Energy,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """A lower bound for Langevin steps; exact for Gibbs sampling if there are few sequences."""
        if self._chosen(spec) != "gibbs":
            if spec.given:
                return Unavailable(reason="every value of the given tokens needs chains of its own")
            chain = self._langevin(network, spec)
            chains = -(-self.chains // 8) if chain.adjusted else self.chains
            return chain.log_density(spec, x, budget.steps, chains, rng)
        free, V = list(spec.free), spec.dim
        # Logarithms are compared because V^F may have thousands of digits.
        if len(free) * math.log(V) > math.log(STATES) + 1e-9:
            return Unavailable(reason="the law after k steps is an integral over all their paths")
        law = _gibbs_law(network, spec, x, budget.steps)  # (n, V^F)
        place = torch.tensor([V**i for i in reversed(range(len(free)))], device=x.device)
        log_q = law.gather(1, (x[:, free] * place).sum(1, keepdim=True)).log()[:, 0]
        return LogDensity(values=log_q, method="law of the chain, carried along whole")

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """Those of the chains, shared by the rows."""
        if self._chosen(spec) == "gibbs":
            return 0.0
        return self.chains * budget.steps / ROWS

    def density_work(self, spec: SequenceSpec, budget: Budget) -> float:
        """The densities of steps from all chains."""
        if self._chosen(spec) == "gibbs":
            return 0.0
        pairs = self.chains * (budget.steps / 4 if self.sampler == "mala" else 1)
        return pairs * (spec.mean.numel() + PAIR)

    def _langevin(self, network: Energy, spec: SequenceSpec) -> Langevin:
        h = spec.smallest_variance if self.step_size is None else self.step_size
        tau = math.sqrt(h) if self.noise_scale is None else self.noise_scale
        return Langevin(
            network=network, step_size=h, noise_scale=tau, adjusted=self.sampler == "mala"
        )

    def _chosen(self, spec: SequenceSpec) -> str:
        usual = "ula" if spec.kind == "continuous" else "gibbs"
        sampler = self.sampler or usual
        if (sampler == "gibbs") != (usual == "gibbs"):
            fitting = "ula or mala" if usual == "ula" else "gibbs"
            raise UnfitError(
                f"ebm.sampler must be {fitting} for {spec.kind} tokens, got {sampler}; leave it "
                "out for the usual one."
            )
        if sampler == "gibbs" and (self.step_size is not None or self.noise_scale is not None):
            raise UnfitError(
                "ebm.step_size and ebm.noise_scale are for numbers, and a Gibbs sweep of token ids "
                "has neither; leave them out."
            )
        return sampler


def _gibbs(network: Energy, x: Tensor, spec: SequenceSpec, rng: Randomness) -> Iterator[Tensor]:
    values = torch.arange(spec.dim, device=x.device)[:, None]  # (V, 1)
    while True:
        x = x.clone()
        for i in spec.free:
            energies = of_values(network, x, i)
            if energies is None:
                energies = _energies(network, x, [i], values)
            logits = _conditional(energies, spec.mean[i])
            x[:, i] = Categorical(logits[:, None]).sample(rng)[:, 0]
        yield x


def _energies(network: Energy, x: Tensor, tokens: list[int], values: Tensor) -> Tensor:
    """The energies of x with each of v values of some tokens, in one call: (n, v).

    Args:
        network: Energy of sequences.
        x: Sequences, (n, N) integers.
        tokens: Indices of the t tokens to change.
        values: Values of these tokens, (v, t) integers.
    """
    n, N = x.shape
    size = max(1, NUMBERS // (n * N))

    def tiles() -> Iterator[Tensor]:
        for some in values.split(size):
            changed = x.repeat(len(some), 1, 1)
            changed[:, :, tokens] = some[:, None]
            yield changed.flatten(0, 1)

    return torch.cat(together(network, tiles())).reshape(len(values), n).T


def _conditional(energies: Tensor, marginal: Tensor) -> Tensor:
    """The logits of a token from its energies (.., V), or from its marginal if none is finite."""
    impossible = energies.isposinf().all(-1, keepdim=True)
    return torch.where(impossible, marginal.log(), -energies)


def _gibbs_law(network: Energy, spec: SequenceSpec, x: Tensor, sweeps: int) -> Tensor:
    """The probability of each value of the F free tokens after the sweeps: (n, V^F).

    Given tokens have the values that they have in x. In an index of the last dimension the first
    free token is the most significant digit.
    """
    free, V, n = list(spec.free), spec.dim, len(x)
    F = len(free)
    digits = [torch.arange(V, device=x.device)] * F
    table = torch.cartesian_prod(*digits).reshape(-1, F)
    energies = _energies(network, x, free, table)  # (n, V^F)
    law = spec.mean.new_ones(1, 1)
    for marginal in spec.mean[free]:
        law = (law * marginal).reshape(-1, 1)  # (V, 1), then (V^2, 1), ...
    law = law.T.expand(n, -1)
    for _, i in itertools.product(range(sweeps), range(F)):
        split = (n, V**i, V, V ** (F - 1 - i))
        logits = _conditional(energies.reshape(split).transpose(2, 3), spec.mean[free[i]])
        given = law.reshape(split).sum(2, keepdim=True)
        law = (given * logits.softmax(-1).transpose(2, 3)).reshape(n, -1)
    return law
