"""A causal language model in a local folder as a built-in target, by a spec.

`causal-lm:folder=PATH,tokens=8,prompt=464 3290`; the path may have no commas.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from capcheck.core.errors import InputError
from capcheck.targets.categorical.causal_lm import from_causal_lm
from capcheck.targets.target import Target

__all__ = ["TOKENS", "causal_lm", "ids_of"]

TOKENS = 8  # tokens of a sequence by default


def causal_lm(
    folder: Annotated[str | None, Field(description="folder of the model, which is needed")] = None,
    tokens: Annotated[
        int | None, Field(ge=1, le=65_536, description="tokens of a sequence, 8 if left out")
    ] = None,
    prompt: Annotated[
        str | None, Field(description="token ids before the first token, with spaces between")
    ] = None,
) -> Target:
    """Tokens of a causal language model in a local folder (capcheck[transformers])."""
    if folder is None:
        raise InputError("causal-lm.folder must be given, as in causal-lm:folder=PATH.")
    return from_causal_lm(folder, tokens=tokens or TOKENS, prompt=ids_of(prompt or ""))


def ids_of(text: str) -> list[int]:
    """The token ids of a text that lists them with spaces between.

    Raises:
        InputError: A part of the text is no whole number.
    """
    parts = text.split()
    for part in parts:
        if not part.isdecimal():
            raise InputError(
                f"prompt must list token ids with spaces between, got {part!r}; write 464 3290."
            )
    return [int(part) for part in parts]
