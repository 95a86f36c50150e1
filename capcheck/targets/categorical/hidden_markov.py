"""Hidden Markov models: p(x) = sum_s p(s_1) prod p(s_{i+1} | s_i) prod p(x_i | s_i).

Transitions and emissions may differ between tokens, so any product of non-negative potentials along
a chain is such a model, for example a constraint set with a running state (parity, brackets).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.core.sequences import SequenceSpec
from capcheck.core.tiles import slices
from capcheck.laws import DeferredCategorical
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.categorical.chain import TILE, Chain, last_known
from capcheck.targets.categorical.emissions import MANY, Emissions
from capcheck.targets.categorical.messages import (
    Logarithmic,
    Scaled,
    SparseSteps,
    arithmetic_for,
    scaled_evidence,
    sparse_steps,
)
from capcheck.targets.categorical.noisy_state_laws import NoisyEntries
from capcheck.targets.categorical.noisy_tokens import with_floor
from capcheck.targets.categorical.state_entries import StateEntries
from capcheck.targets.categorical.state_laws import StateLaws
from capcheck.targets.fingerprint import fingerprint
from capcheck.targets.parameters import (
    MOST,
    require_count,
    require_grid,
    require_provenance,
    require_scored,
    require_tables,
    require_tensor,
)
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import HELD
from capcheck.targets.tokens import require_tokens

__all__ = ["FEW_ROWS", "FEW_TABLES", "LARGEST", "NEAR", "TABLES", "HiddenMarkov"]

FEW_ROWS = 16  # rows of a run whose states are held
FEW_TABLES = 1 << 26  # most numbers of a table of all symbols of these rows: half a GiB
CACHED = (
    1 << 19
)  # most numbers of the messages of a part of the rows in which many symbols are counted
TABLES = 40.0  # time of a symbol of a table of many, in multiply-adds
NEAR = 8  # tokens that a recursion goes on from a prefix for, of many symbols
LARGEST = 1 << 26  # most numbers of a transition or emission table: half a GiB


class HiddenMarkov(Chain):
    """A chain of S hidden states, each emitting one of V symbols.

    Args:
        initial: Law of the first state, (S,).
        transition: Laws of the next state, one per row, (S, S), or (N - 1, S, S) with one table per
            step.
        emission: Laws of the token, one per row, (S, V), or (N, S, V) with one table per token.
        tokens: Number N of tokens.
        grid: (rows, columns) of the tokens, if they have any.
        scored: Tokens that count in the divergences, in rising order; all of them if None.
        provenance: Where the parameters come from.

    Raises:
        InputError: A shape or a probability breaks these rules.
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor,
        *,
        tokens: int,
        grid: tuple[int, int] | None = None,
        scored: tuple[int, ...] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        tokens = require_count("tokens", tokens, most=MOST)
        initial, transition, emission = _require_shapes(initial, transition, emission, tokens)
        for name, table in (
            ("initial", initial),
            ("transition", transition),
            ("emission", emission),
        ):
            off = float((table.sum(-1) - 1).abs().max()) if table.numel() else 0.0
            if not off < 1e-4:
                raise InputError(
                    f"{name} must hold probabilities that sum to 1 over the last dimension, got a "
                    f"sum that is off by {off:.3g}; normalise it or use from_potentials."
                )
        grid = require_grid(grid, tokens)
        require_scored(scored, tokens)
        self._initial = initial / initial.sum()
        self._transition = transition / transition.sum(-1, keepdim=True)
        self._emission = emission / emission.sum(-1, keepdim=True)
        self._arithmetic = arithmetic_for(
            float(self._transition.min()) if self._transition.numel() else 1.0,
            1,
            initial.dtype,
        )
        self._sparse: tuple[SparseSteps, SparseSteps] | None = None  # onward and back
        if isinstance(self._arithmetic, Logarithmic):
            self._sparse = sparse_steps(self._transition)
        self._stored = self._transition if self._sparse else self._arithmetic.of(self._transition)
        per_state = max(step.degree for step in self._sparse) if self._sparse else len(initial)
        self._widest = len(initial) * per_state
        self._emissions = Emissions(self._emission)
        self._tokens, self._grid, self._scored = tokens, grid, scored
        require_provenance(provenance)
        self.provenance = provenance or Provenance(
            description=f"hidden Markov model of {len(initial)} states"
        )

    @classmethod
    def from_potentials(
        cls,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor,
        *,
        tokens: int,
        grid: tuple[int, int] | None = None,
        scored: tuple[int, ...] | None = None,
        provenance: Provenance | None = None,
    ) -> HiddenMarkov:
        """The law proportional to a product of non-negative potentials along a chain.

        The transition p(s' | s) is proportional to transition(s, s') h_{i+1}(s'), where h_i(s) is
        the summed potential of all continuations from state s of token i on.

        Args:
            initial: (S,) potential of the first state.
            transition: (S, S) or (N - 1, S, S) potentials of neighbouring states.
            emission: (S, V) or (N, S, V) potentials of a token and its state.
            tokens: Number N of tokens.
            grid: As for the class.
            scored: As for the class.
            provenance: As for the class.

        Raises:
            InputError: A shape is wrong, or the potentials leave no sequence possible.
        """
        tokens = require_count("tokens", tokens, most=MOST)
        initial, transition, emission = _require_shapes(initial, transition, emission, tokens)
        S = len(initial)
        emissions = emission.expand(tokens, *emission.shape[-2:])
        transitions = transition.expand(tokens - 1, S, S)
        mass = emissions.sum(-1)  # (N, S)
        remaining, steps = mass[-1], []
        for i in reversed(range(tokens - 1)):
            onward = transitions[i] * remaining
            total = onward.sum(-1)
            steps.append(_laws(torch.where(total[:, None] > 0, onward, transitions[i])))
            remaining = mass[i] * total
            remaining = remaining / remaining.max().clamp(min=torch.finfo(remaining.dtype).tiny)
        start = initial * remaining
        if not float(start.sum()) > 0:
            raise InputError("potentials must leave some sequence possible, got none.")
        return cls(
            start / start.sum(),
            torch.stack(steps[::-1]) if steps else transitions,
            _laws(emission),
            tokens=tokens,
            grid=grid,
            scored=scored,
            provenance=provenance,
        )

    @functools.cached_property
    def _spec(self) -> SequenceSpec:  # type: ignore[override]
        """Its N x V moments are computed when they are first asked for, and not in fits."""
        state, mean = self._initial, []
        for i in range(self._tokens):
            mean.append(state @ self._emission_at(i))
            state = state @ self._transition_at(i) if i + 1 < self._tokens else state
        p = torch.stack(mean)
        return SequenceSpec(
            tokens=self._tokens,
            kind="categorical",
            dim=self._emission.shape[-1],
            mean=p,
            variance=p * (1 - p),
            grid=self._grid,
            scored=self._scored,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Copies leave behind what follows from the parameters."""
        found = {"_spec", "_marginal_states", "_evidence_table", "_log_units"}
        return {name: value for name, value in self.__dict__.items() if name not in found}

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """The laws of the first state, the next state and the token, normalised."""
        return self._initial, self._transition, self._emission

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._initial.dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._initial.device

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters in float64."""
        parameters = (self._initial, self._transition, self._emission)
        facts = (self._spec.grid, self._spec.tokens, self._spec.scored)
        return fingerprint("hidden Markov", facts, parameters)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> HiddenMarkov:
        """The same law, computed elsewhere or in another precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        return HiddenMarkov(
            self._initial.to(device, dtype),
            self._transition.to(device, dtype),
            self._emission.to(device, dtype),
            tokens=self._tokens,
            grid=self._grid,
            scored=self._scored,
            provenance=self.provenance,
        )

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Hidden states and tokens by inverse CDF, from left to right: (n, N) integers."""
        u = rng.uniform((n, 2 * self._spec.tokens))
        states = torch.empty(n, self._spec.tokens, dtype=torch.int64, device=self.device)
        states[:, 0] = inverse_cdf(self._initial, u[:, 0])
        for i in range(1, self._spec.tokens):
            law = self._transition_at(i - 1)[states[:, i - 1]]
            states[:, i] = inverse_cdf(law, u[:, [2 * i]])[:, 0]
        draws, of_tokens = torch.empty_like(states), u[:, 1::2]
        if self._by_states:  # a state has more symbols than there are states
            for state, emission in enumerate(self._emission):
                there = states == state
                draws[there] = inverse_cdf(emission, of_tokens[there.to(u.device)]).to(draws)
            return draws
        for i in range(self._spec.tokens):
            law = self._emission_at(i)[states[:, i]]
            draws[:, i] = inverse_cdf(law, of_tokens[:, [i]])[:, 0]
        return draws

    def state_posterior(self, x: Tensor, known: Tensor) -> Tensor:
        """Posterior P(s_i | known tokens) of every state, (n, N, S); 0 if they are impossible.

        Args:
            x: Token ids, (n, N); values of unknown tokens are ignored.
            known: Whether each token is known, (n, N) bool.
        """
        answers = []
        for rows in self._rows(len(x)):
            evidence = self._all_evidence(x[rows], known[rows])
            forward, backward = self._recursion(evidence), self._recursion(evidence, back=True)
            answers.append(self._posterior(forward, backward, evidence))
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    def _posterior(self, forward: Tensor, backward: Tensor, evidence: Tensor) -> Tensor:
        """Posterior of every state, (n, N, S), from all messages, which are overwritten."""
        joint = self._joint(forward, backward)
        if isinstance(self._arithmetic, Scaled):
            joint.mul_(evidence)
        else:
            joint = self._probabilities(self._arithmetic.times(joint, evidence))
        return _normalised(joint).transpose(0, 1)

    def expected_counts(
        self, x: Tensor, shown: Tensor, held: int = TILE
    ) -> tuple[float, Tensor, Tensor]:
        """What Baum and Welch's algorithm counts in fully known rows x of a homogeneous chain.

        Args:
            x: Token ids, (n, N).
            shown: Tensor (V, S), to which the expected number of times that each state shows each
                symbol is added.
            held: Most numbers of the messages that are held at once.

        Returns:
            The log-likelihood of all rows (nats), the expected number of rows that begin in each
            state, (S,), and of transitions s -> s', (S, S).
        """
        S, N = len(self._initial), x.shape[1]
        each = self._widest if isinstance(self._arithmetic, Logarithmic) else 0
        size = max(1, held // max(N * S, each))
        log_p, begun, total = 0.0, [], torch.zeros_like(self._transition)
        for rows in slices(len(x), size):
            part = x[rows]
            evidence = self._all_evidence(part, torch.ones_like(part, dtype=torch.bool))
            forward, backward = self._recursion(evidence), self._recursion(evidence, back=True)
            seen = self._arithmetic.times(forward, evidence)
            gained = self._arithmetic.log_sum(seen) - self._arithmetic.log_sum(forward)
            log_p += float(gained.sum() + self._log_units[part].sum())
            left = self._probabilities(seen)[:-1]
            right = self._probabilities(self._arithmetic.times(backward, evidence))[1:]
            weight = (left * (right @ self._transition.T)).sum(-1, keepdim=True)
            total += (left / weight).flatten(0, 1).T @ right.flatten(0, 1)
            posterior = self._posterior(forward, backward, evidence)
            begun.append(posterior[:, 0])
            shown.index_add_(0, part.reshape(-1), posterior.reshape(-1, S))
        return log_p, torch.cat(begun).sum(0), total * self._transition

    @property
    def noisy_cost(self) -> float:
        """That of the recursions, and of the tables of many symbols; see `CategoricalTarget`."""
        tables = self._emission.numel() + TABLES * self._emission.shape[-1]
        return super().noisy_cost + (self._tokens * tables if self._has_many else 0.0)

    @property
    def rows_at_once(self) -> int:
        """As many rows as for tables of all symbols, and a few where only the states are held."""
        N, S, V = self._spec.tokens, len(self._initial), self._spec.dim
        tables = max(1, HELD // (N * max(S, V)))
        if not self._by_states:
            return tables
        return max(tables, min(FEW_ROWS, HELD // (N * S), FEW_TABLES // (N * V)))

    @property
    def _by_states(self) -> bool:
        """Whether laws of tokens are held as posteriors of their states."""
        S, V = self._emission.shape[-2:]
        alone = self._tokens == 1 and V > MANY  # all sequences may be enumerated
        return self._emission.dim() == 2 and S < V and not alone

    @property
    def _has_many(self) -> bool:
        """Whether there are so many symbols that tables of them are avoided."""
        return self._by_states and self._emission.shape[1] > MANY

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones, through their states; see `Target`."""
        if not self._by_states or (causal and not self._has_many):
            return super().marginals(x, levels, path, causal)
        require_tokens(self.spec, x, levels)
        known = levels == 0
        prefix = known.any() and known.any(0).equal(known.all(0)) and not _has_gaps(known[0])

        def posterior() -> Tensor:
            parts = [self._others(x[rows], known[rows], causal) for rows in self._rows(len(x))]
            return torch.cat(parts)

        def onward(tokens: list[int]) -> StateLaws:
            return self._state_laws(lambda: self._after(x, known, tokens), x, known, tokens)

        every = list(range(self._tokens))
        if self._has_many and prefix and not causal:
            return _OnwardLaws(onward, every)
        certain = torch.zeros_like(known) if causal else known
        laws = self._state_laws(posterior, x, certain, every)
        if prefix and not causal:
            return _PrefixLaws(super().marginals(x, levels, path, causal), laws)
        return laws

    def _state_laws(
        self, make: Callable[[], Tensor], x: Tensor, known: Tensor, tokens: list[int]
    ) -> StateLaws:
        """The laws of some tokens from the posteriors of their states, (n, len(tokens), S)."""
        mean, states = self._spec.mean, self._marginal_states
        if tokens != list(range(self._tokens)):
            mean, states, x, known = mean[tokens], states[tokens], x[:, tokens], known[:, tokens]
        entries = StateEntries(make, self._emissions, mean, states, x, known)
        return StateLaws(entries, range(len(tokens)))

    def _after(self, x: Tensor, known: Tensor, tokens: list[int]) -> Tensor:
        """Posterior of the states of some tokens after a prefix that is known, (n, C, S)."""
        first, found = min(tokens), []
        for part, rows in enumerate(self._rows(len(x))):
            if max(tokens) - first > NEAR:  # the whole recursion takes less time
                found.append(self._others(x[rows], known[rows], causal=True)[:, tokens])
                continue
            place, start = self._restart(x[rows], known[rows], first, part)
            steps = self._forward(x[rows], known[rows], first=place, start=start)
            places = range(place, max(tokens) + 1)
            messages = {i: message for i, (message, _) in zip(places, steps, strict=False)}
            if place < first:
                self._kept.keep(part, x[rows], known[rows], first, messages[first])
            joint = torch.stack([messages[i] for i in tokens], 1)
            found.append(_normalised(self._probabilities(joint)))
        return torch.cat(found)

    def one_by_one(self, x: Tensor) -> Iterator[Any]:
        """By one step of the recursion for each token, through its states; see `Target`."""
        if not self._has_many:
            yield from super().one_by_one(x)
            return
        known = torch.ones_like(x, dtype=torch.bool)
        for i, (message, _) in enumerate(self._forward(x, known)):
            posterior = _normalised(self._probabilities(message).clone())[:, None]
            yield self._state_laws(functools.partial(torch.clone, posterior), x, ~known, [i])

    def noisy_marginals(self, x: Tensor, keep: Tensor) -> DeferredCategorical:
        """By both recursions with softened evidence, of many symbols through the states."""
        if not self._has_many:
            return super().noisy_marginals(x, keep)
        x, floor = with_floor(self._spec, x, keep)

        def posterior() -> Tensor:
            parts = (self._both(self._soft(x[r], floor[r])) for r in self._rows(len(x)))
            return torch.cat([_normalised(self._probabilities(p)).transpose(0, 1) for p in parts])

        mean, states = self._spec.mean, self._marginal_states
        entries = NoisyEntries(posterior, self._emissions, mean, states, x, floor)
        return StateLaws(entries, range(self._tokens))

    def log_prob_of_values(self, x: Tensor, token: int) -> Tensor | None:
        """Of many symbols, from the token's law and one probability; see `CategoricalTarget`."""
        if not self._has_many:
            return None
        unknown = torch.zeros(x.shape, dtype=self.dtype, device=x.device)
        unknown[:, token] = 1
        law = (
            self.marginals(x, unknown).select([token]).probabilities_where(unknown[:, [token]] > 0)
        )
        likeliest = x.clone()
        likeliest[:, token] = law.argmax(1)
        of_others = self.log_prob(likeliest) - law.amax(1).log()
        return of_others[:, None] + law.log()

    @functools.cached_property
    def _marginal_states(self) -> Tensor:
        """Laws of the states of all tokens, (N, S)."""
        states = [self._initial]
        for i in range(self._spec.tokens - 1):
            states.append(states[-1] @ self._transition_at(i))
        return torch.stack(states)

    def _others(self, x: Tensor, known: Tensor, causal: bool) -> Tensor:
        """Posterior of the state of every token given the other known tokens, (n, N, S).

        If `causal`, only tokens before it are told.
        """
        evidence = self._all_evidence(x, known)
        joint = self._recursion(evidence) if causal else self._both(evidence)
        return _normalised(self._probabilities(joint)).transpose(0, 1)

    def _laws(
        self,
        x: Tensor,
        known: Tensor,
        tokens: list[int],
        causal: bool,
        part: int = 0,
        floor: float | Tensor = 0.0,
    ) -> Tensor:
        """Probabilities as in `Chain._laws`, with the messages of all tokens in one tensor."""
        if causal or last_known(known) <= min(tokens):
            return super()._laws(x, known, tokens, causal, part, floor)
        if isinstance(floor, Tensor):
            evidence = self._soft(x, floor)
        else:
            evidence = self._all_evidence(x, known)
        joint = self._both(evidence)[tokens]
        emission = self._emission if self._emission.dim() == 2 else self._emission[tokens]
        law = self._probabilities(joint) @ emission  # (S, n, V)
        total = law.sum(-1, keepdim=True)
        return torch.where(total > 0, law / total, self._spec.mean[tokens, None]).transpose(0, 1)

    def _both(self, evidence: Tensor) -> Tensor:
        """F_i B_i of all tokens, (N, n, S) in stored form, up to factors."""
        return self._joint(self._recursion(evidence), self._recursion(evidence, back=True))

    def _joint(self, forward: Tensor, backward: Tensor) -> Tensor:
        """The product of all messages F_i and B_i, (N, n, S), which are overwritten."""
        if isinstance(self._arithmetic, Scaled):
            return forward.mul_(backward)
        return self._arithmetic.times(forward, backward)

    def _recursion(self, evidence: Tensor, *, back: bool = False) -> Tensor:
        """F_i, or B_i, of all tokens, (N, n, S) in stored form, up to factors."""
        messages = torch.empty_like(evidence)
        order = list(range(len(evidence)))[:: -1 if back else 1]
        start = torch.ones_like(self._initial) if back else self._initial
        messages[order[0]] = self._arithmetic.of(start)
        if isinstance(self._arithmetic, Scaled):
            table = self._stored.mT if back else self._stored
            self._run_in_place(messages, evidence, table, order, self._arithmetic)
            return messages
        step = self._retreat if back else self._advance
        for i, j in itertools.pairwise(order):
            messages[j] = step(self._arithmetic.times(messages[i], evidence[i]), min(i, j))
        return messages

    def _run_in_place(
        self, messages: Tensor, evidence: Tensor, table: Tensor, order: list[int], scaled: Scaled
    ) -> None:
        """The recursion on probabilities, without allocating a tensor in any step.

        A step takes a few microseconds, and calls of NumPy cost half of torch's on the CPU.
        """
        on_cpu = messages.device.type == "cpu"
        xp: Any = np if on_cpu else torch
        M, E, T = (list(t.numpy()) if on_cpu else list(t) for t in (messages, evidence, table))
        homogeneous = table.dim() == 2
        whole = table.contiguous().numpy() if on_cpu else table
        least = torch.finfo(messages.dtype).tiny  # an impossible row stays 0
        seen = xp.empty_like(E[0])
        ones = xp.ones_like(E[0][0, :, None])
        for step, (i, j) in enumerate(itertools.pairwise(order)):
            xp.multiply(M[i], E[i], out=seen)
            xp.matmul(seen, whole if homogeneous else T[min(i, j)], out=M[j])
            if scaled.is_due(step):
                M[j] /= xp.matmul(M[j], ones) + least

    def _all_evidence(self, x: Tensor, known: Tensor) -> Tensor:
        """E_i of all tokens, divided by the best state's, (N, n, S) in stored form."""
        V = self._emission.shape[-1]
        index = torch.where(known, x, V).T  # (N, n)
        if self._emission.dim() == 3:
            index = index + (V + 1) * torch.arange(len(index), device=x.device)[:, None]
        return self._evidence_table[index]

    @functools.cached_property
    def _evidence_table(self) -> Tensor:
        """E of every symbol and of none, (V + 1, S) in stored form; (N (V + 1), S) by token."""
        table = scaled_evidence(self._emission.mT)[0]  # (V, S) or (N, V, S)
        table = torch.cat([table, torch.ones_like(table[..., :1, :])], -2)
        return self._arithmetic.of(table).reshape(-1, len(self._initial))

    @functools.cached_property
    def _log_units(self) -> Tensor:
        """Logarithms of the divisors of the evidence of each symbol, (V,)."""
        return scaled_evidence(self._emission.mT)[1].log()

    def _soft(self, x: Tensor, floor: Tensor) -> Tensor:
        """E_i of all tokens x (n, N) with floors (n, N), as `_all_evidence` returns it."""
        table, f = self._emission.mT, floor.T[..., None]  # (V, S) or (N, V, S), and (N, n, 1)
        of_token = [t[i] for t, i in zip(table.expand(len(f), -1, -1), x.T, strict=True)]
        return self._arithmetic.of(scaled_evidence(f + (1 - f) * torch.stack(of_token))[0])

    def _start(self) -> Tensor:
        return self._arithmetic.of(self._initial)

    def _advance(self, message: Tensor, i: int) -> Tensor:
        if self._sparse:
            return self._sparse[0].product(message, i)
        return self._arithmetic.product(message, self._stored_at(i))

    def _retreat(self, message: Tensor, i: int) -> Tensor:
        if self._sparse:
            return self._sparse[1].product(message, i)
        return self._arithmetic.product(message, self._stored_at(i).mT)

    def _emitted(self, x: Tensor, i: int) -> Tensor:
        return self._emission_at(i).T[x]

    def _read(self, joint: Tensor, i: int) -> Tensor:
        return joint @ self._emission_at(i)

    def _states_at(self, i: int) -> int:
        return len(self._initial)

    def _stored_at(self, i: int) -> Tensor:
        return self._stored if self._stored.dim() == 2 else self._stored[i]

    def _transition_at(self, i: int) -> Tensor:
        return self._transition if self._transition.dim() == 2 else self._transition[i]

    def _emission_at(self, i: int) -> Tensor:
        return self._emission if self._emission.dim() == 2 else self._emission[i]


class _OnwardLaws(StateLaws):
    """The laws of tokens after a prefix that all rows know, of which only those asked are found.

    Args:
        onward: Function that makes the laws of the tokens with given indices.
        tokens: Indices of the tokens.
    """

    def __init__(self, onward: Callable[[list[int]], StateLaws], tokens: list[int]) -> None:
        super().__init__(onward(tokens)._entries, range(len(tokens)))
        self._onward, self._places = onward, tokens

    def select(self, tokens: Sequence[int]) -> StateLaws:
        """The laws of the tokens with these indices."""
        return _OnwardLaws(self._onward, [self._places[i] for i in tokens])


class _PrefixLaws(DeferredCategorical):
    """The laws of tokens after a prefix that all rows know, by a recursion that goes on from it.

    Args:
        onward: Laws by this recursion, which costs little for the next tokens.
        states: The same laws through the states of all tokens.
    """

    def __init__(self, onward: DeferredCategorical, states: StateLaws) -> None:
        super().__init__(onward.make, range(len(states)))
        self._states = states

    def peaks_where(
        self, chosen: Tensor, *, most: int, least: float, ordered: bool = True
    ) -> Tensor:
        """Largest probability of the chosen tokens; see `TokenLaw`."""
        return self._states.peaks_where(chosen, most=most, least=least, ordered=ordered)


def _normalised(joint: Tensor) -> Tensor:
    """Probabilities up to factors (..., S), divided by their sums in place; zeros stay zeros."""
    total = joint.sum(-1, keepdim=True)
    return joint.div_(torch.where(total > 0, total, 1))


def _has_gaps(known: Tensor) -> bool:
    """Whether a token (N,) is known after one that is not."""
    return bool((known[1:] & ~known[:-1]).any())


def _laws(potentials: Tensor) -> Tensor:
    """Rows divided by their sums; a row of zeros, an unreachable state, becomes uniform."""
    total = potentials.sum(-1, keepdim=True)
    return torch.where(total > 0, potentials / total, 1 / potentials.shape[-1])


def _require_shapes(
    initial: Tensor, transition: Tensor, emission: Tensor, tokens: int
) -> list[Tensor]:
    require_tensor("initial", initial)
    require_tensor("transition", transition)
    require_tensor("emission", emission)
    S = initial.numel()
    if initial.dim() != 1 or S == 0:
        raise InputError(f"initial must have shape (states,), got {tuple(initial.shape)}.")
    if tuple(transition.shape) not in ((S, S), (tokens - 1, S, S)):
        raise InputError(
            f"transition must have shape {(S, S)} or {(tokens - 1, S, S)}, "
            f"got {tuple(transition.shape)}."
        )
    if tuple(emission.shape[:-1]) not in ((S,), (tokens, S)) or emission.numel() == 0:
        raise InputError(
            f"emission must have shape ({S}, vocabulary) or ({tokens}, {S}, vocabulary) and a "
            f"vocabulary of at least 1, got {tuple(emission.shape)}."
        )
    if max(transition.numel(), emission.numel()) > LARGEST:
        raise InputError(
            f"transition and emission must hold at most {LARGEST} numbers, got "
            f"{max(transition.numel(), emission.numel())}; use fewer states or tokens."
        )
    return require_tables({"initial": initial, "transition": transition, "emission": emission})
