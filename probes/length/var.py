"""VAR: next-scale prediction; draws all tokens of one scale at once given the coarser scales.

Source: Tian et al. 2024, "Visual Autoregressive Modeling", section 3,
https://arxiv.org/abs/2404.02905
Signature: token predictor. The network is shown the tokens of the coarser scales.
Assumption: the tokens of one scale are independent given the coarser scales.
Budgets: `length` is the number of tokens that may be placed: a scale that does not fit as a whole
is left out. `steps` is ignored.
Scales: continuous tokens form an orthonormal Haar pyramid of the sequence or grid, after each is
centred and divided by its unit (the target's bandwidth); states, length and completion then refer
to the coefficients of the pyramid. Categorical tokens, sides that are no powers of two and parts of
a larger grid form interlaced subsets: every 2^m-th place of each side.
Given tokens: shown to every scale. Continuous tokens form interlaced subsets, too, if some are
given.
Lists: `scales` names the sides of the scales, such as the paper's 1/2/3/4/5/6/8/10/13/16 for
16 x 16 tokens, in place of powers of two; for a sequence it names numbers of cells. Continuous
tokens then form orthonormal coefficients. Each scale has those that the averages over its cells add
to coarser ones, in a basis that is a choice on which KL depends; 1/2/4/.. is the Haar pyramid. A
scale that adds none is left out: averages over 13 x 13 cells and coarser ones tell all 16 x 16
tokens, so that nine scales of the paper's list remain. Where tokens form subsets, and with
`pyramid=interlaced`, a scale is the tokens at the centres of its cells. The published quantiser
differs: every scale has a learned code for each of its cells, which encodes what coarser scales
leave and is up-sampled bicubically and by a convolution.
KL: exact, by the chain rule over scales.
Known: at full length KL is the sum over scales of E[total correlation of the scale given the
coarser ones].
"""

from __future__ import annotations

import itertools
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import UnfitError
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.probes.length.maskgit import MaskGIT
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.scales import Scales, averages, centred, haar, interlaced, is_dyadic

__all__ = ["VAR"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class VAR(Groupwise):
    """Draws one scale after another, coarse to fine, each in parallel."""

    family: ClassVar[str] = "var"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})
    two_sided: ClassVar[bool] = True

    pyramid: Annotated[
        Literal["haar", "interlaced"], Field(description="scales of continuous tokens")
    ] = "haar"
    scales: Annotated[
        Scales | None,
        Field(
            description="sides of the scales, as in 1/2/3; the last is the longer side of the grid"
        ),
    ] = None

    def basis(self, spec: SequenceSpec) -> Tensor | None:
        """The pyramid of each coordinate of the tokens, or None for subsets.

        Raises:
            UnfitError: The last one of `scales` is not the longer side of the tokens.
        """
        rows, columns = _sides(spec)
        if self.scales is not None and self.scales[-1] != max(rows, columns):
            raise UnfitError(
                f"var.scales must end with {max(rows, columns)}, the longer side of {rows} x "
                f"{columns} tokens, got {'/'.join(map(str, self.scales))}; change its last entry."
            )
        if not self._in_coefficients(spec):
            return None
        eye = torch.eye(spec.dim, dtype=torch.float64)
        return torch.kron(self._pyramid(spec)[0], eye).to(spec.mean)

    def subsets(self, spec: SequenceSpec) -> list[list[int]]:
        """The indices of the free tokens, or of the coefficients, in each scale."""
        if self._in_coefficients(spec):
            ends = torch.tensor(self._pyramid(spec)[1]).cumsum(0).tolist()
            return [list(range(a, b)) for a, b in zip([0, *ends], ends, strict=False)]
        plain = spec.grid is None and spec.places is None
        places = tuple((0, i) for i in range(spec.tokens)) if plain else spec.layout
        whole = (
            interlaced(places)
            if self.scales is None
            else centred(places, *_sides(spec), self.scales)
        )
        free = ([i for i in scale if i in spec.free] for scale in whole)
        return [scale for scale in free if scale]

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """One group per scale that fits into the length, coarse to fine."""
        ends = itertools.accumulate(len(scale) for scale in self.subsets(spec))
        return [
            Group(tokens=scale)
            for scale, end in zip(self.subsets(spec), ends, strict=True)
            if end <= length
        ]

    def density_calls(self, spec: SequenceSpec, budget: Budget) -> float:
        """One for each scale."""
        return float(len(self.groups(spec, budget.length)))

    def suspects(self) -> tuple[Suspect, ...]:
        """Independent draws within a scale."""
        one_by_one = MaskGIT(tokens_per_round=1, order="fixed")
        cure = "one token after another"
        return (Suspect(failure="wrong factorisation", cure=cure, probe=one_by_one),)

    def _pyramid(self, spec: SequenceSpec) -> tuple[Tensor, tuple[int, ...]]:
        sides = _sides(spec)
        return haar(*sides) if self.scales is None else averages(*sides, self.scales)

    def _in_coefficients(self, spec: SequenceSpec) -> bool:
        # A given token is not a coefficient, so that scales must be subsets of the tokens.
        whole = spec.kind == "continuous" and spec.places is None and not spec.given
        fitting = self.scales is not None or is_dyadic(*_sides(spec))
        return self.pyramid == "haar" and whole and fitting


def _sides(spec: SequenceSpec) -> tuple[int, int]:
    """Numbers of rows and columns; for parts of a grid, of the smallest one that holds them."""
    if spec.places is not None:
        rows, columns = (1 + max(at) for at in zip(*spec.places, strict=True))
        return rows, columns
    return spec.grid or (1, spec.tokens)
