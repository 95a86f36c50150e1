"""Fitted noisy token predictors: their default module, and the cross-entropy that they minimise.

The module's trunk predicts a clean token from all tokens shown, and the evidence of the token
itself is multiplied on: the law is softmax(h + log q(x_t | x_0)) with the numbers h of the trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.architecture import Architecture
from capcheck.fitting.denoisers import trunk
from capcheck.fitting.heads import SoftmaxHead
from capcheck.fitting.levels import LEVEL_CHANNELS, level_features
from capcheck.fitting.likelihoods import CrossEntropy
from capcheck.fitting.predictors import ShownTokens
from capcheck.fitting.recording import Call, Pool
from capcheck.laws import Categorical, TokenLaw
from capcheck.noise.uniform import evidence_floor
from capcheck.targets.target import Target

__all__ = ["SMALLEST", "NoisyPredictorModule", "denoised"]

SMALLEST = 1e-30  # smallest floor, so that the evidence of a clean token is finite


class NoisyPredictorModule(nn.Module):
    """A noisy token predictor, (tokens, keep) -> the law of every clean token.

    Args:
        spec: Spec of the sequences.
        size: Kind and size of the trunk.
    """

    def __init__(self, spec: SequenceSpec, size: Architecture) -> None:
        super().__init__()
        self.shown = ShownTokens(spec)
        self.head = SoftmaxHead(spec.dim)
        self.trunk = trunk(spec, size, spec.dim + LEVEL_CHANNELS, self.head.numbers)

    def forward(self, tokens: Tensor, keep: Tensor) -> TokenLaw:
        """The (n, N) laws of the clean tokens."""
        x = torch.where(keep[..., None] > 0, self.shown(tokens), 0.0)
        h = self.trunk(torch.cat([x, level_features(1 - keep)], -1), None)
        floor = evidence_floor(keep, x.shape[-1]).clamp(min=SMALLEST)
        return Categorical(self.head(h).log_probabilities - x * floor.log()[..., None])


def denoised(
    target: Target, oracle: Callable[..., TokenLaw], calls: Sequence[Call]
) -> CrossEntropy:
    """Cross-entropy on fresh draws with uniform noise of recorded keep-probabilities.

    Tokens count in the loss if they are not clean and the procedure used their laws.
    """

    def keep_and_use(call: Call) -> Tensor:
        keep = call.more[0]
        return torch.cat([keep, call.used.to(keep).expand(len(call.shown), -1)], 1)

    pool, N, V = Pool.of(calls, keep_and_use), target.spec.tokens, target.spec.dim

    def questions(n: int, rng: Randomness) -> tuple[tuple[Tensor, ...], TokenLaw, Tensor, Tensor]:
        x_0 = target.sample(n, rng.stream("target"))
        keep, used = pool.draw(n, rng.stream("levels")).split([N, N], 1)
        kept = rng.stream("kept").uniform((n, N)).to(keep) < keep
        even = torch.ones(V, dtype=torch.float64)
        x = torch.where(kept, x_0, rng.stream("noise").categorical(even, (n, N)).to(x_0))
        return (x, keep), oracle(x, keep), x_0, (used > 0) & (keep < 1)

    return CrossEntropy(questions=questions, exact=True)
