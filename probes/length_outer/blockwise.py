"""Blockwise parallel decoding: heads draft a block of tokens, and the base model verifies it.

Source: Stern et al. 2018, "Blockwise Parallel Decoding for Deep Autoregressive Models",
https://arxiv.org/abs/1811.03115; for the lossless rule Leviathan et al. 2023, "Fast Inference from
Transformers via Speculative Decoding", https://arxiv.org/abs/2211.17192
Signature: prefix predictor. One call drafts q_i = p(x_i | x_<j) for all tokens i >= j of a block,
and one call scores the draft with p_i = p(x_i | x_<i).
Assumption: none if the rounds suffice to verify every block. Otherwise the last round's draft, of
independent tokens, stays as it is behind its first refused token.
Budgets: `length` is the number of tokens placed, from the left, in blocks of `block` tokens of
which the last may be shorter. `steps` is the number k of rounds in which a block may be drafted,
verified and accepted. A round counts as two calls: a draft needs the token that the verification
before has corrected. The published heads save one of these calls.
Rules: `rule=lossless` accepts a drafted token x with probability min(1, p(x) / q(x)), and replaces
the first refused token by a draw from norm(max(p - q, 0)). If all tokens are accepted, the extra
token of the base model is the first draft of the next block, which is never refused. `rule=greedy`
accepts a token if it is the argmax of p, which is the same rule applied to point masses.
Given tokens: blocks consist of the other tokens. Drafts are shown the given tokens before the first
token that they draft, and the base model those before each token; neither sees what follows, as in
`gpt`.
KL: exact, by the sum over the places of refusal in each block.
Known: KL follows from F_r(j) = sum_m [prod_{j<=i<m} min(p_i, q_i)] (p_m - q_m)_+ F_{r-1}(m+1) +
prod_{i>=j} min(p_i, q_i), with F_0 the product of the last draft's q_i. A round fixes at least two
tokens, so that ceil(b / 2) rounds are exact for blocks of b tokens. If each draft is accepted with
probability a, then g drafts and the base model's own token make (1 - a^{g+1}) / (1 - a) tokens on
average. Greedy results are a single point. Given the sequence x that comes out, a draft of x_i was
accepted with probability min(1, q_i / p_i) if those before it were: acceptance rates and expected
rounds are means over draws of the base model's law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.laws import Categorical, TokenLaw
from capcheck.networks.signatures import PrefixPredictor, PrefixPredictorSignature, TokenPredictor
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.residual import residual_draws
from capcheck.procedures.rows import Row
from capcheck.procedures.speculation import Acceptances, acceptances, log_density_of_block

__all__ = ["Blockwise"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Blockwise(Probe[PrefixPredictor]):
    """Draws blocks of tokens in rounds of drafting, verification and acceptance."""

    family: ClassVar[str] = "blockwise"
    row: ClassVar[Row] = "length_outer"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})

    block: Annotated[int, Field(ge=1, description="number of tokens b of a block")] = 4
    rule: Annotated[Literal["lossless", "greedy"], Field(description="rule of acceptance")] = (
        "lossless"
    )

    @property
    def signature(self) -> PrefixPredictorSignature:
        """The prefix predictor: known tokens -> the law of every token given those before it."""
        return PrefixPredictorSignature()

    def run(
        self,
        network: PrefixPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """Yield the start, then one state per round; it writes the block's unfixed tokens."""
        self._require_kind(spec)
        state = start
        yield state
        place = torch.arange(spec.tokens, device=spec.mean.device).expand(start.n, -1)  # (n, N)
        for block in self._blocks(spec, budget.length):
            b, ends = len(block), place.new_tensor([*block, spec.tokens])
            number = torch.full_like(place[0], -1)  # (N,), index within the block
            number[block] = torch.arange(b, device=place.device)
            fixed = place.new_zeros(start.n, 1)  # (n, 1), number of final tokens
            for r in range(self._rounds(block, budget)):
                to_come = number >= fixed
                q = self._asked(network, state.tokens, place < ends[fixed], block)
                drafted = state.tokens.clone()
                drafted[:, block] = q.sample(rng).to(drafted)
                drafted = state.write(drafted, to_come).tokens
                p = self._asked(network, drafted, place <= block[-1], block)
                refused = self._first_refused(p, q, drafted[:, block], fixed, rng)
                stream = rng.stream(f"residual {block[0]} {r}")
                residual = residual_draws(p, q, refused, drafted[:, block], stream, spec.kind)
                mended = state.write(drafted, to_come)
                state = mended.write(residual, (number == refused) & to_come)
                state = dataclasses.replace(state, written=to_come)
                fixed = (refused + 1).clamp(max=b)
                if bool(to_come.any()):
                    yield state

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """The rounds of all blocks."""
        blocks = self._blocks(spec, budget.length)
        return sum(self._rounds(block, budget) for block in blocks)

    def suspects(self) -> tuple[Suspect, ...]:
        """Drafts that are left unverified, and the greedy rule."""
        found = []
        if self.rule == "greedy":
            lossless = dataclasses.replace(self, rule="lossless")
            cure = "the lossless rule of acceptance"
            found.append(Suspect(failure="limited emission", cure=cure, probe=lossless))
        if self.block > 1:
            one, cure = self.base_model, "blocks of one token"
            found.append(Suspect(failure="wrong factorisation", cure=cure, probe=one))
        return tuple(found)

    def log_density(
        self,
        network: PrefixPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity:
        """The sum of log F_k over the blocks and of the completion's log-marginals."""
        self._require_kind(spec)
        place = torch.arange(spec.tokens, device=x.device).expand(len(x), -1)
        log_q = x.new_zeros(len(x), dtype=spec.mean.dtype)
        for block in self._blocks(spec, budget.length):
            p = self._ruled(network(x, place <= block[-1]).select(block)).log_prob(x[:, block])
            drafts = [
                self._ruled(network(x, place < j).select(block)).log_prob(x[:, block])
                for j in block
            ]
            log_q = log_q + log_density_of_block(p, drafts, self._rounds(block, budget))
        rest = list(spec.free[budget.length :])
        if rest:
            placed = torch.ones_like(place, dtype=torch.bool)
            placed[:, rest] = False
            law = completion(x, placed).select(rest)
            log_q = log_q + law.log_prob(x[:, rest]).sum(1)
        return LogDensity(values=log_q, method="sum over the places of refusal in each block")

    @property
    def base_model(self) -> Blockwise:
        """The same procedure one token at a time, whose law is the base model's."""
        return dataclasses.replace(self, block=1)

    def speculation(self, network: PrefixPredictor, spec: SequenceSpec, x: Tensor) -> Acceptances:
        """The drafts that are accepted, and the rounds until every block is verified.

        The network is called b times for a block, of which some evenly spread ones are looked at;
        see `capcheck.procedures.speculation`. The greedy rule has no law to average over: it is
        followed along the one sequence that it writes behind the given tokens of each row.

        Args:
            network: As for `run`; calls are not counted.
            spec: As for `run`.
            x: (n, N, d), or (n, N) integers: draws of the law of `base_model`. Under the greedy
                rule only its given tokens are read.

        Raises:
            InputError: The network gives a row of x no probability.
            UnfitError: The greedy rule is asked for continuous tokens.
        """
        self._require_kind(spec)
        greedy, place = self.rule == "greedy", torch.arange(spec.tokens, device=x.device)
        if greedy:
            x = self._greedy(network, spec, x if spec.given else x[:1])

        def log_prob(tokens: list[int]) -> Tensor:
            law = network(x, (place < tokens[0]).expand(len(x), -1)).select(tokens)
            return self._ruled(law).log_prob(x[:, tokens])

        method = "mean over draws of the base model's law"
        if greedy:
            method = "mean over given tokens" if spec.given else "the one greedy sequence"
        blocks = self._blocks(spec, len(spec.free))
        exact = greedy and not spec.given
        return acceptances(log_prob, blocks, method=method, exact=exact)

    def _greedy(self, network: PrefixPredictor, spec: SequenceSpec, x: Tensor) -> Tensor:
        """The sequences that the greedy rule writes behind the given tokens of x, (n, N)."""
        y, place = x.clone(), torch.arange(spec.tokens, device=x.device)
        for i in spec.free:
            law = network(y, (place < i).expand(len(y), -1)).select([i])
            y[:, i] = law.mean()[:, 0].argmax(-1)
        return y

    def _blocks(self, spec: SequenceSpec, length: int) -> list[list[int]]:
        placed = spec.free[:length]
        starts = range(0, len(placed), self.block)
        return [list(placed[i : i + self.block]) for i in starts]

    def effective(self, spec: SequenceSpec, budget: Budget) -> Budget:
        """The rounds that can do anything; see `_rounds`."""
        block = range(max(1, min(self.block, len(spec.free))))
        return Budget(length=budget.length, steps=self._rounds(block, budget))

    def _rounds(self, block: Sequence[int], budget: Budget) -> int:
        """The number of rounds: the budget's, or ceil(b / 2) if that is smaller.

        Each round fixes at least two tokens of every row, so that more rounds would do nothing.
        """
        return min(budget.steps, -(-len(block) // 2))

    def _asked(
        self, network: PrefixPredictor, tokens: Tensor, known: Tensor, block: list[int]
    ) -> TokenLaw:
        """The laws of a block's tokens, held, since they are read several times."""
        return self._ruled(network(tokens, known).select(block).held())

    def _ruled(self, law: TokenLaw) -> TokenLaw:
        """The laws that the rule draws from, which are point masses under the greedy one."""
        if self.rule == "lossless":
            return law
        p = law.mean()
        return Categorical(torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1).log())

    def _first_refused(
        self, p: TokenLaw, q: TokenLaw, draft: Tensor, fixed: Tensor, rng: Randomness
    ) -> Tensor:
        """The index in the block of the first refused token, or b if there is none: (n, 1)."""
        accepted = (p.log_prob(draft) - q.log_prob(draft)).clamp(max=0).exp()  # (n, b)
        place = torch.arange(draft.shape[1], device=draft.device)
        # The law of the first draft is the base model's, although rounding may differ.
        accepted = torch.where(place <= fixed, 1, accepted)
        reached = accepted.cumprod(1)
        before = torch.cat([torch.ones_like(reached[:, :1]), reached[:, :-1]], 1)
        at = torch.cat([before * (1 - accepted), reached[:, -1:]], 1)  # (n, b + 1)
        return rng.categorical(at, (len(at), 1))

    def _require_kind(self, spec: SequenceSpec) -> None:
        if self.rule == "greedy" and spec.kind != "categorical":
            raise UnfitError(
                "rule=greedy needs categorical tokens, whose laws have an argmax that can match, "
                f"got {spec.kind} ones; use rule=lossless."
            )
