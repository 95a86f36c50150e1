"""Scratchpad tasks: tokens that only help, and a predictor that sees a window.

A target may hold auxiliary tokens, which are placed like any other and marginalised out of the
divergences (`SequenceSpec.scored`). With a predictor that sees only the tokens within a window, a
long-range task becomes representable when there is room to write intermediate results: the
chain-of-thought effect. Running composition in a group G of inputs g_1..g_n is such a task:

    with scratch    g_1 p_1 g_2 p_2 .. g_n p_n,  p_i = p_{i-1} g_i: each follows from two neighbours
    without         g_1 g_2 .. g_n p_n: the answer needs all inputs
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, DeferredCategorical
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.categorical.automata import composition
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.parameters import require_count
from capcheck.targets.target import CategoricalTarget, fingerprint


class Windowed(CategoricalTarget):
    """A law whose predictor sees only tokens at most `window` places away, and which it scores.

    Args:
        law: The joint law of all tokens.
        window: Distance up to which other tokens are seen, at least 0.
        scored: Tokens that count in the divergences; the others are auxiliary.
    """

    def __init__(
        self, law: CategoricalTarget, *, window: int, scored: tuple[int, ...] | None = None
    ) -> None:
        if not isinstance(law, CategoricalTarget):
            raise InputError(
                f"law must be of categorical tokens, got a {type(law).__name__}; "
                "pass one of token ids, such as a MarkovChain."
            )
        require_count("window", window, least=0)
        inside, scored = set(range(law.spec.tokens)), None if scored is None else tuple(scored)
        if scored is not None and not (
            scored and set(scored) <= inside and sorted(set(scored)) == list(scored)
        ):
            raise InputError(
                f"scored must list some of the tokens 0 to {law.spec.tokens - 1} in rising order, "
                f"got {scored}."
            )
        self._law = law
        self._window = window
        self._spec = dataclasses.replace(law.spec, scored=scored)
        description = f"{law.provenance.description}; the predictor sees {window} tokens each way"
        self.provenance = law.provenance.model_copy(update={"description": description})

    @property
    def spec(self) -> SequenceSpec:
        """As the law's, with the scored tokens."""
        return self._spec

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._law.dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._law.device

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the law, the window and the scored tokens."""
        facts = (self._law.fingerprint, self._window, self._spec.scored)
        return fingerprint("windowed", facts, ())

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Windowed:
        """The same law, computed elsewhere or in another precision."""
        law = self._law.to(device=device, dtype=dtype)
        twin = Windowed(law, window=self._window, scored=self._spec.scored)
        twin.provenance = self.provenance
        return twin

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Draws of the joint law: (n, N) integers."""
        return self._law.sample(n, rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of all tokens, in nats: (n,)."""
        self._require(x)
        return self._law.log_prob(x)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones within its window."""
        self._require(x, levels)
        place = torch.arange(self._spec.tokens, device=x.device)

        def make(tokens: list[int]) -> Categorical:
            laws = []
            for i in tokens:
                outside = ((place - i).abs() > self._window).to(levels)
                law = self._law.marginals(x, torch.maximum(levels, outside), path, causal)
                laws.append(law.select([i]).mean())
            return Categorical(torch.cat(laws, 1).log())

        return DeferredCategorical(make, range(self._spec.tokens))

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """Of the law of all tokens; see `Target`."""
        return self._law.kernel_mean(x, bandwidth)

    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """Of the law of all tokens; see `Target`."""
        return self._law.kernel_self_mean(bandwidth)


def running_parity(inputs: int, *, scratch: bool, window: int) -> Windowed:
    """Uniform bits, and whether an odd number of them is set."""
    law = composition("parity", inputs, 2, lambda p, g: p ^ g, scratch=scratch)
    return _composition(law, scratch, window)


def running_permutation(inputs: int, *, scratch: bool, window: int) -> Windowed:
    """Uniform permutations of three things, and what they compose to."""
    group = list(itertools.permutations(range(3)))

    def compose(p: int, g: int) -> int:
        return group.index(tuple(group[p][j] for j in group[g]))

    law = composition("permutation composition", inputs, 6, compose, scratch=scratch)
    return _composition(law, scratch, window)


def _composition(law: HiddenMarkov, scratch: bool, window: int) -> Windowed:
    """Inputs and the last result count; without a scratchpad these are all tokens."""
    N = law.spec.tokens
    return Windowed(law, window=window, scored=(*range(0, N, 2), N - 1) if scratch else None)
