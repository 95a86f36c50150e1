"""Tokens that stand in for refused drafts: draws from norm(max(p - q, 0)).

A draft that is drawn from q and accepted with probability min(1, p / q), or else replaced by such a
draw, has the law p. Token ids are drawn from the table of max(p - q, 0), and continuous tokens by
rejection: a proposal from p is kept with probability 1 - min(1, q / p).

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
https://arxiv.org/abs/2211.17192, section 2.3
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind
from capcheck.laws import TokenLaw

__all__ = ["PROPOSALS", "TRIED", "residual_draws"]

# Largest number of proposals for one draw from a continuous residual; a draw needs more of them
# with a probability of 0.006 at most.
PROPOSALS = 64
TRIED = 8  # number of these proposals that are made at once


def residual_draws(
    p: TokenLaw, q: TokenLaw, refused: Tensor, draft: Tensor, rng: Randomness, kind: Kind
) -> Tensor:
    """Draw the refused tokens again, from norm(max(p - q, 0)).

    Args:
        p: Laws of a block under the base model, (n, b).
        q: Laws of the drafts, (n, b).
        refused: Index of the refused token in the block, (n, 1); b where no draw is needed.
        draft: The drafts, (n, b, d), or (n, b) integers.
        rng: Random stream that is used for this only.
        kind: Kind of the tokens.

    Returns:
        Drawn tokens, (n, 1, d), or (n, 1) integers; others mean nothing where none is needed.
    """
    b = draft.shape[1]
    if kind == "categorical":
        chosen = refused == torch.arange(b, device=refused.device)  # (n, b)
        P, Q = (law.probabilities_where(chosen) for law in (p, q))  # (m, V)
        excess = (P - Q).clamp(min=0)
        some = excess.sum(1, keepdim=True) > 0  # rounding may refuse where p = q
        return rng.categorical_where(torch.where(some, excess, P), refused < b)
    found = draft[:, :1].clone()
    for i in range(b):
        rows = (refused[:, 0] == i).nonzero()[:, 0]
        if len(rows):
            own = p.select([i]), q.select([i])
            found[rows] = _kept_proposals(*own, rows, len(draft), rng.stream(f"{i}")).to(found)
    return found


def _kept_proposals(p: TokenLaw, q: TokenLaw, rows: Tensor, n: int, rng: Randomness) -> Tensor:
    """Draw from the residual by rejection in some rows: (r, 1, d).

    A proposal from p is kept with probability 1 - min(1, q / p), and the last of PROPOSALS is kept
    in any case. If drafts are refused with probability D, the last one is kept without this test in
    a share D (1 - D)^PROPOSALS of all draws, which is 0.37 / PROPOSALS at most.

    Args:
        p: Law of one token, (n, 1).
        q: Law of the draft of this token, (n, 1).
        rows: Indices of the r rows that need a draw, at least one.
        n: Number of rows of the laws.
        rng: Random stream that is used for this only, since its length depends on the rows.
    """
    found: Tensor | None = None
    places, open_rows, tried = torch.arange(len(rows), device=rows.device), rows, [0] * TRIED
    for _ in range(PROPOSALS // TRIED):
        p_open, q_open = (law.rows(open_rows).select(tried) for law in (p, q))
        proposals = p_open.sample(rng)  # (open, TRIED, d)
        ratio = (q_open.log_prob(proposals) - p_open.log_prob(proposals)).clamp(max=0).exp()
        kept = rng.uniform((n, TRIED))[open_rows].to(ratio) >= ratio  # (open, TRIED)
        some = kept.any(1, keepdim=True)
        first = torch.where(some, kept.int().argmax(1, keepdim=True), TRIED - 1)
        drawn = proposals.take_along_dim(first[..., None], 1)
        found = drawn if found is None else found.index_copy_(0, places, drawn)
        places, open_rows = places[~some[:, 0]], open_rows[~some[:, 0]]
        if len(open_rows) == 0:
            break
    assert found is not None
    return found
