"""A language model gives p(x_i | prompt, x_<i) for all i in one call; softmax of logits in nats.

The rows of a call are cut into tiles, so that neither the logits nor the keys and values of all
rows are held at once. A longer sequence is scored in one call, and drawn token by token with the
keys and values of the tokens before it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import inverse_cdf
from capcheck.core.tiles import slices, tile_size
from capcheck.targets.categorical.model_folder import ModelFolder
from capcheck.targets.parameters import require_count, require_precision

__all__ = ["LEAK", "LOGITS", "STATES", "LanguageModel"]

LOGITS = 1 << 24  # most logits of a tile: 128 MiB
STATES = 1 << 25  # most keys and values of a tile: 256 MiB
LEAK = 1e-3  # change of a logit with a later token that is attributed to rounding


class LanguageModel:
    """The conditionals of a causal language model, from left to right behind a prompt.

    The weights are loaded at the first use. A pickled model is its folder's path and digest.

    Args:
        folder: Folder of the model.
        prompt: Token ids before the first token; if none, the id that begins a text.
        dtype: Floating-point type of the computations, float32 or float64.
        device: Device of the computations.

    Raises:
        InputError: The config lacks the number of symbols, the prompt holds other ids, or there is
            no prompt and the config names no id that begins a text.
    """

    def __init__(
        self,
        folder: ModelFolder,
        *,
        prompt: Sequence[int] = (),
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        require_precision("dtype", dtype)
        self.folder, self.dtype, self.device = folder, dtype, torch.device(device)
        self.symbols = require_count("vocab_size", folder.config.get("vocab_size"))
        begin = folder.config.get("bos_token_id")
        self.prompt = tuple(prompt) or ((begin,) if isinstance(begin, int) else ())
        if not self.prompt:
            raise InputError(
                f"prompt must hold an id, as the config of {str(folder.path)!r} names none that "
                "begins a text, got none; give the ids before the first token."
            )
        for one in self.prompt:
            if not isinstance(one, int) or not 0 <= one < self.symbols:
                raise InputError(
                    f"prompt must hold token ids from 0 to {self.symbols - 1}, got {one!r}."
                )

    def __reduce__(self) -> tuple[Any, ...]:
        folder = self.folder
        return _again, (str(folder.path), folder.digest, self.prompt, self.dtype, str(self.device))

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> LanguageModel:
        """The same model on a device and in a precision."""
        if (torch.device(device), dtype) == (self.device, self.dtype):
            return self
        return LanguageModel(self.folder, prompt=self.prompt, dtype=dtype, device=device)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.path.resolve().name

    @functools.cached_property
    def work(self) -> float:
        """Multiply-adds for one token: the number of weights."""
        return float(sum(weight.numel() for weight in self._module.parameters()))

    def require_length(self, tokens: int) -> None:
        """Raise InputError unless sequences of so many tokens fit behind the prompt."""
        config = self._module.config.get_text_config()
        most = getattr(config, "max_position_embeddings", None)
        if isinstance(most, int) and len(self.prompt) + tokens - 1 > most:
            raise InputError(
                f"tokens must be at most {most + 1 - len(self.prompt)}, as {self.name} reads "
                f"{most} tokens with the prompt of {len(self.prompt)}, got {tokens}."
            )

    def log_probs(self, x: Tensor, places: Sequence[int]) -> Tensor:
        """The log-probabilities (nats) of the tokens at some places, each given those before it.

        Args:
            x: Tokens, (n, N) integers, of which those before the last place are read.
            places: Indices of S tokens, in rising order, from 0 to N.

        Returns:
            (n, S, V).
        """
        length = len(self.prompt) + places[-1]
        width = len(places) if self._keeps else length
        size = max(1, tile_size(LOGITS, self.device) // (width * self.symbols))
        at = torch.tensor(places, device=self.device) + len(self.prompt) - 1
        parts = []
        for rows in slices(len(x), size):
            ids = self._behind_prompt(x[rows, : places[-1]])
            if self._keeps:
                logits = self._run(ids, use_cache=False, logits_to_keep=at).logits
            else:
                logits = self._run(ids, use_cache=False).logits[:, at]
            parts.append(logits.to(self.dtype).log_softmax(-1))
        return torch.cat(parts)

    def log_prob(self, x: Tensor) -> Tensor:
        """The joint log-probability (nats) of the sequences x (n, N), given the prompt: (n,)."""
        N = x.shape[1]
        size = max(1, tile_size(LOGITS, self.device) // (N * self.symbols))
        parts = []
        for rows in slices(len(x), size):
            log_p = self.log_probs(x[rows], range(N))
            parts.append(log_p.gather(2, x[rows, :, None].long())[..., 0].sum(1))
        return torch.cat(parts)

    def sample(self, u: Tensor) -> Tensor:
        """The sequences that uniform numbers u (n, N) in (0, 1) draw by inverse CDF: (n, N)."""
        N = u.shape[1]
        states = (len(self.prompt) + N) * self._states + self.symbols
        size = max(1, tile_size(STATES, self.device) // states)
        return torch.cat([self._drawn(u[rows]) for rows in slices(len(u), size)])

    def _drawn(self, u: Tensor) -> Tensor:
        x = torch.zeros(u.shape, dtype=torch.int64, device=self.device)
        new, kept = self._behind_prompt(x[:, :0]), None
        cache = "cache" if "cache" in self._takes else "past_key_values"
        last = {"logits_to_keep": 1} if self._keeps else {}
        for i in range(u.shape[1]):
            found = self._run(new, use_cache=True, **{cache: kept}, **last)
            p = found.logits[:, -1].to(self.dtype).softmax(-1)
            x[:, i] = inverse_cdf(p, u[:, i : i + 1])[:, 0]
            new, kept = x[:, i : i + 1], found[cache]
        return x

    def _behind_prompt(self, x: Tensor) -> Tensor:
        prompt = torch.tensor(self.prompt, device=self.device).expand(len(x), -1)
        return torch.cat([prompt, x.to(self.device, torch.int64)], 1)

    def _run(self, ids: Tensor, **options: Any) -> Any:
        with torch.no_grad():
            return self._module(input_ids=ids, **options)

    @functools.cached_property
    def _takes(self) -> frozenset[str]:
        """Names of the arguments of the model."""
        return frozenset(inspect.signature(self._module.forward).parameters)

    @property
    def _keeps(self) -> bool:
        """Whether the model can be asked for the logits of some places only."""
        return "logits_to_keep" in self._takes

    @property
    def _states(self) -> int:
        """Numbers in the keys and values of one token, at most."""
        config = self._module.config.get_text_config()
        return 2 * int(config.num_hidden_layers) * int(config.hidden_size)

    @functools.cached_property
    def _module(self) -> Any:
        """The model of `transformers`.

        Raises:
            InputError: It has other logits than its config says, or looks at later tokens.
        """
        module = self.folder.load(dtype=self.dtype, device=self.device)
        ids = torch.tensor([[*self.prompt, 0], [*self.prompt, self.symbols - 1]])
        with torch.no_grad():
            logits = module(input_ids=ids.to(self.device), use_cache=False).logits
        if logits.shape != (*ids.shape, self.symbols) or not bool(logits.isfinite().all()):
            raise InputError(
                f"model folder {str(self.folder.path)!r} must give {self.symbols} finite logits "
                "for each token, and does not; save the model again."
            )
        before, after = logits[:, :-1]
        if float((before - after).abs().max()) > LEAK * (1 + float(before.abs().max())):
            raise InputError(
                f"model folder {str(self.folder.path)!r} must hold a causal model, and what it "
                "says of a token changes with a later one; take a decoder."
            )
        return module


def _again(
    path: str, digest: str, prompt: tuple[int, ...], dtype: torch.dtype, device: str
) -> LanguageModel:
    """The pickled model, from its folder.

    Raises:
        InputError: The folder is not there, or its content has changed.
    """
    folder = ModelFolder.open(Path(path))
    if folder.digest != digest:
        raise InputError(
            f"model folder {path!r} must not change during a run, and its content has; start the "
            "run anew."
        )
    return LanguageModel(folder, prompt=prompt, dtype=dtype, device=device)
