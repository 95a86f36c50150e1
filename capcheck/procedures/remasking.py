"""Remasking: a step of masked diffusion that masks known tokens again, and reveals more in turn.

A step from level t to s, with alpha_t = 1 - t the share of known tokens, masks a known token again
with probability sigma_t, and reveals a masked one with probability

    (alpha_s - (1 - sigma_t) alpha_t) / (1 - alpha_t),

so that the share of known tokens is alpha_s afterwards, whatever sigma_t is from 0 up to
sigma_max = min(1, (1 - alpha_s) / alpha_t).

| rule | sigma_t |
|---|---|
| `none` | 0 |
| `full` | 1 - alpha_s: a token is known afterwards with the same probability, known or not |
| `max` | sigma_max |
| `cap` | min(eta, sigma_max) |
| `rescale` | eta sigma_max |
| `loop` | min(eta, sigma_max) while alpha is held, 0 otherwise |

All rules but `loop` have alpha_t = 1 - t. There alpha_t rises evenly from 0 to a value that it is
held at while t falls from one time to another, and evenly to 1 after that, so that a share of the
steps does nothing but draw tokens again.

Source: Wang, Schiff, Sahoo & Kuleshov 2025, "Remasking Discrete Diffusion Models with
Inference-Time Scaling", section 4, https://arxiv.org/abs/2503.00307
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ROUNDING", "Chances", "Remasking", "RemaskingRule"]

ROUNDING = 1e-9  # largest rounding error of a time

RemaskingRule = Literal["full", "max", "cap", "rescale", "loop"]
"""Rule for the probability that a known token is masked again; see the module's docstring."""


@dataclass(frozen=True, kw_only=True)
class Chances:
    """What a step does to each token, independently of the others.

    Attributes:
        keep: Probability that a known token stays known, 1 - sigma_t.
        reveal: Probability that a masked token is revealed.
    """

    keep: float
    reveal: float


@dataclass(frozen=True, kw_only=True)
class Remasking:
    """A rule for remasking on k levels that are uniform in [0, 1].

    Attributes:
        rule: Rule of the module's docstring.
        eta: Cap or factor of `cap`, `rescale` and `loop`, in [0, 1]; None for the other rules.
        loop: Of `loop`, the times t from and to which alpha is held, and its value there; the
            default is the published one.
    """

    rule: RemaskingRule | Literal["none"]
    eta: float | None = None
    loop: tuple[float, float, float] = (0.55, 0.05, 0.9)

    def chances(self, j: int, k: int) -> Chances:
        """The probabilities of step j of k, which goes from t = 1 - j / k to 1 - (j + 1) / k."""
        if self.rule == "loop":
            return self._of_loop(1 - j / k, 1 - (j + 1) / k)
        if self.rule == "none":
            return Chances(keep=1.0, reveal=1 / (k - j))
        if self.rule == "full":
            return Chances(keep=(j + 1) / k, reveal=(j + 1) / k)
        sigma_max = min(1.0, (k - j - 1) / j) if j else 1.0  # at first no token is known
        sigma = sigma_max
        if self.rule == "cap":
            sigma = min(self._eta, sigma_max)
        elif self.rule == "rescale":
            sigma = self._eta * sigma_max
        # The fraction of the docstring, times k above and below.
        reveal = (1 + sigma * j) / (k - j)
        return Chances(keep=1 - sigma, reveal=min(1.0, reveal))

    def _of_loop(self, t: float, s: float) -> Chances:
        start, end, held = self.loop

        def alpha(t: float) -> float:
            if t > start:
                return held * (1 - t) / (1 - start)
            return held if t >= end else 1 - (1 - held) * t / end

        inside = end <= s + ROUNDING and t <= start + ROUNDING
        sigma = min(self._eta, (1 - held) / held) if inside else 0.0
        reveal = (alpha(s) - (1 - sigma) * alpha(t)) / (1 - alpha(t))
        return Chances(keep=1 - sigma, reveal=min(1.0, max(0.0, reveal)))

    @property
    def _eta(self) -> float:
        assert self.eta is not None
        return self.eta
