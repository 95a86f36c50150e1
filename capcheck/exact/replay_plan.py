"""The plan of a replay holds the draws of all its rows, for K normals and U uniforms per row.

Row 0 has z = 0 and returns b; one row for each normal that matters has a unit vector and returns a
column of A; C check rows have other z, and some of them other uniforms, and show whether the
procedure is affine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.exact.tape import Tape

__all__ = ["EDGE", "SCALES", "ReplayPlan"]

# Sizes of z in check rows. |z| exceeds 5 once in two million draws; beyond 5, computing Phi(z) and
# inverting it loses the digits of float64.
SCALES = (0.1, 1.0, 5.0)
EDGE = 1e-12  # distance of extreme uniforms in check rows from 0 and 1


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """The draws of all rows of a replay.

    Attributes:
        active: (A,) columns of the normals that may matter, rising; those of all others are 0.
        z: (C, K) normals of the check rows.
        u: (C, U) uniforms of the check rows.
        settled: Number of check rows that come first and have all uniforms 1/2, as the rows before
            them have.
    """

    active: Tensor
    z: Tensor
    u: Tensor
    settled: int

    @classmethod
    def of(cls, tape: Tape, active: Tensor) -> ReplayPlan:
        """Chooses the check rows, in which all normals vary, whether they may matter or not.

        Their z are, at every scale and with both signs, random points and corners of a cube. The
        same z are repeated with random uniforms in (0, 1) and with uniforms close to 0 and 1.
        """
        K, U = tape.width("normal"), tape.width("uniform")
        rng = CounterRandomness(0, name="check rows")
        cube = 2 * rng.uniform((4, K)) - 1
        directions = torch.cat([cube[:2], cube[2:].sign()])
        z = torch.cat([s * sign * directions for s in SCALES for sign in (1, -1)])  # (C, K)
        C = len(z)
        u = torch.full((C, U), 0.5, dtype=torch.float64)
        if U == 0:
            return cls(active=active, z=z, u=u, settled=C)
        strata = rng.uniform((C, U)).argsort(0)  # each draw visits each of C equal parts of (0, 1)
        edges = torch.full((C, U), EDGE, dtype=torch.float64)
        edges[::3] = 1 - EDGE
        others = [(strata + rng.uniform((C, U))) / C, edges]
        return cls(active=active, z=torch.cat([z] * 3), u=torch.cat([u, *others]), settled=C)

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The normals and uniforms of rows start..stop-1."""
        A = len(self.active)
        index = torch.arange(start, stop)
        z = torch.zeros(len(index), self.z.shape[1], dtype=torch.float64)
        u = torch.full((len(index), self.u.shape[1]), 0.5, dtype=torch.float64)
        unit, check = (index >= 1) & (index <= A), index > A
        z[unit, self.active[index[unit] - 1]] = 1
        z[check], u[check] = self.z[index[check] - 1 - A], self.u[index[check] - 1 - A]
        return z, u
