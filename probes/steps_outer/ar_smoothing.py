"""Autoregressive distribution smoothing: k passes from left to right, each on less noisy tokens.

Source: Meng et al. 2021, "Improved Autoregressive Modeling with Distribution Smoothing",
https://arxiv.org/abs/2103.15089
Signature: transition predictor. It predicts token i at noise s_j, given the tokens before i at that
noise and all tokens of the pass before at noise s_{j+1}.
Assumption: the heads can emit the law of a token given the tokens that the network is shown; by
default that law is assumed to be Gaussian.
Budgets: `steps` is the number k of passes. `length` is the number l of tokens, from the left, that
exist in them.
Noise: x^(j+1) = x^(j) + independent noise, with s_{k-1} > .. > s_1 > s_0 = 0. Here s_1 is
`first_noise` times a token's standard deviation, and noise doubles from level to level. Levels that
rounding cannot tell from pure noise are left out, and so are their passes. The first pass made
draws x_i^(j) ~ p(. | x_<i^(j)), and the others draw x_i^(j) ~ p(. | x_<i^(j), x^(j+1)). Tokens are
kept on the linear path, as (x + s e) / (1 + s).
Given tokens: clean in every pass, at level 0 and without noise of their own, whether they stand to
the left or to the right of the drawn token. The passes are then those of the law given these
tokens; with noise on given tokens the early passes would know too little of them.
Heads: `gaussian` emits the mean and variance of every coordinate, `mixture` several Gaussians, and
`exact` the exact law.
Last pass: `sample` draws token by token, `tweedie` returns the posterior mean, and `factorised`
draws all tokens at once.
KL: exact for one pass; for several bounded from above by importance weights over the noise of the
passes, and from below by the draws.
Known: exact heads give KL 0 at every k. At k = 1 the procedure is the autoregressive model with
these heads. On N(0, v) the posterior mean has variance v^2 / (v + s_1^2). A factorised last pass
leaves at most E[total correlation of x given noisy x]; it leaves less, since many noisy x lead to
the same x: 0.0224 of 0.1041 nats on an AR(1) Gaussian of 4 tokens and correlation 0.9.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import AXES, Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.hidden_draws import between_bounds
from capcheck.laws import LOG_2PI, TokenLaw
from capcheck.laws.heads import HeadName, emitted
from capcheck.networks.signatures import (
    TokenPredictor,
    TransitionPredictor,
    TransitionPredictorSignature,
)
from capcheck.networks.signatures.transition import added_noise
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row

__all__ = ["ROUNDINGS", "ARSmoothing"]

ROUNDINGS = 64  # smallest distance of a noise level from 1, in machine epsilons


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class ARSmoothing(Probe[TransitionPredictor]):
    """Makes autoregressive passes over less and less noisy sequences."""

    family: ClassVar[str] = "ar_smoothing"
    row: ClassVar[Row] = "steps_outer"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset(AXES)

    heads: Annotated[HeadName, Field(description="law that the network emits per token")] = (
        "gaussian"
    )
    components: Annotated[
        int, Field(ge=2, le=256, description="number of Gaussians of a mixture head, at most 256")
    ] = 2
    first_noise: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="s_1 in standard deviations of a token"),
    ] = 0.3
    last: Annotated[
        Literal["sample", "tweedie", "factorised"], Field(description="rule of the last pass")
    ] = "sample"
    importance_samples: Annotated[
        int, Field(ge=1, description="number M of noisings per sequence, for the density")
    ] = 4

    @property
    def signature(self) -> TransitionPredictorSignature:
        """The transition predictor (x, t, s) -> the law of every token at level s."""
        return TransitionPredictorSignature()

    def run(
        self,
        network: TransitionPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per token and pass.

        A last pass that writes all tokens together has one state.
        """
        state = start
        yield state
        place = torch.arange(spec.tokens, device=spec.mean.device)
        made = list(spec.free[: budget.length])
        of_pass = torch.isin(place, torch.tensor(made, dtype=torch.int64, device=place.device))
        levels = self._levels(spec, budget)
        for t, s in itertools.pairwise(levels):
            if self._at_once(s, levels) and made:
                law = self._emitted(network, state.tokens, self._seen(t, s, 0, made), s)
                tokens = law.mean() if self.last == "tweedie" else law.sample(rng)
                state = state.write(tokens, of_pass.expand(start.n, -1))
                yield state
                continue
            for i in made:
                seen = self._seen(t, s, i, made)
                tokens = state.tokens.clone()
                law = self._emitted(network, tokens, seen, s, i)
                tokens[:, i] = law.sample(rng)[:, 0].to(tokens)
                state = state.write(tokens, (place == i).expand(start.n, -1))
                yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The limited heads, and a last pass that is not drawn token by token."""
        found = []
        if self.heads != "exact":
            exact = dataclasses.replace(self, heads="exact")
            cure = "heads that emit the exact conditional law"
            found.append(Suspect(failure="limited emission", cure=cure, probe=exact))
        if self.last != "sample":
            drawn = dataclasses.replace(self, last="sample")
            cure = "a last pass drawn token by token"
            found.append(Suspect(failure="wrong factorisation", cure=cure, probe=drawn))
        return tuple(found)

    def log_density(
        self,
        network: TransitionPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """The exact log-density of one pass; between bounds for several.

        The bounds average q(x, noisy x) / p(noisy x | x) over M draws of noisy x.
        """
        free = spec.free
        made, rest = list(free[: budget.length]), list(free[budget.length :])
        levels = self._levels(spec, budget)
        if self.last == "tweedie" and len(levels) > 2:
            return Unavailable(reason="the posterior mean is a deterministic map of noisy tokens")
        exact = len(levels) == 2 or not made
        M = 1 if exact else self.importance_samples
        log_w = torch.stack([self._log_weight(network, x, levels, made, rng) for _ in range(M)])
        if rest:
            known = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            known[:, rest] = False
            log_w = log_w + completion(x, known).select(rest).log_prob(x[:, rest]).sum(1)
        if exact:
            return LogDensity(values=log_w[0], method="chain rule, completed by marginals")
        method = f"{M} importance weights a row, with the noise of the passes as proposal"
        return between_bounds(log_w, method)

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """One law for every token, pass and noising, where there are several."""
        passes = len(self._levels(spec, budget)) - 1
        if passes == 1:
            return 0.0
        return float(self.importance_samples * passes * min(budget.length, len(spec.free)))

    def _log_weight(
        self,
        network: TransitionPredictor,
        x: Tensor,
        levels: list[Tensor],
        made: list[int],
        rng: Randomness,
    ) -> Tensor:
        """Log of q(made x, noisy x) / p(noisy x | x) for one draw of noisy x, (n,)."""
        y, log_w = x, x.new_zeros(len(x), dtype=levels[0].dtype)
        for s, t in itertools.pairwise(reversed(levels)):  # from the clean tokens upwards
            y_t, log_noise = (y, 0) if t is levels[0] else self._noised(y, s, t, made, rng)
            log_w = log_w + self._log_pass(network, y, y_t, t, s, levels, made) - log_noise
            y = y_t
        return log_w

    def _levels(self, spec: SequenceSpec, budget: Budget) -> list[Tensor]:
        """The levels before and after the passes, from pure noise to clean: (N,) each.

        The levels of given tokens are 0 throughout.
        """
        deviation = spec.variance.mean(1).sqrt()
        largest = 1 - ROUNDINGS * torch.finfo(deviation.dtype).eps
        levels = [torch.zeros_like(deviation)]
        for j in range(1, budget.steps):
            noise = self.first_noise * 2.0 ** (j - 1) * deviation
            if bool((noise / (1 + noise) > largest).any()):
                break
            levels.append(noise / (1 + noise))
        drawn = torch.ones_like(deviation, dtype=torch.bool)
        drawn[list(spec.given)] = False
        return [
            torch.where(drawn, level, 0) for level in (torch.ones_like(deviation), *levels[::-1])
        ]

    def _at_once(self, s: Tensor, levels: list[Tensor]) -> bool:
        """Whether the pass to levels s is a last one that writes all tokens together."""
        return self.last != "sample" and s is levels[-1] and len(levels) > 2

    def _seen(self, t: Tensor, s: Tensor, i: int, made: list[int]) -> Tensor:
        """The levels at which tokens are shown for token i, (N,).

        Tokens before i are at the new level s, and tokens from i on at the old level t. Tokens past
        the length are at level 1, which means unseen. Given tokens have t = s = 0: they are clean.
        """
        place = torch.arange(len(t), device=t.device)
        unseen = torch.ones_like(t, dtype=torch.bool)
        unseen[made] = False
        return torch.where(place < i, s, torch.where(unseen & (t > 0), 1, t))

    def _emitted(
        self,
        network: TransitionPredictor,
        x: Tensor,
        seen: Tensor,
        s: Tensor,
        token: int | None = None,
    ) -> TokenLaw:
        law = network(x, seen.expand(x.shape[:2]), s)
        if token is not None:
            law = law.select([token])
        return emitted(law, self.heads, components=self.components)

    def _noised(
        self,
        y: Tensor,
        s: Tensor,
        t: Tensor,
        made: list[int],
        rng: Randomness,
    ) -> tuple[Tensor, Tensor]:
        """Add noise to tokens y from level s to t.

        Returns:
            The noisy tokens, (n, N, d), and the log-density of their noise, summed over the tokens
            `made`, (n,).
        """
        r, q = added_noise(t, s)  # (N,)
        e = rng.normal(tuple(y.shape)).to(y)
        log_p = -0.5 * (e.square() + 2 * q.log()[:, None] + LOG_2PI)
        return r[:, None] * y + q[:, None] * e, log_p[:, made].sum((1, 2))

    def _log_pass(
        self,
        network: TransitionPredictor,
        y: Tensor,
        y_t: Tensor,
        t: Tensor,
        s: Tensor,
        levels: list[Tensor],
        made: list[int],
    ) -> Tensor:
        """The log-density of one pass, (n,): of tokens y at levels s given y_t at levels t."""
        log_q = y.new_zeros(len(y))
        if self._at_once(s, levels):
            law = self._emitted(network, y_t, self._seen(t, s, 0, made), s)
            return log_q + law.log_prob(y)[:, made].sum(1)
        place = torch.arange(len(t), device=t.device)
        for i in made:
            shown = torch.where((place < i)[:, None], y, y_t)
            law = self._emitted(network, shown, self._seen(t, s, i, made), s, i)
            log_q = log_q + law.log_prob(y[:, [i]])[:, 0]
        return log_q
