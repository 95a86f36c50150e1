"""Given tokens as arguments of networks that make a whole sequence in one call.

Generators, bijections and decoders are called as `network(z)` if no token is given, and as
`network(z, tokens, known)` otherwise:

- tokens: (n, N, d), or (n, N) integers; the values of unknown tokens mean nothing;
- known: whether a token is given, (n, N) bool.

In both cases z has the same shape; a generator or bijection ignores the normals of given tokens.
The network's answers for given tokens are ignored, since these tokens keep their values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures.token_predictor import hidden

__all__ = ["given_arguments", "hide_given"]


def given_arguments(tokens: Tensor, spec: SequenceSpec) -> tuple[Tensor, ...]:
    """The arguments `(tokens, known)` of a network after z, or `()` if no token is given.

    Args:
        tokens: Tokens, (n, N, d), or (n, N) integers, with the values of given tokens in place.
        spec: Spec of the sequences; it says which tokens are given.
    """
    if not spec.given:
        return ()
    known = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    known[:, list(spec.given)] = True
    return tokens, known


def hide_given(shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
    """The arguments of a call, with the same value for every unknown token.

    Args:
        shown: Arguments (z,) or (z, tokens, known).
        spec: Spec of the sequences.
    """
    if len(shown) == 1:
        return shown
    z, tokens, known = shown
    return z, hidden(tokens, known, spec), known
