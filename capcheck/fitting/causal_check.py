"""Causal check: a network's answer for token i may depend only on the tokens that i sees.

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

ROWS = 3  # sequences in each call of a check
LEAK = 1e-3  # relative change of an answer that is attributed to rounding


def require_causal(
    network: Callable[..., Any], signature: Signature[Any], spec: SequenceSpec, *, name: str
) -> None:
    """Raise NetworkError if the answer for a token depends on tokens that this token does not see.

    The tokens are changed one at a time, and the answers for tokens that do not see the changed one
    must stay the same. In a prefix predictor, token i sees the tokens before it; in a causal
    denoiser, also itself; in a denoiser with a view of its own, itself and the tokens at level 0
    (in this check, every second token is at level 0).

    Args:
        network: Network in the form in which a procedure calls it.
        signature: Signature of the network; only those in the module's table are checked.
        spec: Spec of the sequences.
        name: Name of the network, for error messages.
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
    """The largest relative change of the answer for each token, (n, N).

    Means are compared in standard deviations of the token, and log-densities at the points `at`
    relative to 1 plus their size, so that the result does not depend on the tokens' unit.
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
    """Sequences of independent random tokens, (ROWS, N, d) or (ROWS, N).

    Args:
        spec: Spec of the sequences.
        name: Name of the random draw; different names give different sequences.
    """
    rng = CounterRandomness(0, name=name, device=spec.mean.device)
    if spec.kind == "categorical":
        even = torch.ones(spec.dim, dtype=torch.float64, device=spec.mean.device)
        return rng.categorical(even, (ROWS, spec.tokens))
    noise = rng.normal((ROWS, spec.tokens, spec.dim)).to(spec.mean)
    return spec.mean + spec.variance.sqrt() * noise
