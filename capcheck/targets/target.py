"""A target: a known law of sequences, with every conditional that an oracle network can need.

Each token is seen at its own noise level on a noise path: level 0 is a known token, level 1 one
that was not seen. From the marginals of the clean tokens given such a view follow the oracles of
all families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from capcheck.laws import TokenLaw
from capcheck.paths import PATHS, NoisePath
from capcheck.randomness import Randomness
from capcheck.sequences import SequenceSpec


class HeldOut(BaseModel):
    """How well a target built from most of the user's rows predicts the others.

    Attributes:
        rows: Rows held out.
        log_likelihood: Their mean log-likelihood under such a target, in nats per sequence.
        in_sample: The same for the rows that the target was built from.
        gaussian: The held-out score of one Gaussian with a shrunk full covariance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    log_likelihood: float
    in_sample: float
    gaussian: float

    @property
    def memorises(self) -> bool:
        """Whether a single Gaussian predicts unseen rows better than this target does."""
        return not self.log_likelihood >= self.gaussian


class Picture(BaseModel):
    """How to show a sequence as an image: pixels = offset + tokens (flat) @ basis.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        offset: (rows x columns,) pixel values of the sequence of zeros.
        basis: (N d, rows x columns).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    columns: int
    offset: tuple[float, ...]
    basis: tuple[tuple[float, ...], ...]


class Provenance(BaseModel):
    """Where a target comes from, and how exact it is.

    Attributes:
        description: One line for readers of a report.
        exactness: How the law relates to what the user asked for: `analytic` (in closed form),
            `enumerated`, or `fitted surrogate` (built from the user's rows).
        bandwidth: Smoothing of the rows, in standard deviations of each token, if there is one.
        held_out: How far a surrogate is from the user's data, if rows could be held out.
        source: Name of the data, if it was loaded.
        preparation: What was done to the data before it became tokens.
        picture: How to show a sequence as an image, if it is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    exactness: Literal["analytic", "enumerated", "fitted surrogate"] = "analytic"
    bandwidth: float | None = None
    held_out: HeldOut | None = None
    source: str | None = None
    preparation: str | None = None
    picture: Picture | None = None


class Target(ABC):
    """A law of sequences of N tokens."""

    @property
    @abstractmethod
    def provenance(self) -> Provenance:
        """Where the law comes from, and how exact it is."""

    @property
    @abstractmethod
    def spec(self) -> SequenceSpec:
        """Number, kind, size and first two moments of the tokens."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where every computation runs."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash: equal for equal laws, whatever machine built them."""

    @abstractmethod
    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Target:
        """The same law, computed elsewhere or in another precision."""

    @abstractmethod
    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Independent sequences: (n, N, d), or (n, N) integers."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-density of the sequences x, in nats: (n,)."""

    @abstractmethod
    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TokenLaw:
        """The law of every clean token given every token seen at its own noise level.

        Args:
            x: (n, N, d) tokens as seen, alpha(t) x_0 + sigma(t) e; or (n, N) integers. What stands
                at level 1 is ignored.
            levels: (n, N) in [0, 1]; categorical tokens have levels 0 and 1 only.
            path: The noise path that the levels refer to; known and unseen tokens need none.
            causal: Token i is conditioned on the tokens before it only.

        Returns:
            An (n, N) token law.
        """

    @abstractmethod
    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d).

        Args:
            x: (n, N, d) noisy tokens.
            levels: (n, N) in [0, 1].
            path: The noise path that the levels refer to.
            causal: Token i is conditioned on the tokens up to and including itself.
        """

    @abstractmethod
    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E exp(-|x - Y|^2 / (2 bandwidth^2)) over the target's Y: (n,)."""

    @abstractmethod
    def kernel_self_mean(self, bandwidth: float) -> float:
        """E exp(-|Y - Y'|^2 / (2 bandwidth^2)) over independent Y and Y'."""
