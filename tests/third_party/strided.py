"""Strided decoding: every s-th token from left to right, then the gaps all at once.

Source: this is nobody's paper; it shows what a stranger writes to add a family.
Signature: token predictor, shown the known tokens.
Assumption: the tokens between the strides are independent given those on them.
Budgets: `length` places that many tokens, those on the strides first; `steps` is ignored.
Known: KL is E[total correlation of the gaps given the strides], 0 on a Markov chain if s = 2.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from capcheck.authoring import OPTIONS, Group, Groupwise, Kind, Row, SequenceSpec, Suspect


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Strided(Groupwise):
    """Anchors one by one, then everything between them."""

    family: ClassVar[str] = "strided"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})

    stride: Annotated[int, Field(ge=1, description="distance of the anchors")] = 2

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        """One group for each anchor, and one for the gaps; each is shown all that is known."""
        anchors = [i for i in spec.free if i % self.stride == 0]
        gaps = [i for i in spec.free if i % self.stride]
        found = [Group(tokens=[i]) for i in anchors[:length]]
        left = gaps[: max(0, length - len(anchors))]
        return [*found, Group(tokens=left)] if left else found

    def suspects(self) -> tuple[Suspect, ...]:
        """The gaps, drawn independently."""
        if self.stride == 1:
            return ()
        one = dataclasses.replace(self, stride=1)
        return (Suspect(failure="wrong factorisation", cure="a stride of one", probe=one),)
