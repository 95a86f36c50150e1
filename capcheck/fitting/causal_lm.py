"""A causal language model in the oracle's place: `causal-lm:folder=PATH,prompt=464 3290`.

For token i the model is shown the prompt and then the known tokens before i, one directly behind
the other. Behind a prefix this is p(x_i | x_<i); with a window, it is the model on a text that was
cut off, as people run it; a token further ahead gets the law of the next one, as the model has no
other head. Known tokens after i are not shown. The symbols 0..V-1 of the procedure are the model's
first V ids; the law is that of these alone, normalised, if the model has more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError, near
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, DeferredCategorical, TokenLaw
from capcheck.networks.signatures import (
    PrefixPredictorSignature,
    Signature,
    TokenPredictorSignature,
)
from capcheck.targets.categorical.language_model import LanguageModel
from capcheck.targets.categorical.model_folder import ModelFolder
from capcheck.targets.language_models import ids_of

__all__ = ["KEYS", "NAME", "CausalNetwork", "is_causal_lm", "network_of", "require_spec"]

NAME = "causal-lm"
KEYS = ("folder", "prompt")


class CausalNetwork:
    """A token predictor and a prefix predictor by a language model.

    Args:
        model: The language model, of at least V symbols.
        symbols: Number V of values of a token.
    """

    def __init__(self, model: LanguageModel, symbols: int) -> None:
        self._model, self._symbols = model, symbols

    def __call__(self, tokens: Tensor, known: Tensor, /) -> TokenLaw:
        """The law of every token given the known tokens before it, an (n, N) law."""
        before = known.long().cumsum(1) - known.long()  # (n, N), number of known tokens before i
        order = (~known).long().argsort(dim=1, stable=True)
        shown = torch.where(known, tokens, 0).gather(1, order)  # the known tokens first

        def make(of: list[int]) -> Categorical:
            places, column = before[:, of].unique(return_inverse=True)
            log_p = self._model.log_probs(shown, places.tolist())[..., : self._symbols]
            return Categorical(log_p.gather(1, column[..., None].expand(-1, -1, self._symbols)))

        return DeferredCategorical(make, range(known.shape[1]))


def is_causal_lm(network: str) -> bool:
    """Whether a network's name is that of a language model."""
    return network.partition(":")[0] == NAME


def require_spec(network: str) -> tuple[ModelFolder, list[int]]:
    """The checked folder and the prompt of a language model's name.

    Raises:
        InputError: A key is unknown or given twice, the folder is missing or holds no such model,
            or the prompt is no list of token ids.
    """
    found: dict[str, str] = {}
    for item in network.partition(":")[2].split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in KEYS:
            raise InputError(f"network {NAME} has no {key!r}; {near(key, KEYS)}")
        if key in found:
            raise InputError(f"network {NAME} is given {key} twice; give it once.")
        found[key] = value
    if not found.get("folder"):
        raise InputError(f"network {NAME} needs a folder, got {network!r}; add folder=PATH.")
    return ModelFolder.open(found["folder"]), ids_of(found.get("prompt", ""))


def network_of(network: str, signature: Signature[Any], spec: SequenceSpec) -> CausalNetwork:
    """The network of a language model's name, on the device and in the precision of a procedure.

    Args:
        network: Name of the network.
        signature: Signature of the procedure's network.
        spec: Specification of the procedure's sequences.

    Raises:
        InputError: The signature is no predictor of tokens from known tokens, or the model has too
            few symbols or reads too few tokens.
    """
    if not isinstance(signature, (TokenPredictorSignature, PrefixPredictorSignature)):
        raise InputError(
            f"network {network} predicts tokens from those before, and this family is not one of "
            f"that: its network is {type(signature).__name__.removesuffix('Signature')}; take gpt, "
            "blockwise or parallel_solve."
        )
    if spec.kind != "categorical":
        raise InputError(f"network {network} needs categorical tokens, got {spec.kind} ones.")
    folder, prompt = require_spec(network)
    model = LanguageModel(folder, prompt=prompt, dtype=spec.mean.dtype, device=spec.mean.device)
    if model.symbols < spec.dim:
        raise InputError(
            f"network {network} must have at least the {spec.dim} symbols of the target, got "
            f"{model.symbols}; take a model of the target's symbols."
        )
    model.require_length(spec.tokens)
    return CausalNetwork(model, spec.dim)
