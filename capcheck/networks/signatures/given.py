"""Given tokens as arguments of networks that make a whole sequence in one call.

A generator, a bijection and a decoder are called with their normals alone where nothing is given,
`network(z)`, and with what is given where tokens are, `network(z, tokens, known)`:

- tokens (n, N, d), or (n, N) integers, of which the values of unknown tokens mean nothing;
- known (n, N) bool, which tokens are given.

z has a number for each number of a sequence either way; those of given tokens are not used. What a
network answers for given tokens means nothing: they keep their values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures.token_predictor import hidden

__all__ = ["given_arguments", "hide_given"]


def given_arguments(tokens: Tensor, spec: SequenceSpec) -> tuple[Tensor, ...]:
    """What a network is shown beside its normals: nothing, or tokens and which of them are given.

    Args:
        tokens: (n, N, d), or (n, N) integers, with the values of given tokens in place.
        spec: Of the sequences.
    """
    if not spec.given:
        return ()
    known = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    known[:, list(spec.given)] = True
    return tokens, known


def hide_given(shown: tuple[Tensor, ...], spec: SequenceSpec) -> tuple[Tensor, ...]:
    """The arguments of a call, in which all values of unknown tokens look the same.

    Args:
        shown: (z,) or (z, tokens, known).
        spec: Of the sequences.
    """
    if len(shown) == 1:
        return shown
    z, tokens, known = shown
    return z, hidden(tokens, known, spec), known
