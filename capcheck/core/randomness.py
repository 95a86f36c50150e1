"""Randomness is the only source of random numbers: counter-based streams, each with a name.

A draw is a function of (seed, replicate, stream name, sample row, draw number) alone. It depends
neither on the batch in which its row is computed nor on budget, network, precision or order of the
cells. Cells that share a seed are therefore paired row by row. Philox counters make every row of
every draw addressable, so that a batch may start at any row.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "FOLLOWED",
    "MAX_SEED",
    "CounterRandomness",
    "Randomness",
    "inverse_cdf",
    "torch_generators",
]

MAX_SEED = 2**63 - 1  # largest seed that a generator of torch accepts
FOLLOWED = 1 << 20  # most numbers of laws of which a source is told even those without a draw


class Randomness(ABC):
    """A source of independent rows of unit draws; every call is the next draw of each row."""

    @abstractmethod
    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Draw float64 uniforms in the open interval (0, 1); `shape[0]` counts sample rows."""

    @abstractmethod
    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw float64 standard normals; `shape[0]` counts sample rows."""

    @abstractmethod
    def stream(self, name: str) -> Randomness:
        """The independent stream with this name, at its first draw, for the same rows."""

    def categorical(self, probabilities: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Draw indices by inverse CDF in float64; an index of probability 0 is never drawn.

        Args:
            probabilities: (..., K) non-negative weights, not all zero; `...` is empty or equal to
                all but the last dimension of `shape`. They may be on any device.
            shape: Shape of the result; `shape[0]` counts sample rows.

        Returns:
            int64 indices of that shape in 0..K-1, on the device of this source's draws.
        """
        return inverse_cdf(probabilities, self.uniform(shape))

    def categorical_where(self, probabilities: Tensor, chosen: Tensor) -> Tensor:
        """Draw as `categorical` does, of some entries only, which have the same random numbers.

        Args:
            probabilities: (m, K) non-negative weights of the chosen entries, in their order.
            chosen: (n, C) bool with m entries that are true; n counts sample rows.

        Returns:
            (n, C) int64 indices in 0..K-1 on the device of `chosen`; 0 where it is false.
        """
        if chosen.numel() * probabilities.shape[-1] <= FOLLOWED:
            table = probabilities.new_zeros(*chosen.shape, probabilities.shape[-1])
            table[..., 0] = 1  # of entries that are not drawn
            table[chosen] = probabilities
            # A source that follows all draws is told the laws here, and can enumerate them.
            return self.categorical(table, (*chosen.shape, 1)).squeeze(-1).to(chosen.device)
        u = self.uniform(tuple(chosen.shape)).to(chosen.device)[chosen]
        draws = torch.zeros(chosen.shape, dtype=torch.int64, device=chosen.device)
        draws[chosen] = inverse_cdf(probabilities, u[:, None])[:, 0]
        return draws

    def permutation(self, n: int, size: int) -> Tensor:
        """Draw n uniformly random orders of 0..size-1, as an int64 tensor (n, size)."""
        return self.uniform((n, size)).argsort(dim=1)


class CounterRandomness(Randomness):
    """Philox streams whose draws are addressed by sample row.

    Args:
        seed: Any integer.
        replicate: Index of the independent repetition.
        first_row: Index of the sample row that the first row of every draw belongs to.
        name: Name of the stream, usually its purpose.
        device: Device of the draws; the numbers are the same on every device.
    """

    def __init__(
        self,
        seed: int,
        *,
        replicate: int = 0,
        first_row: int = 0,
        name: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        self._identity = (seed, replicate, first_row, name, device)
        self._first_row = first_row
        self._device = device
        self._draw = 0
        digest = hashlib.blake2b(f"{seed}/{replicate}/{name}".encode(), digest_size=16).digest()
        self._key = np.frombuffer(digest, dtype=np.uint64)

    def stream(self, name: str) -> CounterRandomness:
        """The independent stream with this name, at its first draw, for the same rows."""
        seed, replicate, first_row, parent, device = self._identity
        return CounterRandomness(
            seed, replicate=replicate, first_row=first_row, name=f"{parent}/{name}", device=device
        )

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Draw float64 uniforms in the open interval (0, 1); `shape[0]` counts sample rows."""
        n, words = shape[0], math.prod(shape[1:])
        blocks = -(-words // 4)  # Philox yields blocks of four 64-bit words
        counter = np.array([self._first_row * blocks, 0, self._draw, 0], dtype=np.uint64)
        self._draw += 1
        raw = np.random.Philox(key=self._key, counter=counter).random_raw(n * blocks * 4)
        raw = raw.reshape(n, blocks * 4)[:, :words].reshape(shape)
        # 52 bits plus one half: with 53 bits the largest value would round to 1.
        unit = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        return torch.from_numpy(unit).to(self._device)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw float64 standard normals; `shape[0]` counts sample rows."""
        draws: Tensor = torch.special.ndtri(self.uniform(shape))
        return draws


def inverse_cdf(probabilities: Tensor, u: Tensor) -> Tensor:
    """The index of the category whose cumulative interval contains u.

    Args:
        probabilities: (..., K) non-negative weights; `...` is empty or all but the last dimension
            of u. They are moved to the device of u.
        u: (..., m) numbers in (0, 1).

    Returns:
        int64 indices of u's shape, on its device; never one whose weight is 0.
    """
    p = probabilities.to(u.device, torch.float64)
    cumulative = p.cumsum(-1)
    total = cumulative[..., -1:]
    # u * total can round up to total; it is kept below, so that the last positive weight is found.
    below = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, below.contiguous(), right=True)
    return index.clamp(max=p.shape[-1] - 1)  # of weights that are not numbers


_TORCH = threading.RLock()


@contextlib.contextmanager
def torch_generators(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Torch's own generators for one thread alone; their states come back afterwards.

    They belong to the whole process: another thread that seeds them would change what is drawn.
    """
    with _TORCH, torch.random.fork_rng(devices=list(devices)):
        yield
