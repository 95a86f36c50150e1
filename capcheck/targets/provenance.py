"""The provenance of a target: its origin, its exactness, and how to display its sequences."""

from __future__ import annotations

from typing import Literal

from capcheck.core.record import Record

__all__ = ["HeldOut", "Picture", "Provenance"]


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
    """

    rows: int
    log_likelihood: float
    in_sample: float
    baseline: float
    baseline_name: str

    @property
    def memorises(self) -> bool:
        """Whether the baseline predicts the held-out rows better than the target, or NaN arose."""
        return not self.log_likelihood >= self.baseline


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
