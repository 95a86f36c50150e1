"""Built-in targets: laws with parameters that have a name.

Each is a function: its annotations are the rules of its parameters, and `capcheck targets` prints
the first line of its docstring.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field

from capcheck.core.errors import InputError
from capcheck.targets.categorical.automata import WIDEST, balanced_brackets, even_parity
from capcheck.targets.categorical.automata import ising as ising_strip
from capcheck.targets.categorical.scratchpad import running_parity, running_permutation
from capcheck.targets.categorical.tables import latin_squares, small_sudokus, uniform_over
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.continuous.product_mixture import ProductMixture
from capcheck.targets.corpora import dna, letters, names, words
from capcheck.targets.language_models import causal_lm
from capcheck.targets.provenance import Provenance
from capcheck.targets.target import Target

__all__ = [
    "BUILT_IN",
    "COPIED",
    "CORRELATED",
    "EQUAL",
    "PLACES",
    "Tokens",
    "brackets",
    "chain_parity",
    "chain_permutation",
    "copy",
    "gaussian",
    "ising",
    "latin",
    "modes",
    "parity",
    "replacement",
    "shuffle",
    "sudoku",
]

Tokens = Annotated[int, Field(ge=1, le=65_536, description="tokens of a sequence")]
CORRELATED = 2048  # largest number of tokens of a full covariance matrix: 32 MiB
EQUAL = 0.9999  # share of -1 / (tokens - 1), the lowest correlation that all pairs can have
PLACES = 1 << 24  # largest number of coordinates of all modes together: 128 MiB
COPIED = 1 << 22  # largest tokens x symbols^2, the count of numbers that an oracle call reads


def gaussian(
    structure: Annotated[
        Literal["independent", "ar1", "equicorrelated"], Field(description="correlation structure")
    ] = "independent",
    tokens: Tokens = 8,
    std: Annotated[
        float, Field(ge=1e-6, le=1e6, description="standard deviation of a token")
    ] = 1.0,
    rho: Annotated[
        float | None,
        Field(ge=-0.9999, le=0.9999, description="correlation, 0.9 if there is any"),
    ] = None,
) -> Target:
    """Tokens N(0, std^2): independent, or with correlations rho^|i-j| (ar1) or rho throughout."""
    if structure == "independent":
        if rho is not None:
            raise InputError(
                "gaussian.rho correlates ar1 or equicorrelated tokens, "
                f"got {rho:g} for independent ones; say gaussian:ar1."
            )
        return ProductMixture(
            torch.zeros(1, tokens, 1, dtype=torch.float64),
            torch.full((tokens, 1), std, dtype=torch.float64),
            provenance=Provenance(description=f"{tokens} independent tokens N(0, {std:g}^2)"),
        )
    if tokens > CORRELATED:
        raise InputError(
            f"gaussian.tokens must be at most {CORRELATED} if they correlate, got {tokens}."
        )
    rho = 0.9 if rho is None else rho
    if structure == "equicorrelated" and tokens > 1 and (tokens - 1) * rho <= -EQUAL:
        raise InputError(
            f"gaussian.rho must be above {-EQUAL / (tokens - 1):.6g}, near -1 / (tokens - 1), "
            f"for {tokens} equicorrelated tokens, got {rho:g}; raise it, or use fewer tokens."
        )
    place = torch.arange(tokens, dtype=torch.float64)
    distance = (place - place[:, None]).abs()
    correlation = torch.tensor(rho, dtype=torch.float64) ** (
        distance if structure == "ar1" else distance.clamp(max=1)
    )
    what = "rho^|i-j|" if structure == "ar1" else "rho"
    return GaussianMixture(
        torch.zeros(1, tokens, 1, dtype=torch.float64),
        std**2 * correlation[None],
        provenance=Provenance(
            description=f"{tokens} tokens N(0, {std:g}^2) with correlation {what}, rho = {rho:g}"
        ),
    )


def modes(
    tokens: Tokens = 4,
    modes: Annotated[int, Field(ge=1, le=10_000, description="number of modes")] = 2,
    gap: Annotated[
        float, Field(ge=1e-6, le=1e6, description="standard deviations between modes")
    ] = 4.0,
) -> Target:
    """Equally likely modes of unit variance; all tokens of a sequence sit in the same mode."""
    if tokens * modes > PLACES:
        raise InputError(
            f"modes.tokens x modes must be at most {PLACES}, got {tokens} x {modes}; use fewer."
        )
    places = gap * (torch.arange(modes, dtype=torch.float64) - (modes - 1) / 2)
    return ProductMixture(
        places[:, None, None].expand(modes, tokens, 1).contiguous(),
        torch.ones(tokens, 1, dtype=torch.float64),
        provenance=Provenance(description=f"{modes} shared modes {gap:g} apart, {tokens} tokens"),
    )


def copy(
    tokens: Tokens = 8,
    symbols: Annotated[int, Field(ge=1, le=2048, description="symbols to choose from")] = 4,
) -> Target:
    """One uniform symbol, repeated throughout: the tokens share ln(symbols) nats each."""
    if tokens * symbols**2 > COPIED:
        raise InputError(
            f"copy.tokens x symbols^2 must be at most {COPIED}, got {tokens} x {symbols}^2; "
            "use fewer symbols."
        )
    return uniform_over(
        [[symbol] * tokens for symbol in range(symbols)],
        vocabulary=symbols,
        description=f"one of {symbols} symbols, {tokens} times",
    )


def parity(
    tokens: Annotated[int, Field(ge=1, le=4096, description="tokens of a sequence")] = 6,
    ones: Annotated[
        float, Field(ge=0.001, le=0.999, description="probability of a 1 without the constraint")
    ] = 0.5,
) -> Target:
    """Bits, an even number of which is 1: if fair, any proper subset of them is independent."""
    return even_parity(tokens, ones=ones)


def shuffle(
    symbols: Annotated[int, Field(ge=1, le=8, description="symbols, each used once")] = 5,
) -> Target:
    """Permutations of the symbols, all equally likely: independent tokens would repeat symbols."""
    return uniform_over(
        itertools.permutations(range(symbols)),
        vocabulary=symbols,
        description=f"permutations of {symbols} symbols",
    )


def replacement(
    tokens: Annotated[int, Field(ge=2, le=4096, description="tokens of a sequence")] = 8,
) -> Target:
    """One token at a uniform position is replaced (1), and all others are unchanged (0)."""
    return uniform_over(
        [[int(i == place) for i in range(tokens)] for place in range(tokens)],
        vocabulary=2,
        description=f"one replacement in a list of {tokens}",
    )


def latin(
    size: Annotated[int, Field(ge=1, le=4, description="rows and columns")] = 3,
) -> Target:
    """Latin squares, row by row."""
    return uniform_over(
        latin_squares(size),
        vocabulary=size,
        description=f"Latin squares of {size} x {size}",
        grid=(size, size),
    )


def sudoku() -> Target:
    """The 288 sudoku grids of 4 x 4, row by row."""
    return uniform_over(
        small_sudokus(), vocabulary=4, description="sudoku grids of 4 x 4", grid=(4, 4)
    )


def brackets(
    tokens: Annotated[
        int, Field(ge=2, le=256, multiple_of=2, description="tokens of a sequence")
    ] = 8,
) -> Target:
    """Balanced strings of opening (0) and closing (1) brackets."""
    return balanced_brackets(tokens)


def ising(
    rows: Annotated[int, Field(ge=1, le=1024, description="rows of sites")] = 4,
    columns: Annotated[int, Field(ge=1, le=WIDEST, description="columns of sites")] = 4,
    coupling: Annotated[
        float, Field(ge=-20, le=20, description="coupling of neighbouring spins")
    ] = 0.4,
    field: Annotated[float, Field(ge=-20, le=20, description="external field on every spin")] = 0.0,
) -> Target:
    """Spins on a grid, exact by transfer matrix: p ~ exp(coupling sum s s' + field sum s)."""
    return ising_strip(rows, columns, coupling, field)


def chain_parity(
    inputs: Annotated[int, Field(ge=1, le=64, description="bits whose parity is asked")] = 6,
    scratch: Annotated[bool, Field(description="whether running results are tokens")] = True,
) -> Target:
    """Uniform bits and their parity; running results make each follow from the last two tokens."""
    return running_parity(inputs, scratch=scratch)


def chain_permutation(
    inputs: Annotated[int, Field(ge=1, le=16, description="permutations to compose")] = 3,
    scratch: Annotated[bool, Field(description="whether running results are tokens")] = True,
) -> Target:
    """Uniform permutations of three items and their composition, maybe with running results."""
    return running_permutation(inputs, scratch=scratch)


BUILT_IN: dict[str, Callable[..., Target]] = {
    build.__name__.replace("_", "-"): build
    for build in (
        gaussian,
        modes,
        copy,
        parity,
        shuffle,
        replacement,
        latin,
        sudoku,
        brackets,
        ising,
        chain_parity,
        chain_permutation,
        letters,
        words,
        names,
        dna,
        causal_lm,
    )
}
