"""Causal check: a network's answer for a token must not depend on tokens that it does not see.

| signature | token i sees |
|---|---|
| prefix predictor | the tokens before it |
| denoiser, causal | the tokens up to itself |
| denoiser, with a view of its own | itself and the tokens at level 0 |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import NetworkError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.networks.signatures import DenoiserSignature, PrefixPredictorSignature, Signature

__all__ = ["LEAK", "ROWS", "any_tokens", "require_causal"]

ROWS = 3  # sequences that a network is shown
LEAK = 1e-3  # of an answer that may change with what has no say in it: rounding


def require_causal(
    network: Callable[..., Any], signature: Signature[Any], spec: SequenceSpec, *, name: str
) -> None:
    """Raise NetworkError if an answer for a token depends on tokens that this one does not see.

    Tokens are changed one after another; no answer may move for a token that does not see them: of
    a prefix predictor token i sees those before it, of a causal denoiser also itself, and of one
    with a view of its own itself and the tokens at level 0, of which every second one is.

    Args:
        network: As a procedure calls it.
        signature: A prefix predictor's, or that of a denoiser with a causal view or its own; any
            other passes.
        spec: Of the sequences.
        name: Of the network, for the sentence.
    """
    x, other = (any_tokens(spec, draw) for draw in ("tokens", "others"))
    N, device = spec.tokens, x.device
    rule = "look ahead"
    sees = torch.ones(N, N, dtype=torch.bool, device=device).tril()  # [i, j]: i sees j
    if isinstance(signature, PrefixPredictorSignature):
        sees, cure = sees.tril(-1), "mask token i and what follows it"
        second = torch.ones(x.shape[:2], dtype=torch.bool, device=device)
    elif isinstance(signature, DenoiserSignature) and signature.view != "all":
        second = torch.full(x.shape[:2], 0.5, dtype=x.dtype, device=device)
        cure = "mask what follows token i"
        if signature.view == "own":
            second[:, ::2] = 0
            sees = (second[0] == 0) | torch.eye(N, dtype=torch.bool, device=device)
            rule, cure = "look at other noisy tokens", "mask the noisy tokens beside token i"
    else:
        return
    try:
        with torch.no_grad():
            before = network(x, second)
            for j in range(N):
                changed = x.clone()
                changed[:, j] = other[:, j]
                moved = _changes(before, network(changed, second), (x, other), spec).amax(0)
                leaks = (moved > LEAK) & ~sees[:, j]
                if bool(leaks.any()):
                    i = int(leaks.nonzero()[0])
                    raise NetworkError(
                        f"network {name} must not {rule}, and its answer for token {i} changes "
                        f"with token {j}; {cure}."
                    )
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(
            f"network {name} must answer for tokens that are all known, and raised "
            f"{type(error).__name__}: {error}."
        ) from error


def _changes(before: Any, after: Any, at: Sequence[Tensor], spec: SequenceSpec) -> Tensor:
    """The largest change of the answer for a token, (n, N), the same for tokens of any size.

    It is that of the mean, in deviations of the token, or of the log-density at one of some points,
    as a share of it.
    """
    own = spec.variance.double().sqrt() if spec.kind == "continuous" else torch.ones(1)
    unit = torch.where(own > 0, own, 1).to(spec.mean.device)
    means = [a.mean() if isinstance(a, TokenLaw) else a for a in (before, after)]
    found = [((means[1] - means[0]).double() / unit).abs().amax(-1)]
    for x in at if isinstance(before, TokenLaw) else ():
        p, q = (law.log_prob(x).double() for law in (before, after))
        share = (q - p).abs() / (1 + p.abs())
        found.append(torch.where(p == q, 0, share.nan_to_num(nan=math.inf, posinf=math.inf)))
    return torch.stack(found).amax(0)


def any_tokens(spec: SequenceSpec, name: str) -> Tensor:
    """Some sequences, (ROWS, N, d) or (ROWS, N), independent token by token.

    Args:
        spec: Of the sequences.
        name: Of the draw; another name is another draw.
    """
    rng = CounterRandomness(0, name=name, device=spec.mean.device)
    if spec.kind == "categorical":
        even = torch.ones(spec.dim, dtype=torch.float64, device=spec.mean.device)
        return rng.categorical(even, (ROWS, spec.tokens))
    noise = rng.normal((ROWS, spec.tokens, spec.dim)).to(spec.mean)
    return spec.mean + spec.variance.sqrt() * noise
