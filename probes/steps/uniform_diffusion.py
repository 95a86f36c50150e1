"""Uniform diffusion: starts from uniformly random tokens and denoises all of them k times.

Source: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces" (D3PM,
uniform transitions), https://arxiv.org/abs/2107.03006; Sahoo et al. 2025, "The Diffusion Duality"
(Duo), https://arxiv.org/abs/2506.10892; for the corrector Campbell et al. 2022, "A Continuous Time
Framework for Discrete Denoising Models", section 4.4, https://arxiv.org/abs/2205.14987
Signature: noisy token predictor. The network is shown every noisy token with its keep-probability
alpha, and returns the law of every clean token given all of them.
Assumption: the tokens of x_s are independent given x_t.
Budgets: `steps` is the number k of steps, on levels t uniform in [0, 1]; alpha is 1 - t. `length`
is ignored.
Procedure: a step from t to s draws every token from the mean of the posterior q(x_s | x_t, x_0)
over x_0 of the network's law; the last one draws from that law itself. Both papers draw from the
sum of q(x_s, x_t | x_0) p~(x_0 | x_t), normalised, which is the same for p~(x_0 | x_t) proportional
to p(x_0 | x_t) / q(x_t | x_0); there their bound on the likelihood is tightest. With `corrector` c,
every step but the first is followed by c iterations that add the noise from s back up to t and
repeat the step. Noise and exact reverse steps together leave the law of x_s as it is. An iteration
is one call of the network, which makes k + c (k - 1) calls. With `move=one` the same network
denoises one token after the other, each from pure noise to its clean value, in random order; there
are as many steps as tokens.
Given tokens: clean in every call, and never drawn; N counts the others.
KL: exact for few sequences V^N, by the law of all of them after every step. Otherwise bounded from
above by paths of noise that start at x, from below by several of them where they are alike (without
a corrector), and from below by the draws.
Known: one step is the product of the marginals, with any corrector. Every token may change in every
step. With the oracle the law converges to the target: its distance falls as 1/k, and KL as 1/k^2 if
every sequence is possible. If some are not, KL falls as 1/k, as the mass on these does. A corrector
has few errors of the oracle to mend. Paths of noise have equal weights where the steps are exact;
otherwise the bound of one path is above KL by a term that falls as 1/k only. One token after the
other is exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.hidden_draws import DRAWS, over_hidden_draws
from capcheck.exact.independent_steps import SequenceMass, has_few_sequences
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import NoisyPredictor, NoisyPredictorSignature, TokenPredictor
from capcheck.noise.uniform import log_noised, noised, reversed_laws, reversed_step, share_kept
from capcheck.procedures.orders import random_ranks, ranks_among_all
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["UniformDiffusion"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class UniformDiffusion(Probe[NoisyPredictor]):
    """Denoises a sequence of token ids from uniform noise, all tokens in every step."""

    family: ClassVar[str] = "uniform_diffusion"
    row: ClassVar[Row] = "steps"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    two_sided: ClassVar[bool] = True

    corrector: Annotated[
        int, Field(ge=0, description="corrector iterations after each step but the first")
    ] = 0
    move: Annotated[
        Literal["all", "one"], Field(description="number of tokens that a step denoises")
    ] = "all"

    @property
    def signature(self) -> NoisyPredictorSignature:
        """The noisy token predictor: noisy tokens -> the law of every clean token."""
        return NoisyPredictorSignature()

    def run(
        self,
        network: NoisyPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state for each call of the network."""
        if self.move == "one":
            yield from self._one_by_one(network, spec, start, rng)
            return
        given, V = start.placed, spec.dim
        state = start.filled(noised(start.tokens, 0.0, V, rng))
        yield state
        for t, s, again in self._moves(budget.steps):
            x_t = state.tokens
            if again:
                x_t = torch.where(given, x_t, noised(x_t, share_kept(t, s), V, rng))
            law = network(x_t, _keep(given, t, spec))
            if s == 0:
                draws = law.sample(rng)
            else:
                p = reversed_laws(law.mean(), x_t, t=t, s=s)
                draws = rng.categorical(p, (*x_t.shape, 1)).squeeze(-1)
            state = state.write(draws, ~given)
            yield state

    def _moves(self, k: int) -> Iterator[tuple[float, float, bool]]:
        """Levels t and s of each call, and whether x_t is made of x_s by noise (the corrector)."""
        for j in range(k, 0, -1):
            t, s = j / k, (j - 1) / k
            yield t, s, False
            for _ in range(self.corrector if j < k else 0):  # noise up to level 1 forgets all
                yield t, s, True

    def _one_by_one(
        self, network: NoisyPredictor, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield the start, then one state per token, in random order."""
        state, F = start, len(spec.free)
        yield state
        rank = ranks_among_all(random_ranks(start.n, F, rng), spec)
        for r in range(F):
            law = network(state.tokens, (rank < r).to(spec.mean))
            state = state.write(law.sample_where(rng, rank == r), rank == r)
            yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One for each step and each iteration of the corrector, or for each token."""
        k = budget.steps
        return len(spec.free) if self.move == "one" else k + self.corrector * (k - 1)

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws of the tokens that a step denoises together."""
        one = dataclasses.replace(self, move="one")
        cure = "one token denoised per step"
        found = Suspect(failure="wrong factorisation", cure=cure, probe=one)
        return () if self.move == "one" else (found,)

    def log_density(
        self,
        network: NoisyPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The exact log-density for few sequences, otherwise bounds by paths of noise."""
        if self.move == "all" and has_few_sequences(spec):
            mass = self._mass(network, spec, budget)
            return LogDensity(values=mass.log_prob(x), method="law of all sequences, step by step")

        def log_weight(x: Tensor, rng: Randomness) -> Tensor:
            if self.move == "one":
                return _along_order(network, spec, x, rng)
            return self._along_noise(network, spec, budget, x, rng)

        hidden = "orders of tokens" if self.move == "one" else "paths of noise"
        found = over_hidden_draws(log_weight, x, rng, hidden)
        # Proposals of a corrector may miss sequences that the network holds impossible.
        return dataclasses.replace(found, above=None) if self.corrector else found

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """One for each call of each path that is drawn; few if the law of all sequences is made."""
        few = self.move == "all" and has_few_sequences(spec)
        return 0.0 if few else float(DRAWS * self.iterations(spec, budget))

    def _mass(self, network: NoisyPredictor, spec: SequenceSpec, budget: Budget) -> SequenceMass:
        """The mass of every sequence after the last step."""
        mass, V = SequenceMass(spec), spec.dim
        symbols = torch.arange(V, device=spec.mean.device)

        def beside_given(p: Tensor, z: Tensor) -> Tensor:
            given = ~_free(spec)[:, None]
            return torch.where(given, (z[..., None] == symbols).to(p), p)

        for t, s, again in self._moves(budget.steps):
            if again:
                a = share_kept(t, s)
                mass.step(
                    lambda z, a=a: beside_given(  # type: ignore[misc]
                        log_noised(symbols, z[..., None], a, V).exp(), z
                    )
                )

            def denoised(z: Tensor, t: float = t, s: float = s) -> Tensor:
                given = ~_free(spec).expand(z.shape)
                p = network(z, _keep(given, t, spec)).mean()
                return beside_given(reversed_laws(p, z, t=t, s=s), z)

            mass.step(denoised)
        return mass

    def _along_noise(
        self,
        network: NoisyPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> Tensor:
        """The log-weight (n,) of one path of noise that starts at x, from the last call back.

        It is log q(path, x) - log r(path | x), where r adds noise to x_s to make x_t. Before a call
        of the corrector there was another x_s, which r draws by the step from this x_t.
        """
        free, V = _free(spec), spec.dim
        given, x_s = ~free.expand(x.shape), x
        log_w = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for t, s, again in reversed(list(self._moves(budget.steps))):
            a = share_kept(t, s)
            x_t = torch.where(given, x, noised(x_s, a, V, rng))
            law = network(x_t, _keep(given, t, spec))
            each = _log_step(law, x_s, x_t, t, s, V) - log_noised(x_t, x_s, a, V)
            if again:
                p = reversed_laws(law.mean(), x_t, t=t, s=s)
                before = rng.categorical(p, (*x.shape, 1)).squeeze(-1)
                before = torch.where(given, x, before)
                each = each + log_noised(x_t, before, a, V) - _log_step(law, before, x_t, t, s, V)
            x_s = before if again else x_t
            log_w = log_w + each[:, free].sum(1)
        return log_w - len(spec.free) * math.log(V)


def _free(spec: SequenceSpec) -> Tensor:
    """Which tokens are not given, (N,) bool."""
    free = torch.zeros(spec.tokens, dtype=torch.bool, device=spec.mean.device)
    free[list(spec.free)] = True
    return free


def _keep(given: Tensor, t: float, spec: SequenceSpec) -> Tensor:
    """Keep-probabilities (n, N) at level t beside given tokens, (n, N) bool, which are clean."""
    keep = torch.full(given.shape, 1 - t, dtype=spec.mean.dtype, device=given.device)
    return keep.masked_fill(given, 1)


def _log_step(law: TokenLaw, x_s: Tensor, x_t: Tensor, t: float, s: float, V: int) -> Tensor:
    """Log-probability (nats) of the tokens x_s (n, N) after a step from x_t, (n, N) float64."""
    p, p_own = (law.log_prob(x).double().exp() for x in (x_s, x_t))
    return reversed_step(p, p_own, x_s == x_t, t=t, s=s, vocabulary=V).log()


def _along_order(network: NoisyPredictor, spec: SequenceSpec, x: Tensor, rng: Randomness) -> Tensor:
    """The log-density (n,) of x (n, N) with its tokens denoised in one random order a row."""
    F = len(spec.free)
    rank = ranks_among_all(random_ranks(len(x), F, rng), spec)
    log_q = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for r in range(F):
        law = network(x, (rank < r).to(spec.mean))
        log_q = log_q + law.log_prob_where(x, rank == r).sum(1)
    return log_q
