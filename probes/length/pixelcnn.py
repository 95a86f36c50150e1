"""PixelCNN: draws a grid in raster order, each token given its causal receptive field only.

Source: van den Oord et al. 2016, "Pixel Recurrent Neural Networks", section 3.5,
https://arxiv.org/abs/1601.06759; for the field without a blind spot van den Oord et al. 2016,
"Conditional Image Generation with PixelCNN Decoders", section 2.3, https://arxiv.org/abs/1606.05328
Signature: token predictor. For token i the network is shown the tokens of the receptive field of i.
Assumption: x_i is independent of the earlier tokens that `layers` masked convolutions of size
`kernel` do not reach, given those that they reach. One stack of masked convolutions leaves a blind
spot above and to the right of a token; a vertical and a horizontal stack leave none.
Budgets: `length` is the number of tokens that are drawn, in raster order; `steps` is ignored.
Given tokens: shown where they lie in the receptive field, and not elsewhere.
KL: exact, by the chain rule.
Known: the receptive field costs sum_i I(x_i; unseen earlier tokens | seen ones). The tokens that
were not drawn cost their conditional total correlation, as in `gpt`.
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
from capcheck.procedures.probe import OPTIONS, Suspect
from capcheck.procedures.rows import Row

__all__ = ["PixelCNN", "receptive_field"]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class PixelCNN(Groupwise):
    """Draws a grid in raster order, each token given its causal receptive field."""

    family: ClassVar[str] = "pixelcnn"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})

    kernel: Annotated[int, Field(ge=3, description="size of a masked convolution; odd")] = 3
    layers: Annotated[int, Field(ge=1, description="number of stacked masked convolutions")] = 5
    blind_spot: Annotated[
        bool, Field(description="one stack, which misses tokens above and to the right")
    ] = False

    @field_validator("kernel")
    @classmethod
    def _centred(cls, kernel: int) -> int:
        """Require an odd size, since a mask is centred on its own token."""
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; {kernel - 1} and {kernel + 1} are")
        return kernel

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """One group per token, x_i ~ p(x_i | the placed tokens of its field), in raster order."""
        field = self.field(spec)
        return [Group(tokens=[i], shown=field[i]) for i in spec.free[:length]]

    def suspects(self) -> tuple[Suspect, ...]:
        """The receptive field, unless it holds every earlier token."""
        whole = dataclasses.replace(self, layers=1024, blind_spot=False)
        cure = "a receptive field that holds every earlier token"
        return (
            () if self == whole else (Suspect(failure="limited emission", cure=cure, probe=whole),)
        )

    def field(self, spec: SequenceSpec) -> Tensor:
        """The receptive field of each token, (N, N) bool: whether token i sees token j < i."""
        field = receptive_field(spec.layout, self.kernel, self.layers, self.blind_spot)
        return field.to(spec.mean.device)


@functools.lru_cache(maxsize=8)
def receptive_field(
    layout: tuple[tuple[int, int], ...], kernel: int, layers: int, blind_spot: bool
) -> Tensor:
    """The receptive field of stacked masked convolutions, (N, N) bool: token i sees token j.

    No information passes through places outside the grid.

    Args:
        layout: (row, column) of each token, in raster order.
        kernel: Size of a convolution, odd.
        layers: Number of stacked convolutions; the first one does not see its own token.
        blind_spot: Whether there is one stack of masked convolutions, or a vertical and a
            horizontal stack.
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
