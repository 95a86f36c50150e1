"""EBM: k iterations of a Markov chain that descends an energy with noise.

Source: LeCun et al. 2006, "A Tutorial on Energy-Based Learning"; Du & Mordatch 2019, "Implicit
Generation and Modeling with Energy Based Models" (Langevin); Roberts & Tweedie 1996 (ULA, MALA).
Signature: energy x -> E(x) = -log p(x), with its gradient.
Assumption: a step leaves the target in place, and k of them reach it from the initial law.
Budgets: `steps` is k; `length` is ignored.
Initial law: every token by itself, N(mean, variance), or its marginal where tokens are integers.
ULA: x' = x - h/2 grad E(x) + sqrt(h) xi. MALA keeps x' with probability
min(1, exp(E(x) - E(x')) q(x | x') / q(x' | x)). Gibbs, for integers: a sweep draws every token in
turn from softmax_v(-E(x with x_i = v)), V calls for each; from its marginal where all are infinite.
Known: ULA on N(0, v) goes geometrically, by (1 - h/(2v))^2 each step, to variance v / (1 - h/(4v)),
the wrong one; MALA and Gibbs leave the target in place. Modes far apart mix in exponential time.
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
from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.laws import Categorical
from capcheck.networks.signatures import Energy, EnergySignature, TokenPredictor
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect

STATES = 512  # sequences up to which the law of a Gibbs chain is carried along whole


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class EBM(Probe[Energy]):
    """Markov chain Monte Carlo on an energy."""

    family: ClassVar[str] = "ebm"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"steps"})

    sampler: Annotated[
        Literal["ula", "mala", "gibbs"] | None,
        Field(description="the chain; ula for numbers and gibbs for token ids if not given"),
    ] = None
    step_size: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="h, in squared token units; the smallest component variance if not given",
        ),
    ] = None

    @property
    def signature(self) -> EnergySignature:
        """X -> E(x)."""
        return EnergySignature()

    def run(
        self, network: Energy, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """One state per iteration, or per sweep; every one writes all tokens."""
        sampler = self._chosen(spec)
        state = start.filled(_initial(spec, start.n, rng))
        yield state
        if sampler == "gibbs":
            chain = _gibbs(network, state.tokens, spec, rng)
        elif sampler == "mala":
            chain = _mala(network, state.tokens, self._h(spec), rng)
        else:
            chain = _ula(network, state.tokens, self._h(spec), rng)
        for tokens in itertools.islice(chain, budget.steps):
            state = state.write(tokens)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The step that is never rejected."""
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
        """Of Gibbs sampling on few sequences, whose law is a vector."""
        N, V = spec.tokens, spec.dim
        # V^N itself may have thousands of digits.
        if self._chosen(spec) != "gibbs" or N * math.log(V) > math.log(STATES) + 1e-9:
            return Unavailable(reason="the law after k steps is an integral over all their paths")
        law = _gibbs_law(network, spec, len(x), budget.steps)  # (n, V^N)
        place = torch.tensor([V**i for i in reversed(range(N))], device=x.device)
        log_q = law.gather(1, (x * place).sum(1, keepdim=True)).log()[:, 0]
        return LogDensity(values=log_q, method="law of the chain, carried along whole")

    def _chosen(self, spec: SequenceSpec) -> str:
        usual = "ula" if spec.kind == "continuous" else "gibbs"
        sampler = self.sampler or usual
        if (sampler == "gibbs") != (usual == "gibbs"):
            fitting = "ula or mala" if usual == "ula" else "gibbs"
            raise InputError(
                f"ebm.sampler must be {fitting} for {spec.kind} tokens, got {sampler}; leave it "
                "out for the usual one."
            )
        return sampler

    def _h(self, spec: SequenceSpec) -> float:
        return spec.smallest_variance if self.step_size is None else self.step_size


def _initial(spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
    if spec.kind == "categorical":
        return Categorical(spec.mean.log().expand(n, -1, -1)).sample(rng)
    z = rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)
    return spec.mean + spec.variance.sqrt() * z


def _slope(network: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) (n,) and its gradient (n, N, d)."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        energy = network(at)
        (gradient,) = torch.autograd.grad(energy.sum(), at)
    return energy.detach(), gradient


def _ula(network: Energy, x: Tensor, h: float, rng: Randomness) -> Iterator[Tensor]:
    while True:
        _, gradient = _slope(network, x)
        x = x - 0.5 * h * gradient + math.sqrt(h) * rng.normal(tuple(x.shape)).to(x)
        yield x


def _mala(network: Energy, x: Tensor, h: float, rng: Randomness) -> Iterator[Tensor]:
    energy, gradient = _slope(network, x)
    while True:
        xi = rng.normal(tuple(x.shape)).to(x)
        proposal = x - 0.5 * h * gradient + math.sqrt(h) * xi
        new_energy, new_gradient = _slope(network, proposal)
        back = x - proposal + 0.5 * h * new_gradient
        log_there, log_back = (
            -0.5 * step.square().flatten(1).sum(1) for step in (xi, back / math.sqrt(h))
        )
        log_u = rng.uniform((len(x), 1))[:, 0].log().to(x)
        kept = log_u < energy - new_energy + log_back - log_there  # (n,)
        x = torch.where(kept[:, None, None], proposal, x)
        energy = torch.where(kept, new_energy, energy)
        gradient = torch.where(kept[:, None, None], new_gradient, gradient)
        yield x


def _gibbs(network: Energy, x: Tensor, spec: SequenceSpec, rng: Randomness) -> Iterator[Tensor]:
    while True:
        x = x.clone()
        for i in range(spec.tokens):
            energies = []
            for value in range(spec.dim):  # rows keep their places: they may have laws of their own
                changed = x.clone()
                changed[:, i] = value
                energies.append(network(changed))
            logits = _conditional(torch.stack(energies, 1), spec.mean[i])
            x[:, i] = Categorical(logits[:, None]).sample(rng)[:, 0]
        yield x


def _conditional(energies: Tensor, marginal: Tensor) -> Tensor:
    """Logits of a token from energies (.., V), or of its marginal where none is finite."""
    impossible = energies.isposinf().all(-1, keepdim=True)
    return torch.where(impossible, marginal.log(), -energies)


def _gibbs_law(network: Energy, spec: SequenceSpec, n: int, sweeps: int) -> Tensor:
    """P(x) after so many sweeps, for every sequence, first token most significant: (n, V^N)."""
    N, V = spec.tokens, spec.dim
    table = torch.cartesian_prod(*[torch.arange(V, device=spec.mean.device)] * N).reshape(-1, N)
    energies = torch.stack([network(x.expand(n, N)) for x in table], 1)  # (n, V^N)
    law = spec.mean[:1].T  # (V, 1), then (V^2, 1), ...
    for marginal in spec.mean[1:]:
        law = (law * marginal).reshape(-1, 1)
    law = law.T.expand(n, -1)
    for _, i in itertools.product(range(sweeps), range(N)):
        split = (n, V**i, V, V ** (N - 1 - i))
        logits = _conditional(energies.reshape(split).transpose(2, 3), spec.mean[i])
        given = law.reshape(split).sum(2, keepdim=True)
        law = (given * logits.softmax(-1).transpose(2, 3)).reshape(n, -1)
    return law
