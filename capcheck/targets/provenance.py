"""The provenance of a target: its origin, its exactness, and its sequences as they are shown."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, computed_field

from capcheck.core.record import Record

__all__ = ["Dependence", "HeldOut", "LawScore", "Picture", "Provenance"]


class Dependence(Record):
    """How much of the dependence of the data's tokens a law of token ids holds.

    The three cross entropies are those of the same held-out rows, in nats per token.

    Attributes:
        rows: Number of held-out rows.
        independent: Cross entropy under independent tokens, each with the law of its place.
        law: Cross entropy under the law, fitted without the held-out rows.
        ngram: Cross entropy under the n-gram model that predicts the held-out rows best.
        order: Number of past tokens that it reads; it is an (order + 1)-gram model.
        share: (independent - law) / (independent - ngram), or None if the n-gram is not clearly
            better than independent tokens.
        low: Lower end of the share's interval over held-out rows, or None with it.
        high: Upper end of the interval.
        level: Confidence of the interval.
        counted: Number of rows that the n-grams were counted in.
        fitted: Number of rows that the law was fitted to.
    """

    computed: ClassVar[frozenset[str]] = frozenset({"sentence"})

    rows: int
    independent: float
    law: float
    ngram: float
    order: int
    share: float | None
    low: float | None
    high: float | None
    level: float
    counted: int
    fitted: int

    @property
    def perplexity(self) -> float:
        """exp(law): the number of equally likely tokens that are as hard to predict."""
        return math.exp(min(self.law, 700.0))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """The comparison in one sentence."""
        gram = f"{self.order + 1}-gram"
        article = "an" if self.order + 1 == 8 else "a"
        known = (
            f"{self.law:.3g} nats per token, independent tokens {self.independent:.3g}, "
            f"{gram} {self.ngram:.3g}; perplexity {self.perplexity:.3g}"
        )
        if self.counted < self.fitted:
            known += f" (n-grams of {self.counted:,} of {self.fitted:,} rows)"
        if self.share is None or self.low is None or self.high is None:
            return f"no n-gram clearly finds dependence in unseen rows: the law {known}"
        if self.high < 0:
            return (
                "the law predicts unseen rows worse than independent tokens, and holds none of the "
                f"dependence that {article} {gram} finds: {known}"
            )
        interval = f"{self.share:.0%} ({self.low:.0%} to {self.high:.0%})"
        better = ", more than any n-gram finds" if self.low > 1 else ""
        return (
            f"the law holds {interval} of the dependence that {article} {gram} finds in unseen "
            f"rows{better}: {known}"
        )


class LawScore(Record):
    """The held-out score of a law that data might be taken for.

    Attributes:
        name: Name of the law as for `--law`, with its size if it has one, or of a simpler law.
        log_likelihood: Mean log-likelihood of held-out rows under the law, fitted without them, in
            nats per sequence; None if it was not fitted or could not be scored.
        chosen: Whether this law is the target.
        baseline: Whether this is a law too simple to memorise rows, for comparison only.
        note: How the law was fitted, or why not, or why it was chosen; empty if there is nothing to
            say.
    """

    name: str
    log_likelihood: float | None
    chosen: bool = False
    baseline: bool = False
    note: str = ""


class HeldOut(Record):
    """The held-out likelihood of a target that was built from most of the user's rows.

    Attributes:
        rows: Number of rows held out.
        log_likelihood: Mean log-likelihood of the held-out rows, in nats per sequence.
        in_sample: Mean log-likelihood of the rows that the target was built from, in nats per
            sequence.
        baseline: Mean log-likelihood of the held-out rows under a law too simple to memorise rows,
            in nats per sequence.
        baseline_name: Name of that law.
        dependence: How much of the dependence of the rows' tokens the target holds, or None if the
            tokens are real numbers, or too few rows were held out to tell.
        candidates: Scores of the laws that were tried, simpler laws first and one of them chosen;
            laws of a size have one score for each size that was tried. Laws of different kinds may
            be scored on different numbers of the held-out rows. Empty in runs that were saved
            before these scores were kept.
    """

    rows: int
    log_likelihood: float
    in_sample: float
    baseline: float
    baseline_name: str
    dependence: Dependence | None = None
    candidates: tuple[LawScore, ...] = ()

    @property
    def memorises(self) -> bool:
        """Whether the baseline predicts the held-out rows better than the target, or NaN arose.

        Equal laws differ by rounding only.
        """
        rounding = 1e-9 * abs(self.baseline)
        return not self.log_likelihood >= self.baseline - rounding


class Picture(Record):
    """The affine map from a sequence to an image: pixels = offset + flattened tokens @ basis.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        offset: Pixel values of the sequence of zeros, (rows x columns,).
        basis: Pixel values that each number of a sequence adds, (N d, rows x columns).
    """

    rows: int
    columns: int
    offset: tuple[float, ...]
    basis: tuple[tuple[float, ...], ...]


class Provenance(Record):
    """The origin and exactness of a target.

    Attributes:
        description: Description of the law in one line, for readers of a report.
        exactness: `analytic` (a closed form), `enumerated` (every sequence is listed), or `fitted
            surrogate` (built from the user's rows).
        bandwidth: Smoothing of the rows, in standard deviations of each token, or None if there is
            no smoothing.
        unit: Standard deviation of the rows in token units, or None if it is not known. Noise of
            size 1 has this standard deviation. The unit is 1 for data that was standardised before
            it became tokens.
        held_out: Held-out likelihood of a surrogate, or None if no rows could be held out.
        source: Name of the data, or None if no data was loaded.
        preparation: Transformation of the data before it became tokens, in words.
        picture: Map from a sequence to an image, or None if sequences are no images.
        vocabulary: Label of each value of a categorical token, or None if values have no labels.
        data_rows: A few rows of the user's data as tokens, (rows, N, d) or (rows, N), picked at
            random with a fixed seed: held-out rows if rows were held out. Empty for a law that was
            not built from rows. The rows are stored for reports, and neither the fingerprint of the
            law nor the result schema holds them.
    """

    description: str
    exactness: Literal["analytic", "enumerated", "fitted surrogate"] = "analytic"
    bandwidth: float | None = None
    unit: float | None = None
    held_out: HeldOut | None = None
    source: str | None = None
    preparation: str | None = None
    picture: Picture | None = None
    vocabulary: tuple[str, ...] | None = None
    data_rows: tuple[Any, ...] = Field(default=(), repr=False)
