"""Provenance: where a target comes from, how exact it is, and how to show its sequences."""

from __future__ import annotations

from typing import Literal

from capcheck.core.record import Record

__all__ = ["HeldOut", "Picture", "Provenance"]


class HeldOut(Record):
    """How well a target built from most of the user's rows predicts the others.

    Attributes:
        rows: Rows held out.
        log_likelihood: Their mean log-likelihood under such a target, in nats per sequence.
        in_sample: The same for the rows that the target was built from.
        baseline: The held-out score of a law that no row is remembered by.
        baseline_name: Which law that is.
    """

    rows: int
    log_likelihood: float
    in_sample: float
    baseline: float
    baseline_name: str

    @property
    def memorises(self) -> bool:
        """Whether the baseline predicts unseen rows better than this target does."""
        return not self.log_likelihood >= self.baseline


class Picture(Record):
    """How to show a sequence as an image: pixels = offset + tokens (flat) @ basis.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        offset: (rows x columns,) pixel values of the sequence of zeros.
        basis: (N d, rows x columns).
    """

    rows: int
    columns: int
    offset: tuple[float, ...]
    basis: tuple[tuple[float, ...], ...]


class Provenance(Record):
    """Where a target comes from, and how exact it is.

    Attributes:
        description: One line for readers of a report.
        exactness: How the law relates to what the user asked for: `analytic` (in closed form),
            `enumerated`, or `fitted surrogate` (built from the user's rows).
        bandwidth: Smoothing of the rows, in standard deviations of each token, if there is one.
        unit: Standard deviation of the rows, in token units, if it is known: noise of size 1 is as
            large. It is 1 for data that was standardised before it became tokens.
        held_out: How far a surrogate is from the user's data, if rows could be held out.
        source: Name of the data, if it was loaded.
        preparation: What was done to the data before it became tokens.
        picture: How to show a sequence as an image, if it is one.
        vocabulary: What each value of a categorical token stands for, if it has a name.
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
