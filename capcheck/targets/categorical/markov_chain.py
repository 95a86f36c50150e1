"""Markov chains of order m: p(x) = prod_i p(x_i | x_{i-m..i-1}), over V symbols.

The state of token i is the string of the last m tokens up to and including i (fewer at the start).
A step costs V^(m+1) multiply-adds and not V^(2m): one product for each string of the m - 1 tokens
that stay in the state. Laws may differ between tokens, as in strips of an Ising grid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import ChosenLaws, DeferredCategorical
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.categorical.ahead import Ahead
from capcheck.targets.categorical.chain import Chain
from capcheck.targets.categorical.chain_entropies import (
    chain_entropies,
    entropies,
    entropies_after,
)
from capcheck.targets.categorical.gaps import GapEntries, GapLaws, Gaps, Powers
from capcheck.targets.categorical.messages import arithmetic_for
from capcheck.targets.categorical.spans import Spans
from capcheck.targets.categorical.unknown_messages import UnknownMessages
from capcheck.targets.fingerprint import fingerprint
from capcheck.targets.parameters import (
    MOST,
    require_count,
    require_grid,
    require_provenance,
    require_tables,
    require_tensor,
)
from capcheck.targets.provenance import Provenance
from capcheck.targets.tokens import require_tokens

__all__ = ["LARGEST", "LONGEST", "MULTIPLIED", "UNKNOWN_SHARE", "MarkovChain"]

UNKNOWN_SHARE = 0.5  # of the time of a recursion, where messages are over unknown tokens only
LONGEST = 4096  # most tokens of a closed form over all pairs of tokens: half a GiB
MULTIPLIED = 1e12  # most multiply-adds for the powers of a transition matrix: some seconds
LARGEST = 1 << 24  # most numbers of all conditional tables together


class MarkovChain(Chain):
    """A chain whose next token depends on the last m.

    Args:
        conditionals: m + 1 tables of shapes (V,), (V, V), ..., (V,) * (m + 1): the laws of the
            first token, of the second given the first, and so on; the last table is used for all
            later tokens. Alternatively N tables, one per token, of which those after the first m
            have m + 1 dimensions. The last dimension is the token's value, the one before it that
            of the previous token.
        tokens: Number N of tokens.
        grid: (rows, columns) of the tokens, if they have any.
        provenance: Where the parameters come from.

    Raises:
        InputError: The shape or the probabilities of a table break these rules.
    """

    def __init__(
        self,
        conditionals: Sequence[Tensor],
        *,
        tokens: int,
        grid: tuple[int, int] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        tokens = require_count("tokens", tokens, most=MOST)
        conditionals = _require_conditionals(conditionals, tokens)
        grid = require_grid(grid, tokens)
        self._conditionals = [table / table.sum(-1, keepdim=True) for table in conditionals]
        self._order = conditionals[-1].dim() - 1
        V = len(conditionals[0])
        least = min(float(table.min()) for table in self._conditionals)
        self._least = least
        self._arithmetic = arithmetic_for(
            least,
            max(self._order, 1),
            conditionals[0].dtype,
        )
        self._widest = V ** (max(self._order, 1) + 1)
        self._slowness = 40.0  # its products are many and small
        self._steps = [self._arithmetic.of(self._step_table(i)) for i in range(len(conditionals))]
        # The marginal laws of the tokens need one run without evidence.
        self._spec = SequenceSpec(
            tokens=tokens,
            kind="categorical",
            dim=V,
            mean=self._conditionals[0].expand(tokens, V),
            variance=self._conditionals[0].expand(tokens, V),
            grid=grid,
        )
        unknown = torch.zeros(1, tokens, dtype=torch.bool, device=self.device)
        p = self._laws(unknown.long(), unknown, list(range(tokens)), causal=True)[0]
        self._spec = SequenceSpec(
            tokens=tokens, kind="categorical", dim=V, mean=p, variance=p * (1 - p), grid=grid
        )
        require_provenance(provenance)
        self.provenance = provenance or Provenance(
            description=f"Markov chain of order {self._order} over {V} symbols"
        )

    @property
    def order(self) -> int:
        """Order m: the number of past tokens that the next one depends on."""
        return self._order

    @property
    def conditionals(self) -> list[Tensor]:
        """The tables that the chain was built from, normalised."""
        return self._conditionals

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._conditionals[0].dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._conditionals[0].device

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the parameters in float64."""
        facts = (self._spec.grid, self._spec.tokens)
        return fingerprint("Markov chain", facts, self._conditionals)

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> MarkovChain:
        """The same law, computed elsewhere or in another precision."""
        if torch.device(device) == self.device and dtype == self.dtype:
            return self
        return MarkovChain(
            [table.to(device, dtype) for table in self._conditionals],
            tokens=self._spec.tokens,
            grid=self._spec.grid,
            provenance=self.provenance,
        )

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Token after token by inverse CDF: (n, N) integers."""
        u = rng.uniform((n, self._spec.tokens))
        draws = torch.empty(n, self._spec.tokens, dtype=torch.int64, device=self.device)
        for i in range(self._spec.tokens):
            past = [draws[:, j] for j in range(max(0, i - self._order), i)]
            table = self._table(i)
            p = table[tuple(past)] if past else table.expand(n, -1)
            draws[:, i] = inverse_cdf(p, u[:, [i]])[:, 0]
        return draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of x (n, N), in nats: (n,); -inf off the support."""
        require_tokens(self.spec, x)
        return self._log_terms(x).sum(1)

    def log_prob_of_values(self, x: Tensor, token: int) -> Tensor:
        """From the laws of the tokens that the value enters, and those of all others."""
        require_tokens(self.spec, x)
        N, m = self._spec.tokens, self._order
        own = range(token, min(token + m + 1, N))
        terms = self._log_terms(x)
        terms[:, own.start : own.stop] = 0
        total = terms.sum(1, keepdim=True)
        value = torch.arange(self._spec.dim, device=x.device)[None]
        for j in own:
            past = range(max(0, j - m), j + 1)
            table = self._log_tables[min(j, len(self._log_tables) - 1)]
            total = total + table[tuple(value if i == token else x[:, [i]] for i in past)]
        return total

    def _log_terms(self, x: Tensor) -> Tensor:
        """Log-probability of each token given those before it, (n, N)."""
        logs, N = self._log_tables, self._spec.tokens
        m = logs[-1].dim() - 1
        alone = min(len(logs) - 1, N)  # tokens with a table of their own
        terms = [logs[i][tuple(x[:, max(0, i - m) : i + 1].T)][:, None] for i in range(alone)]
        if alone < N:  # the last table is that of all others
            windows = (x[:, alone - m + k :][:, : N - alone] for k in range(m + 1))
            terms.append(logs[-1][tuple(windows)])
        return torch.cat(terms, 1)

    @property
    def conditional_cost(self) -> float:
        """Of order 2 and more a share of that of any chain; see `CategoricalTarget`."""
        if self._order < 2:
            return 0.0
        return super().conditional_cost * (1.0 if self._messages is None else UNKNOWN_SHARE)

    @property
    def noisy_cost(self) -> float:
        """That of both recursions, of every order; see `CategoricalTarget`."""
        return super().conditional_cost

    def mean_conditional_entropies(self) -> Tensor | None:
        """Of order 0 or 1, in closed form and in float64; see `CategoricalTarget`."""
        N, V = self._spec.tokens, self._spec.dim
        powers = N if self._is_simple else N**2 / 2
        if self._order > 1 or N > LONGEST or self._order * powers * V**3 > MULTIPLIED:
            return None
        wide = self.to(device=self.device, dtype=torch.float64)
        marginals = wide.spec.mean
        if self._order == 0:
            return entropies(marginals).mean().expand(N)
        step = wide.conditionals[1] if self._is_simple else lambda i: wide._table(i + 1)
        return chain_entropies(marginals, entropies_after(marginals, step))

    @functools.cached_property
    def _log_tables(self) -> list[Tensor]:
        return [table.log() for table in self._conditionals]

    @property
    def _is_simple(self) -> bool:
        """Whether the order is 1, and all transitions have one table."""
        return self._order == 1 and len(self._conditionals) == 2

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones, of order 1 by `gaps`; see `Target`."""
        known = levels == 0
        if self._powers is not None:
            require_tokens(self.spec, x, levels)
            gaps = Gaps.of(x, known, causal=causal)
            return GapLaws(GapEntries(self._powers, gaps, causal), range(self._spec.tokens))
        if self._messages is None or not bool(known.any()):
            return super().marginals(x, levels, path, causal)
        require_tokens(self.spec, x, levels)
        return ChosenLaws(self._of_chosen(self._messages, x, known, causal), known, self._spec.dim)

    def _of_chosen(
        self, messages: UnknownMessages, x: Tensor, known: Tensor, causal: bool
    ) -> Callable[[Tensor], Tensor]:
        """The function from the chosen tokens of x to their laws."""
        ahead = self._ahead

        def between(chosen: Tensor) -> Tensor:
            found = None
            if ahead is not None and not causal and self._order < x.shape[1]:
                found = Spans(x, known, self._order, messages.laws).laws(chosen)
            return messages.laws(x, known, chosen, causal=causal) if found is None else found

        def of(chosen: Tensor) -> Tensor:
            if ahead is None:
                return between(chosen)
            some, laws = ahead.laws(x, known, chosen, causal=causal)
            if not len(laws):
                return between(chosen)
            found = laws.new_empty(int(chosen.sum()), laws.shape[1])
            first = some[chosen]
            found[first] = laws
            if len(laws) < len(found):
                found[~first] = between(chosen & ~some)
            return found

        return of

    @functools.cached_property
    def _ahead(self) -> Ahead | None:
        """Laws ahead of known tokens, of a chain that is the same everywhere."""
        uniform = len(self._conditionals) == self._order + 1
        return Ahead(self._conditionals[-1]) if uniform and self._order > 0 else None

    @functools.cached_property
    def _messages(self) -> UnknownMessages | None:
        """Messages over unknown tokens only, where these pay and every transition is possible."""
        V, m = self._spec.dim, self._order
        served = UnknownMessages.serves(self._least, m, V, self.dtype)
        return UnknownMessages(self._table, m) if served else None

    @functools.cached_property
    def _powers(self) -> Powers | None:
        """Powers of the transition matrix, of a chain of order 1 that is the same everywhere."""
        if not self._is_simple:
            return None
        first, transition = self._conditionals
        held = Powers.fit(self._spec.tokens, len(first), float(transition.min()))
        return Powers(transition, self._spec.mean) if held else None

    def _restart(self, x: Tensor, known: Tensor, token: int, part: int) -> tuple[int, Tensor]:
        """Restart after m tokens that all rows know: earlier tokens do not matter then.

        If some transitions are impossible, earlier tokens do matter, since impossible known tokens
        must give the unconditional marginals.
        """
        if self._least <= 0:
            return super()._restart(x, known, token, part)
        whole, m = known.all(0), self._order
        for i in range(token, m - 1, -1):
            if m > 0 and bool(whole[i - m : i].all()):
                law = self._table(i)[tuple(x[:, i - m : i].T)]  # (n, V)
                place = torch.zeros_like(x[:, 0])  # index of the string that stays in the state
                for symbol in x[:, i - m + 1 : i].T:
                    place = place * law.shape[1] + symbol
                message = law.new_zeros(len(x), self._states_at(i) // law.shape[1], law.shape[1])
                message[torch.arange(len(x)), place] = law
                return i, self._arithmetic.of(message.flatten(1))
        return super()._restart(x, known, token, part)

    def _table(self, i: int) -> Tensor:
        """p(x_i | the last m tokens before it), (V,) * (min(i, m) + 1)."""
        return self._conditionals[min(i, len(self._conditionals) - 1)]

    def _step_table(self, i: int) -> Tensor:
        """p(x_{i+1} | state of token i) as (b, a, V): a is the token that is dropped, b stays."""
        V = len(self._conditionals[0])
        table = self._table(i + 1)
        if self._order == 0:  # independent tokens: the whole state is dropped
            return table.expand(1, V, V)
        if i + 1 < self._order:  # at the start nothing is dropped: each state has one past
            return table.reshape(-1, 1, V)
        return table.reshape(V, -1, V).transpose(0, 1).contiguous()

    def _start(self) -> Tensor:
        return self._arithmetic.of(self._conditionals[0])

    def _advance(self, message: Tensor, i: int) -> Tensor:
        table = self._steps[min(i, len(self._steps) - 1)]  # (b, a, V)
        b, a, V = table.shape
        by_kept = message.reshape(-1, a, b).permute(2, 0, 1)  # (b, n, a)
        return self._arithmetic.product(by_kept, table).transpose(0, 1).reshape(-1, b * V)

    def _retreat(self, message: Tensor, i: int) -> Tensor:
        table = self._steps[min(i, len(self._steps) - 1)]  # (b, a, V)
        b, a, V = table.shape
        by_kept = message.reshape(-1, b, V).transpose(0, 1)  # (b, n, V)
        return self._arithmetic.product(by_kept, table.mT).permute(1, 2, 0).reshape(-1, a * b)

    def _emitted(self, x: Tensor, i: int) -> Tensor:
        return one_hot(x, len(self._conditionals[0])).to(self.dtype)

    def _read(self, joint: Tensor, i: int) -> Tensor:
        return joint.reshape(len(joint), -1, len(self._conditionals[0])).sum(1)

    def _states_at(self, i: int) -> int:
        states: int = len(self._conditionals[0]) ** min(i + 1, max(self._order, 1))
        return states


def _require_conditionals(conditionals: Sequence[Tensor], tokens: int) -> list[Tensor]:
    if not isinstance(conditionals, (list, tuple)):
        raise InputError(f"conditionals must be a list of tensors, got {shown(conditionals)}.")
    for j, table in enumerate(conditionals):
        require_tensor(f"conditionals[{j}]", table)
    if not conditionals or conditionals[0].dim() != 1 or len(conditionals[0]) == 0:
        raise InputError("conditionals must start with the law of the first token, (vocabulary,).")
    V, order = len(conditionals[0]), conditionals[-1].dim() - 1
    if len(conditionals) not in (order + 1, tokens):
        raise InputError(
            f"conditionals must be {order + 1} tables, the last one for all later tokens, or one "
            f"for each of the {tokens} tokens, got {len(conditionals)}."
        )
    for j, table in enumerate(conditionals):
        shape = (V,) * (min(j, order) + 1)
        if tuple(table.shape) != shape:
            raise InputError(
                f"conditionals[{j}] must have shape {shape}, got {tuple(table.shape)}."
            )
    tables = require_tables({f"conditionals[{j}]": t for j, t in enumerate(conditionals)})
    for j, table in enumerate(tables):
        off = float((table.sum(-1) - 1).abs().max())
        if not off < 1e-4:
            raise InputError(
                f"conditionals[{j}] must sum to 1 over its last dimension, got a sum that is off "
                f"by {off:.3g}; normalise it."
            )
    # Messages of every order, 0 included, go through all pairs of symbols.
    numbers = max(V**2, sum(table.numel() for table in tables))
    if numbers > LARGEST:
        raise InputError(
            f"conditionals must hold at most {LARGEST} numbers, got {numbers} for {V} symbols and "
            f"order {order}; use a lower order or a hidden Markov model."
        )
    return tables
