"""Squared maximum mean discrepancy with Gaussian kernels k_h(x, y) = exp(-|x - y|^2 / (2 h^2)).

The unbiased estimate is a U-statistic: its diagonal is excluded, and it is signed. Where the
target's kernel means are closed forms only the model's samples carry noise:

    MMD^2 = mean_{i != j} k(x_i, x_j) - 2 mean_i E k(x_i, Y) + E k(Y, Y').

Integers stand for one-hot vectors, whose squared distance is twice the number of tokens that
differ: the kernel is then the product of exp(-[x_i != y_i] / h^2) over tokens. Kernels are summed
in tiles; memory is that of one tile and of one copy of a sample, whatever the number of samples.
All bandwidths come from one pass, as k_{h/2} = k_h^4. Sums are in float64; kernels are in float64
up to `DOUBLE` pairs of rows and in float32 beyond, where the roundings move MMD^2 by about 1e-9: a
thousandth of its own noise at 50,000 rows.

Near zero the influences alone, 2 sd / sqrt(n), say too little: with delta the difference of the
kernel means and e the noise of its estimate, MMD^2 is |delta|^2 + 2 <delta, e> + (|e|^2 - E |e|^2),
and where 2 <delta, e> happens to be small so is its estimated error. Half the standard deviation of
the last term, sqrt(2 zeta) / n with zeta the variance of the doubly centred kernel, is therefore
added to the error: enough for a kernel that sees a single direction, which is the hardest case. At
equal laws the interval is then about twice as wide as it need be, and is said to be conservative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from capcheck.divergences.estimate import Term
from capcheck.errors import InputError

SECOND_ORDER = 0.5  # share of the second-order deviation that is added to the error
TILE = 512  # rows and columns of one kernel tile, which then stays in the cache
BANDWIDTHS = (0.5, 1.0, 2.0)  # in units of the target's median distance
DOUBLE = 2_000**2  # pairs of rows up to which kernels are in float64: a tenth of a second
FARTHEST = 1000.0  # base-2 exponent of a row's norm up to which float32 keeps four digits of k
ONE_HOT = 4  # symbols up to which a matrix product counts faster than comparisons do

Tiles = Callable[[slice], Callable[[slice, Tensor], None]]
"""A matrix in tiles: for some rows, what writes those of some columns into a tensor (r, c)."""


def mmd_squared(x: Tensor, y: Tensor, bandwidth: float) -> Term:
    """Unbiased MMD^2 between two independent samples.

    Args:
        x: (n, D), n at least 2.
        y: (m, D), m at least 2; sizes may differ.
        bandwidth: h > 0, in the unit of the samples.

    Returns:
        The signed estimate; its interval is conservative where the laws are equal.

    Raises:
        InputError: As in `kernel_row_means`.
    """
    return mmd_squared_terms(x, y, bandwidths=(bandwidth,))[0]


def mmd_squared_terms(x: Tensor, y: Tensor, *, bandwidths: Sequence[float]) -> list[Term]:
    """Unbiased MMD^2 between two independent samples, for several kernels in one pass.

    Args:
        x: (n, D), n at least 2.
        y: (m, D), m at least 2; sizes may differ.
        bandwidths: h of each kernel, in the unit of the samples.

    Returns:
        One `mmd_squared` per bandwidth.

    Raises:
        InputError: As in `kernel_row_means`.
    """
    within = [kernel_row_means(z, z, bandwidths, same=True) for z in (x, y)]
    across = kernel_means(x, y, bandwidths=bandwidths)
    variances = [_centred_variances(z, bandwidths) for z in (x, y)]
    terms = []
    for k, h in enumerate(bandwidths):
        xx, yy, xy, yx = within[0][k], within[1][k], across[0][k], across[1][k]
        value = float(xx.mean() + yy.mean() - 2 * xy.mean())
        influences = [(2 * (a - b)).cpu().numpy() for a, b in ((xx, xy), (yy, yx))]
        term = Term.from_influence(f"bandwidth {h:.4g}", value, influences, reach=4)
        terms.append(_with_second_order(term, [of[k] for of in variances], (len(x), len(y))))
    return terms


def mmd_squared_to_known(
    x: Tensor,
    bandwidths: Sequence[float],
    kernel_means: Sequence[Tensor],
    kernel_self_means: Sequence[float],
) -> list[Term]:
    """Unbiased MMD^2 between a sample and a target with closed-form kernel means.

    Args:
        x: (n, D), n at least 2.
        bandwidths: h of each kernel, in the unit of the sample.
        kernel_means: E k(x_i, Y) for each kernel, (n,).
        kernel_self_means: E k(Y, Y') for each kernel.

    Returns:
        One term per bandwidth; its interval is conservative where the laws are equal.

    Raises:
        InputError: As in `kernel_row_means`.
    """
    terms = []
    for h, within, variance, to_target, own in zip(
        bandwidths,
        kernel_row_means(x, x, bandwidths, same=True),
        _centred_variances(x, bandwidths),
        kernel_means,
        kernel_self_means,
        strict=True,
    ):
        value = within.mean() - 2 * to_target.double().mean() + own
        influence = 2 * (within - to_target.double())
        term = Term.from_influence(
            f"bandwidth {h:.4g}",
            float(value),
            [influence.cpu().numpy()],
            reach=4,  # kernels lie between 0 and 1
        )
        terms.append(_with_second_order(term, [variance], [len(x)]))
    return terms


def _with_second_order(term: Term, variances: Sequence[float], rows: Sequence[int]) -> Term:
    """A term whose error holds the noise of |e|^2, too; see the module's docstring.

    Of two samples it is at most sqrt(2) (sqrt(zeta_x) / n + sqrt(zeta_y) / m).
    """
    deviations = [math.sqrt(2 * zeta) / n for zeta, n in zip(variances, rows, strict=True)]
    error = SECOND_ORDER * sum(deviations)
    return term.model_copy(update={"standard_error": term.standard_error + error})


def _centred_variances(x: Tensor, bandwidths: Sequence[float]) -> list[float]:
    """Variances of k(x, x') less its means given x and given x'; from the first `TILE` rows."""
    some = x[:TILE]
    n = len(some)
    variances = [1.0] * len(bandwidths)  # kernels lie between 0 and 1
    if n < 4:
        return variances
    for _, _, k, tile in kernel_tiles(some, some, bandwidths=bandwidths, same=True):
        kernel = tile.double()  # (n, n), 0 on its diagonal
        of_rows = kernel.sum(1) / (n - 1)  # (n,)
        # Sum over i != j of (k_ij - r_i - r_j + c)^2, where c is the mean of r.
        squares = torch.dot(kernel.view(-1), kernel.view(-1)) - 2 * n * of_rows.square().sum()
        squares += n * (n + 1) * of_rows.mean().square()
        variances[k] = max(float(squares), 0.0) / (n * (n - 1))
    return variances


def kernel_row_means(
    x: Tensor, y: Tensor, bandwidths: Sequence[float], *, same: bool = False
) -> list[Tensor]:
    """Mean of k_h(x_i, y_j) over j for every row i and bandwidth h, in float64.

    Args:
        x: (n, D).
        y: (m, D).
        bandwidths: h of each kernel.
        same: x is y, and the pairs j = i are left out.

    Returns:
        One (n,) tensor per bandwidth.

    Raises:
        InputError: Shapes that do not match, too few rows, values that are not finite, numbers
            against token ids, or a bandwidth that is not positive and finite.
    """
    return list(kernel_means(x, y, bandwidths=bandwidths, same=same)[0])


def kernel_means(
    x: Tensor, y: Tensor, *, bandwidths: Sequence[float], same: bool = False
) -> tuple[Tensor, Tensor]:
    """Means of k_h(x_i, y_j) over j and over i, (K, n) and (K, m), as in `kernel_row_means`."""
    of_rows = torch.zeros(len(bandwidths), len(x), dtype=torch.float64, device=x.device)
    of_columns = torch.zeros(len(bandwidths), len(y), dtype=torch.float64, device=x.device)
    for rows, columns, k, tile in kernel_tiles(x, y, bandwidths=bandwidths, same=same):
        of_rows[k, rows] += tile.sum(1)
        if not (same and rows == columns):
            of_columns[k, columns] += tile.sum(0)
    if same:
        means = (of_rows + of_columns) / (len(x) - 1)
        return means, means
    return of_rows / len(y), of_columns / len(x)


def kernel_tiles(
    x: Tensor, y: Tensor, *, bandwidths: Sequence[float], same: bool = False
) -> Iterator[tuple[slice, slice, int, Tensor]]:
    """The kernel matrices of two samples, tile by tile and bandwidth by bandwidth.

    Args:
        x: (n, D).
        y: (m, D).
        bandwidths: h of each kernel.
        same: x is y: only tiles on and above the diagonal come, and k(x_i, x_i) is set to 0.

    Yields:
        Rows, columns, index of the bandwidth, and k_h of them, (r, c), until the next one is taken.

    Raises:
        InputError: As in `kernel_row_means`.
    """
    _require_samples(x, y, bandwidths, same)
    chains = _chains(bandwidths)
    dtype = _precision(x, y, min(bandwidths))
    exponents = (_euclidean if x.is_floating_point() else _hamming)(x, y, max(bandwidths), dtype)
    buffers = [torch.empty(TILE * TILE, dtype=dtype, device=x.device) for _ in chains[:2]]
    for rows in _slices(len(x)):
        write = exponents(rows)
        for columns in _slices(len(y), start=rows.start if same else 0):
            shape = rows.stop - rows.start, columns.stop - columns.start
            views = [buffer[: math.prod(shape)].view(shape) for buffer in buffers]
            kernel, exponent = views[0], views[-1]  # one tensor where one chain is all there is
            write(columns, exponent)
            for ratio, chain in chains:
                if exponent is not kernel:
                    torch.mul(exponent, ratio, out=kernel)
                kernel.exp2_()
                if same and rows == columns:
                    kernel.fill_diagonal_(0)
                for k, squarings in chain:
                    for _ in range(squarings):
                        kernel.mul_(kernel)
                    yield rows, columns, k, kernel


def median_distance(x: Tensor) -> float:
    """Median distance between rows of x (n, D); of at most 1,000 of them.

    Where most rows are equal, which only integers can be, it is the mean distance, or at least 1.
    """
    some = x[:1000]
    if x.is_floating_point():
        return float(torch.nn.functional.pdist(some.double()).median())
    upper = torch.triu_indices(len(some), len(some), 1)
    differing = torch.empty(len(some), len(some), dtype=torch.float64, device=x.device)
    every = slice(0, len(some))
    _differing(some, some)(every)(every, differing)
    distances = (2 * differing)[upper[0], upper[1]].sqrt()
    return float(distances.median()) or max(float(distances.mean()), 1.0)


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
    if not all(bool(z[part].isfinite().all()) for z in (x, y) for part in _slices(len(z))):
        raise InputError("samples must be finite, got NaN or infinity; leave such rows out.")
    if not bandwidths or not all(0 < h < math.inf for h in bandwidths):
        raise InputError(f"bandwidths must be positive and finite, got {list(bandwidths)}.")


def _chains(bandwidths: Sequence[float]) -> list[tuple[float, list[tuple[int, int]]]]:
    """Kernels that squaring makes from one another.

    Returns:
        For each chain what the exponents of the widest kernel are multiplied by, and for each of
        its kernels, in turn, its index and the squarings that lead to it from the one before.
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


def _slices(n: int, start: int = 0) -> Iterator[slice]:
    return (slice(i, min(i + TILE, n)) for i in range(start, n, TILE))


def _precision(x: Tensor, y: Tensor, bandwidth: float) -> torch.dtype:
    """Float32 where so many pairs take time, and where no row lies too far out for it."""
    if len(x) * len(y) <= DOUBLE:
        return torch.float64
    if x.is_floating_point():
        centre = y.double().mean(0)
        norms = [
            (z[part] - centre).square().sum(1).max() for z in (x, y) for part in _slices(len(z))
        ]
        if float(torch.stack(norms).max()) * _rate(bandwidth) > FARTHEST:
            return torch.float64
    return torch.float32


def _rate(bandwidth: float) -> float:
    """The c of k_h = 2^(-c |x - y|^2)."""
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
    for part in _slices(len(y)):
        right[part] = features(y[part], 1)

    def of_rows(rows: slice) -> Callable[[slice, Tensor], None]:
        left = features(x[rows], 0)  # (r, D + 2)

        def write(columns: slice, out: Tensor) -> None:
            torch.mm(left, right[columns].T, out=out)
            if dtype == torch.float64:  # in float32 no row lies so far out that this mattered
                out.clamp_(max=0)

        return write

    return of_rows


def _hamming(x: Tensor, y: Tensor, bandwidth: float, dtype: torch.dtype) -> Tiles:
    """Exponents -2 c times the number of tokens that differ."""
    differing = _differing(x, y)

    def of_rows(rows: slice) -> Callable[[slice, Tensor], None]:
        count = differing(rows)

        def write(columns: slice, out: Tensor) -> None:
            count(columns, out)
            out.mul_(-2 * _rate(bandwidth))

        return write

    return of_rows


def _differing(x: Tensor, y: Tensor) -> Tiles:
    """Numbers of tokens that differ between rows of token ids."""
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
    """The same for ids in 0..symbols-1: N less the product of the one-hot vectors."""

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
