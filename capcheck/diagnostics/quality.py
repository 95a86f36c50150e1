"""The quality of draws of token ids, in the terms of those who train language models.

| figure | quantity | the target's |
|---|---|---|
| `valid` | share of sequences that can occur; 1 minus the sequence error rate | 1 |
| `perplexity` | generative perplexity, exp of the mean of -log p(x) / N | fresh draws |
| `unigram_entropy` | mean entropy of the symbols within a sequence, in nats | fresh draws |
| `temperature` | temperature at which the target is most like the draws | 1 |
| `dependence` | share of the dependence of two tokens at a distance that is kept | 1 |
| `transition_kl` | KL of pooled transitions of a Markov chain of order 1, in nats | fresh draws |
| `accuracy` | share of sequences whose tokens are right, where given tokens decide them | 1 |
| `token_accuracy` | share of drawn tokens that are right there | 1 |

No verdict uses them: each is a statistic that a wrong law may match. A low perplexity comes from
repetition as easily as from a good model, so that it stands beside the entropy of the symbols.

Sources: Feng et al., Theoretical benefit and limitation of diffusion language model
(https://arxiv.org/abs/2502.09622), sequence error rate and perplexity; Pynadath, Shi and Zhang,
Generative frontiers (https://arxiv.org/abs/2604.02718), perplexity beside unigram entropy.
"""

from __future__ import annotations

import math

from capcheck.core.record import Record
from capcheck.diagnostics.dependence import Dependence
from capcheck.diagnostics.figure import Figure

__all__ = ["CLEAR", "LABELS", "PRECISE", "ROUNDING", "Quality"]

CLEAR = 0.25  # widths of an interval that a difference worth a sentence lies outside of it
PRECISE = 0.3  # width of an interval of a share that a sentence may tell in passing
ROUNDING = 1e-5  # share of the target's figure by which rounding may move one
LABELS = {
    "valid": "valid sequences",
    "perplexity": "generative perplexity",
    "unigram_entropy": "unigram entropy, nats",
    "temperature": "effective temperature",
    "transition_kl": "transition KL, nats",
    "accuracy": "accuracy",
    "token_accuracy": "token accuracy",
}


class Quality(Record):
    """The figures of a model's draws of token ids; see the module's table.

    Attributes:
        level: Confidence of every interval; those of the dependence hold together.
        valid: Share of valid sequences.
        perplexity: Perplexity of the valid sequences.
        unigram_entropy: Entropy of the symbols within a sequence, in nats.
        temperature: Effective temperature of the valid sequences.
        transition_kl: KL of the pooled transitions, in nats.
        accuracy: Share of sequences that are right.
        token_accuracy: Share of drawn tokens that are right.
        dependence: Dependence at the distances 1, 2, 4, .. below N.
    """

    level: float
    valid: Figure
    perplexity: Figure
    unigram_entropy: Figure
    temperature: Figure
    transition_kl: Figure
    accuracy: Figure
    token_accuracy: Figure
    dependence: tuple[Dependence, ...] = ()

    def figures(self) -> dict[str, Figure]:
        """The figures that exist, by their name in tables."""
        named = {LABELS[name]: getattr(self, name) for name in LABELS}
        for at in self.dependence:
            named[f"dependence kept at distance {at.distance}"] = at.kept
        return {name: figure for name, figure in named.items() if figure.value is not None}

    def sentences(self) -> tuple[str, ...]:
        """At most two sentences about the differences from the target that are most telling."""
        said = [self._accuracy(), self._dependence(), self._predictability()]
        return tuple(sentence for sentence in said if sentence)[:2]

    def _accuracy(self) -> str:
        if self.accuracy.value is None or self.accuracy.value == 1:
            return ""
        right = f"{_share(self.accuracy)} of the sequences are right"
        return f"{right}, and {self.token_accuracy.value:.1%} of the drawn tokens."

    def _dependence(self) -> str:
        off = [at for at in self.dependence if _is_off(at.kept)]
        if not off:
            return ""
        worst = max(off, key=lambda at: _gap(at.kept) / max(_width(at.kept), ROUNDING))
        if (worst.kept.low or 0.0) > 1:
            first = f"exaggerate the dependence {_place(worst)} ({_share(worst.kept)})"
        else:
            first = f"keep {_share(worst.kept)} of the dependence {_place(worst)}"
        others = [at for at in self.dependence if at is not worst and _is_precise(at.kept)]
        if not others:
            return f"the draws {first}."
        last = others[-1]
        rest = _share(last.kept) if _gap(last.kept) > 0 else "all"
        return f"the draws {first}, and {rest} of that {_place(last)}."

    def _predictability(self) -> str:
        if not _is_off(self.perplexity):
            return ""
        sentence = (
            f"the draws have perplexity {self.perplexity.value:.3g} and those of the target "
            f"{self.perplexity.target:.3g}"
        )
        t = self.temperature
        if not _is_off(t):
            return f"{sentence}."
        return f"{sentence}, as if at temperature {t.value:.3g} ({t.low:.3g} to {t.high:.3g})."


def _share(figure: Figure) -> str:
    return f"{figure.value:.0%} ({figure.low:.0%} to {figure.high:.0%})"


def _gap(figure: Figure) -> float:
    """The distance between the intervals of the draws and of the target; below 0 if they meet."""
    if figure.low is None or figure.high is None or figure.target is None:
        return -math.inf
    low, high = figure.target_low, figure.target_high
    low, high = figure.target if low is None else low, figure.target if high is None else high
    return max(figure.low - high, low - figure.high) - ROUNDING * abs(figure.target)


def _is_off(figure: Figure) -> bool:
    """Whether chance hardly explains the difference from the target."""
    gap = _gap(figure)
    return gap > 0 and gap > CLEAR * _width(figure)


def _is_precise(figure: Figure) -> bool:
    return figure.value is not None and _width(figure) < PRECISE


def _width(figure: Figure) -> float:
    return (figure.high or 0.0) - (figure.low or 0.0)


def _place(at: Dependence) -> str:
    return "of neighbours" if at.distance == 1 else f"at distance {at.distance}"
