"""PixelCNN: a grid in raster order, where token i sees its causal receptive field only.

Source: van den Oord et al. 2016, "Pixel Recurrent Neural Networks", section 3.5; the field without
a blind spot is that of "Conditional Image Generation with PixelCNN Decoders", section 2.3.
Signature: token predictor; for token i it is shown the tokens of the field of i.
Assumption: x_i is independent of the earlier tokens that `layers` masked convolutions of size
`kernel` do not reach. Stacked masks leave a blind spot above and to the right; a vertical and a
horizontal stack leave none.
Budgets: `length` places that many tokens in raster order; `steps` is ignored.
Given tokens: seen where they lie in the field, and nowhere else.
Known: the field costs sum_i I(x_i; unseen earlier tokens | seen ones); what was not placed costs
its conditional total correlation, as in gpt.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, ClassVar

import torch
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Row, Suspect

__all__ = ["PixelCNN", "receptive_field"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class PixelCNN(Groupwise):
    """Raster order with a causal receptive field."""

    family: ClassVar[str] = "pixelcnn"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})

    kernel: Annotated[int, Field(ge=3, description="odd size of a masked convolution")] = 3
    layers: Annotated[int, Field(ge=1, description="masked convolutions on top of each other")] = 5
    blind_spot: Annotated[
        bool, Field(description="the original's masks, which miss tokens above and to the right")
    ] = False

    @field_validator("kernel")
    @classmethod
    def _centred(cls, kernel: int) -> int:
        """A mask is centred on its own token."""
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; {kernel - 1} and {kernel + 1} are")
        return kernel

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """x_i ~ p(x_i | the placed tokens of its field), in raster order."""
        field = self.field(spec)
        return [Group(tokens=[i], shown=field[i]) for i in spec.free[:length]]

    def suspects(self) -> tuple[Suspect, ...]:
        """The field."""
        whole = dataclasses.replace(self, layers=1024, blind_spot=False)
        cure = "a receptive field that holds every earlier token"
        return (
            () if self == whole else (Suspect(failure="limited emission", cure=cure, probe=whole),)
        )

    def field(self, spec: SequenceSpec) -> Tensor:
        """(N, N) bool: token i sees token j, which comes before it."""
        field = receptive_field(spec.layout, self.kernel, self.layers, self.blind_spot)
        return field.to(spec.mean.device)


@functools.lru_cache(maxsize=8)
def receptive_field(
    layout: tuple[tuple[int, int], ...], kernel: int, layers: int, blind_spot: bool
) -> Tensor:
    """What masked convolutions let each token see, (N, N) bool; nothing passes outside the grid.

    Args:
        layout: (row, column) of each token, in raster order.
        kernel: Odd size of a convolution.
        layers: How many are stacked; the first one does not see its own token.
        blind_spot: One stack of masks, or a vertical and a horizontal one.
    """
    rows, columns = (max(place[axis] for place in layout) + 1 for axis in (0, 1))
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # (cells, 2)
    down, right = (cells[None] - cells[:, None]).unbind(-1)  # of cell j as seen from cell i
    reach = kernel // 2
    near = (down.abs() <= reach) & (right.abs() <= reach)
    above, left = near & (down < 0), near & (down == 0) & (right < 0)
    itself = torch.eye(len(cells), dtype=torch.bool)

    def through(step: Tensor, seen: Tensor) -> Tensor:
        return (step.double() @ seen.double()) > 0

    upper, seen = above, above | left
    for _ in range(min(layers, rows + columns) - 1):
        if blind_spot:
            seen = through(above | left | itself, seen)
        else:
            upper = through(near & (down <= 0), upper)
            seen = through(left | itself, seen) | upper
    index = torch.tensor([row * columns + column for row, column in layout])
    return seen[index][:, index]
