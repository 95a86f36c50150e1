"""A causal language model as a target: p(x) = prod_i p(x_i | prompt, x_<i) over N tokens.

Its own conditionals are those from left to right. A law that skips k earlier tokens is a sum over
their V^k values, which is made if they are few:

    p(x_i | seen) = sum over skipped of p(x_<i) p(x_i | x_<i) / sum over skipped of p(x_<i)

Laws given later tokens are known only if all V^N sequences are few enough to be listed. Any other
conditional is refused. The marginal laws of the tokens are then means of p(x_i | x_<i) over draws:
they are a scale of distances and a start of iterations, and nothing is certified by them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from capcheck.core.arguments import file_path, several, whole_number
from capcheck.core.errors import UnfitError
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.tiles import slices, tile_size
from capcheck.laws import Categorical, DeferredCategorical, TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.language_model import LOGITS, LanguageModel
from capcheck.targets.categorical.model_folder import ModelFolder
from capcheck.targets.categorical.sequence_law import sequences
from capcheck.targets.categorical.tables import from_table
from capcheck.targets.fingerprint import fingerprint
from capcheck.targets.parameters import MOST, require_count, require_precision
from capcheck.targets.products import Products
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import CategoricalTarget
from capcheck.targets.tokens import require_tokens

__all__ = ["AVERAGED", "DRAWS", "LISTED", "ONLY", "SUMMED", "CausalLM", "from_causal_lm"]

DRAWS = 16, 256  # fewest and most draws over which marginal laws are means
AVERAGED = 1 << 24  # most probabilities of these draws, if they are more than the fewest
LISTED = 4096  # most sequences V^N that are listed, for all conditionals
SUMMED = 4096  # most values V^k of skipped tokens that are summed over
ONLY = "a causal language model has left-to-right conditionals only"


def from_causal_lm(
    folder: str | Path,
    *,
    tokens: int,
    prompt: Sequence[int] = (),
    dtype: torch.dtype = torch.float64,
) -> CausalLM:
    """The law of the tokens that a causal language model writes behind a prompt.

    It is the law of exactly so many tokens at temperature 1: an id that ends a text is a symbol
    like any other. The extra `transformers` is needed, and weights in safetensors files.

    Args:
        folder: Folder of the model, as `save_pretrained` writes it.
        tokens: Number N of tokens, at least 1.
        prompt: Token ids before the first token; if none, the id that begins a text.
        dtype: Floating-point type of weights and computations, float64 or float32. A run converts
            the law to its own, which is float64 on a CPU and float32 on a GPU.

    Raises:
        InputError: The folder holds no such model, the prompt is not possible, or the model does
            not read so many tokens.
    """
    N = require_count("tokens", tokens, most=MOST)
    require_precision("dtype", dtype)
    ids = several("prompt", () if prompt is None else prompt, "token ids", "write [0]")
    before = [whole_number("prompt", one, 0) for one in ids]
    opened = ModelFolder.open(file_path("folder", folder, "the folder of a model"))
    model = LanguageModel(opened, prompt=before, dtype=dtype)
    model.require_length(N)
    return CausalLM(model, _spec_of(model, N))


class CausalLM(CategoricalTarget):
    """The law of N tokens behind a prompt; made by `from_causal_lm`.

    Args:
        model: The language model.
        spec: Specification of the sequences, with the moments of the tokens.
    """

    def __init__(self, model: LanguageModel, spec: SequenceSpec) -> None:
        self._model, self._spec = model, spec
        behind = f"behind a prompt of {len(model.prompt)}"
        about = "" if spec.estimated_from is None else ", marginal laws estimated from draws"
        self.provenance = Provenance(
            description=f"{spec.tokens} tokens of the language model {model.name} {behind}{about}"
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._model.dtype

    @property
    def device(self) -> torch.device:
        """Device of every computation."""
        return self._model.device

    @property
    def fingerprint(self) -> str:
        """Hash of the folder's config and weights, the prompt and the number of tokens."""
        facts = (self._model.folder.digest, self._model.prompt, self._spec.tokens)
        return fingerprint(type(self).__name__, facts, ())

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> CausalLM:
        """The same law on a device and in a precision."""
        model = self._model.to(device=device, dtype=dtype)
        mean, variance = (
            moment.to(model.device, dtype) for moment in (self._spec.mean, self._spec.variance)
        )
        twin = CausalLM(model, replace(self._spec, mean=mean, variance=variance))
        twin.provenance, twin.recipe = self.provenance, self.recipe
        return twin

    @property
    def left_to_right(self) -> bool:
        """Whether conditionals are known from left to right only: sequences are not listed."""
        return self._table is None

    @property
    def conditional_cost(self) -> float:
        """Multiply-adds of one row of `marginals` for all tokens."""
        if self._table is not None:
            return self._table.conditional_cost
        return self._model.work * (len(self._model.prompt) + self._spec.tokens)

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Draw n independent sequences from left to right, by inverse CDF: (n, N) integers."""
        return self._model.sample(rng.uniform((n, self._spec.tokens)).to(self.device))

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of the sequences x, in nats: (n,)."""
        require_tokens(self._spec, x)
        return self._model.log_prob(x)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TokenLaw:
        """The law of every token given the known ones, computed for the selected tokens only.

        Args:
            x: Tokens, (n, N) integers; unknown ones are ignored.
            levels: 0 where a token is known and 1 where it is not, (n, N).
            path: Irrelevant for token ids.
            causal: Whether token i is conditioned only on the tokens before it.

        Returns:
            An (n, N) token law. Reading it raises `UnfitError` if the law of a selected token is
            given later tokens, or skips earlier ones of too many values.
        """
        if self._table is not None:
            return self._table.marginals(x, levels, path, causal)
        require_tokens(self._spec, x, levels)
        known = levels == 0
        shown = torch.where(known, x, 0)
        make = functools.partial(self._laws, shown, known, causal)
        return DeferredCategorical(make, range(self._spec.tokens))

    def noisy_marginals(self, x: Tensor, keep: Tensor) -> TokenLaw | None:
        """The law of every clean token given uniform noise; None if sequences are not listed."""
        return None if self._table is None else self._table.noisy_marginals(x, keep)

    def products(self) -> Products | None:
        """The law as a mixture of single sequences; None if these are not listed."""
        return None if self._table is None else self._table.products()

    def mean_conditional_entropies(self) -> Tensor | None:
        """The mean entropies given m tokens, (N,) in nats; None if sequences are not listed."""
        return None if self._table is None else self._table.mean_conditional_entropies()

    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """Kernel mean of two independent draws; None if sequences are not listed."""
        return None if self._table is None else self._table.kernel_self_mean(bandwidth)

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """Kernel mean E k(x, Y), (n,).

        Raises:
            UnfitError: The sequences are not listed.
        """
        if self._table is None:
            raise UnfitError(f"{ONLY}, and no closed form of kernel means; use draws of it.")
        return self._table.kernel_mean(x, bandwidth)

    @functools.cached_property
    def _table(self) -> CategoricalMixture | None:
        """The law as a table, if it has few sequences."""
        return _table_of(self._model, self._spec.tokens)

    def _laws(self, x: Tensor, known: Tensor, causal: bool, of: list[int]) -> Categorical:
        """The laws of the tokens `of`, (n, S)."""
        V = self._spec.dim
        log_p = torch.full((len(x), len(of), V), -torch.inf, dtype=self.dtype, device=self.device)
        if not causal and bool(known[:, of].any()):
            of_known = torch.nn.functional.one_hot(x[:, of], V).to(log_p).log()
            log_p = torch.where(known[:, of, None], of_known, log_p)
        direct = sorted({i for i in of if self._is_next(known, i, causal)})
        if direct:
            column = [direct.index(i) for i in of if i in direct]
            chosen = [i in direct for i in of]
            log_p[:, chosen] = self._model.log_probs(x, direct)[:, column]
        for place, i in enumerate(of):
            if i in direct:
                continue
            for mask, rows in _by_mask(known):
                if causal or not bool(mask[i]):
                    log_p[rows, place] = self._law(x[rows], mask, causal, i)
        return Categorical(log_p)

    def _is_next(self, known: Tensor, i: int, causal: bool) -> bool:
        """Whether every row shows token i all tokens before it, and no others."""
        return bool(known[:, :i].all()) and (causal or not bool(known[:, i:].any()))

    def _law(self, x: Tensor, mask: Tensor, causal: bool, i: int) -> Tensor:
        """Log-probabilities (r, V) of token i given those of a mask (N,)."""
        if not causal and bool(mask[i + 1 :].any()):
            raise UnfitError(
                f"{ONLY}, and the law of a token given later ones was asked for; take gpt, "
                "multi_token, blockwise or parallel_solve."
            )
        skipped = (~mask[:i]).nonzero()[:, 0].tolist()
        if not skipped:
            return self._model.log_probs(x, [i])[:, 0]
        V, k = self._spec.dim, len(skipped)
        if V**k > SUMMED:
            raise UnfitError(
                f"{ONLY}, and a law that skips {k} earlier tokens is a sum over their {V}^{k} "
                f"values, more than the {SUMMED} allowed; take gpt without a window, "
                "parallel_solve, heads=1 or block=1, all at length N, or measure the model itself "
                "as the network."
            )
        values = torch.cat(list(sequences(V, k))).to(x.device)  # (V^k, k)
        places = range(skipped[0], i + 1)
        size = tile_size(LOGITS, self.device) // (len(values) * len(places) * V)
        parts = []
        for rows in slices(len(x), max(1, size)):
            filled = x[rows].repeat_interleave(len(values), 0)
            filled[:, skipped] = values.repeat(len(x[rows]), 1)
            log_p = self._model.log_probs(filled, places)  # (r V^k, S, V)
            before = filled[:, skipped[0] : i, None]
            evidence = log_p[:, :-1].gather(2, before)[..., 0].sum(1, keepdim=True)
            joint = (evidence + log_p[:, -1]).reshape(-1, len(values), V).logsumexp(1)
            parts.append(joint.log_softmax(1))
        return torch.cat(parts)


def _by_mask(masks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The distinct masks (N,) among rows (n, N) of bool, each with the indices of its rows."""
    distinct, group = masks.unique(dim=0, return_inverse=True)
    for number, mask in enumerate(distinct):
        yield mask, (group == number).nonzero()[:, 0]


def _table_of(model: LanguageModel, tokens: int) -> CategoricalMixture | None:
    """The law of some tokens as a table, or None if there are more than `LISTED` sequences."""
    V = model.symbols
    if V**tokens > LISTED:
        return None
    x = torch.cat(list(sequences(V, tokens))).to(model.device)
    return from_table(model.log_prob(x).exp().reshape((V,) * tokens))


def _spec_of(model: LanguageModel, tokens: int) -> SequenceSpec:
    """The specification of the sequences; the moments of many sequences are means over draws."""
    table, draws = _table_of(model, tokens), None
    if table is not None:
        p = table.spec.mean
    else:
        least, most = DRAWS
        draws = max(least, min(most, AVERAGED // (tokens * model.symbols)))
        rng = CounterRandomness(0, name="marginal laws", device=model.device)
        x = model.sample(rng.uniform((draws, tokens)))
        size = max(1, tile_size(LOGITS, model.device) // (tokens * model.symbols))
        p = torch.zeros(tokens, model.symbols, dtype=model.dtype, device=model.device)
        for rows in slices(draws, size):
            p += model.log_probs(x[rows], range(tokens)).exp().sum(0) / draws
    return SequenceSpec(
        tokens=tokens,
        kind="categorical",
        dim=model.symbols,
        mean=p,
        variance=p * (1 - p),
        estimated_from=draws,
    )
