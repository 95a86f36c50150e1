"""Gaussian kernel matrices k_h(x, y) = exp(-|x - y|^2 / (2 h^2)) of two samples, tile by tile.

Integers are token ids, treated as one-hot vectors, whose squared distance is twice the number of
tokens that differ: the kernel is then the product of exp(-[x_i != y_i] / h^2) over tokens. The
kernel of a lost row (see `capcheck.divergences.lost`) with any other row is 0.

Memory holds one tile and one copy of a sample, whatever the number of rows. All bandwidths come
from one pass, as k_{h/2} = k_h^4. Kernels are float64 for up to `DOUBLE` pairs of rows and float32
beyond, where rounding changes MMD^2 by about 1e-9, a thousandth of its noise at 50,000 rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.tiles import slices, tile_size
from capcheck.divergences.lost import lost_rows

__all__ = ["DOUBLE", "FARTHEST", "ONE_HOT", "TILE", "Tiles", "differing", "kernel_tiles"]

TILE = 512  # rows and columns of a kernel tile, small enough to stay in the cache
DOUBLE = 2_000**2  # most pairs of rows with float64 kernels: a tenth of a second
FARTHEST = 1000.0  # largest base-2 exponent of a row's norm for which float32 keeps 4 digits of k
ONE_HOT = 4  # largest vocabulary for which a matrix product counts faster than comparisons

Tiles = Callable[[slice], Callable[[slice, Tensor], None]]
"""A matrix in tiles: a function of rows returns a function that writes columns into (r, c)."""


def kernel_tiles(
    x: Tensor, y: Tensor, *, bandwidths: Sequence[float], same: bool = False
) -> Iterator[tuple[slice, slice, int, Tensor]]:
    """The kernel matrices of two samples, tile by tile and bandwidth by bandwidth.

    Args:
        x: (n, D).
        y: (m, D).
        bandwidths: h of each kernel.
        same: Whether x is y. Then only tiles on and above the diagonal are yielded, and k(x_i, x_i)
            is set to 0.

    Yields:
        Rows, columns, index of the bandwidth, and the tile of k_h, (r, c). The tile is overwritten
        when the next one is requested.

    Raises:
        InputError: The shapes do not match, there are too few rows, one sample holds numbers and
            the other token ids, or a bandwidth is not positive and finite.
    """
    _require_samples(x, y, bandwidths, same)
    lost_x, lost_y = (lost_rows(z, max(bandwidths)) for z in (x, y))
    any_lost = bool(lost_x.any() or lost_y.any())
    if any_lost:
        x, y = (_in_place_of(z, lost) for z, lost in ((x, lost_x), (y, lost_y)))
    chains = _chains(bandwidths)
    dtype = _precision(x, y, min(bandwidths))
    exponents = (_euclidean if x.is_floating_point() else _hamming)(x, y, max(bandwidths), dtype)
    side = math.isqrt(tile_size(TILE**2, x.device))
    buffers = [torch.empty(side**2, dtype=dtype, device=x.device) for _ in chains[:2]]
    for rows in slices(len(x), side):
        write = exponents(rows)
        for columns in slices(len(y), side, start=rows.start if same else 0):
            shape = rows.stop - rows.start, columns.stop - columns.start
            views = [buffer[: math.prod(shape)].view(shape) for buffer in buffers]
            kernel, exponent = views[0], views[-1]  # one tensor where one chain is all there is
            write(columns, exponent)
            for ratio, chain in chains:
                if exponent is not kernel:
                    torch.mul(exponent, ratio, out=kernel)
                kernel.exp2_()
                if any_lost:
                    kernel[lost_x[rows]] = 0
                    kernel[:, lost_y[columns]] = 0
                if same and rows == columns:
                    kernel.fill_diagonal_(0)
                for k, squarings in chain:
                    for _ in range(squarings):
                        kernel.mul_(kernel)
                    yield rows, columns, k, kernel


def _require_samples(x: Tensor, y: Tensor, bandwidths: Sequence[float], same: bool) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise InputError(
            f"samples must be (n, D) and (m, D) with one D, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; flatten the tokens of a sequence."
        )
    if min(len(x), len(y)) < 1 + same:
        raise InputError(f"MMD needs at least 2 rows of each sample, got {len(x)} and {len(y)}.")
    if x.is_floating_point() != y.is_floating_point():
        raise InputError(f"samples must both hold numbers or ids, got {x.dtype} and {y.dtype}.")
    if not bandwidths or not all(0 < h < math.inf for h in bandwidths):
        raise InputError(f"bandwidths must be positive and finite, got {list(bandwidths)}.")


def _in_place_of(z: Tensor, lost: Tensor) -> Tensor:
    """The rows z, with each lost row replaced by one that is not lost, or by zeros."""
    kept = z[~lost][:1] if not bool(lost.all()) else torch.zeros_like(z[:1])
    return torch.where(lost[:, None], kept, z)


def _chains(bandwidths: Sequence[float]) -> list[tuple[float, list[tuple[int, int]]]]:
    """Chains of kernels, each of which follows from its predecessor by repeated squaring.

    Returns:
        For each chain, the factor from the exponents of the widest kernel to those of the chain's
        first kernel, and a list with the index of each kernel and the number of squarings that lead
        to it from the kernel before it.
    """
    widest = max(bandwidths)
    chains: list[tuple[float, list[tuple[int, int]]]] = []
    ends: list[float] = []
    for k in sorted(range(len(bandwidths)), key=lambda k: -bandwidths[k]):
        for c, end in enumerate(ends):
            squarings = 2 * math.log2(end / bandwidths[k])
            if abs(squarings - round(squarings)) < 1e-12 and squarings < 8:
                chains[c][1].append((k, round(squarings)))
                ends[c] = bandwidths[k]
                break
        else:
            chains.append(((widest / bandwidths[k]) ** 2, [(k, 0)]))
            ends.append(bandwidths[k])
    return chains


def _precision(x: Tensor, y: Tensor, bandwidth: float) -> torch.dtype:
    """Float32 for more than `DOUBLE` pairs if no row exceeds `FARTHEST`, else float64."""
    if len(x) * len(y) <= DOUBLE:
        return torch.float64
    if x.is_floating_point():
        centre = y.double().mean(0)
        norms = [
            (z[part] - centre).square().sum(1).max()
            for z in (x, y)
            for part in slices(len(z), TILE)
        ]
        if float(torch.stack(norms).max()) * _rate(bandwidth) > FARTHEST:
            return torch.float64
    return torch.float32


def _rate(bandwidth: float) -> float:
    """Rate c of the kernel k_h = 2^(-c |x - y|^2)."""
    return 0.5 * math.log2(math.e) / bandwidth**2


def _euclidean(x: Tensor, y: Tensor, bandwidth: float, dtype: torch.dtype) -> Tiles:
    """Exponents -c |x - y|^2 by one matrix product: the norms are two further features."""
    D, scale = x.shape[1], math.sqrt(2 * _rate(bandwidth))
    centre = y.double().mean(0)  # expanding the square loses fewer digits around 0

    def features(z: Tensor, norm: int) -> Tensor:
        centred = (z - centre) * scale
        out = torch.ones(len(z), D + 2, dtype=dtype, device=z.device)
        out[:, :D] = centred
        out[:, D + norm] = -0.5 * centred.square().sum(1)
        return out

    right = torch.empty(len(y), D + 2, dtype=dtype, device=y.device)
    for part in slices(len(y), TILE):
        right[part] = features(y[part], 1)

    def of_rows(rows: slice) -> Callable[[slice, Tensor], None]:
        left = features(x[rows], 0)  # (r, D + 2)

        def write(columns: slice, out: Tensor) -> None:
            torch.mm(left, right[columns].T, out=out)
            if dtype == torch.float64:  # in float32 rows are near enough for this not to matter
                out.clamp_(max=0)

        return write

    return of_rows


def _hamming(x: Tensor, y: Tensor, bandwidth: float, dtype: torch.dtype) -> Tiles:
    """Exponents -2 c times the number of tokens that differ."""
    counts = differing(x, y)

    def of_rows(rows: slice) -> Callable[[slice, Tensor], None]:
        count = counts(rows)

        def write(columns: slice, out: Tensor) -> None:
            count(columns, out)
            out.mul_(-2 * _rate(bandwidth))

        return write

    return of_rows


def differing(x: Tensor, y: Tensor) -> Tiles:
    """Numbers of tokens that differ between rows of token ids, in tiles."""
    lowest = min(int(x.min()), int(y.min()))
    symbols = max(int(x.max()), int(y.max())) - lowest + 1
    if x.device.type != "cpu" or symbols <= ONE_HOT:
        return _differing_by_product(x - lowest, y - lowest, symbols)
    kind = np.uint8 if symbols <= 256 else np.uint16 if symbols <= 65536 else np.int64
    of_x, of_y = (np.ascontiguousarray((z - lowest).numpy().T.astype(kind)) for z in (x, y))

    def of_rows(rows: slice) -> Callable[[slice, Tensor], None]:
        def write(columns: slice, out: Tensor) -> None:
            out.zero_()
            unequal = np.empty(out.shape, dtype=np.bool_)
            for start in range(0, len(of_x), 255):  # what a byte can count
                counts = np.zeros(out.shape, dtype=np.uint8)
                tokens = slice(start, start + 255)
                for a, b in zip(of_x[tokens, rows], of_y[tokens, columns], strict=True):
                    np.not_equal(a[:, None], b, out=unequal)
                    np.add(counts, unequal.view(np.uint8), out=counts)
                out.add_(torch.from_numpy(counts))

        return write

    return of_rows


def _differing_by_product(x: Tensor, y: Tensor, symbols: int) -> Tiles:
    """Numbers of differing tokens for ids in 0..symbols-1: N less the one-hot product."""

    def one_hot(z: Tensor) -> Tensor:
        flat = torch.zeros(*z.shape, symbols, device=z.device)
        return flat.scatter_(2, z.long()[..., None], 1.0).flatten(1)  # (r, N V)

    def of_rows(rows: slice) -> Callable[[slice, Tensor], None]:
        left = one_hot(x[rows])

        def write(columns: slice, out: Tensor) -> None:
            out.copy_(left @ one_hot(y[columns]).T)
            out.neg_().add_(x.shape[1])

        return write

    return of_rows
