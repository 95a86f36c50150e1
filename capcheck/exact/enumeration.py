"""Enumeration finds the exact law of a categorical procedure as a table of V^N probabilities.

There are two routes to q(x). If the probe has an exact log-density (route `density`), it is
evaluated at every sequence, and the probabilities must sum to 1. Otherwise (route `branching`) the
unchanged procedure is run on draws that branch: a draw from p becomes one row for every value v
with p(v) > 0, and this row carries the factor p(v). Then

    q(x) = sum over leaves that return x of prod over their draws of p(v).

All leaves are rows of one run. The run starts again, with more rows, whenever it reaches a draw
whose values are not chosen yet. Values of probability 0 are never tried, and a draw with one
possible value does not branch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from capcheck.core.errors import CapcheckError, ControlFlow
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.sampler import Density, RefusedError, Sampler
from capcheck.targets.categorical.sequence_law import (
    SequenceLaw,
    batches,
    numbers,
    refusal,
    rounding_of,
    summed_to_one,
)

__all__ = ["LEAVES", "NUMBERS", "ROUTES", "Route", "enumerated_law"]

LEAVES = 1 << 18  # most rows of a branching run, which takes seconds
NUMBERS = 1 << 24  # most probabilities of one draw over all rows, 128 MiB


Route = Literal["density", "branching"]
ROUTES: tuple[Route, ...] = ("density", "branching")


def enumerated_law(
    sample: Sampler,
    density: Density,
    spec: SequenceSpec,
    *,
    name: str,
    routes: Sequence[Route] = ROUTES,
) -> SequenceLaw | Unavailable:
    """Finds the law that a procedure samples, by the first route that succeeds.

    The law is that of all tokens; `onto(spec.counted)` removes the auxiliary ones. Branching
    refuses procedures that draw plain uniform or normal numbers, that use one draw twice, whose
    sample rows depend on each other, or that have more than `LEAVES` leaves.

    Args:
        sample: The procedure at one budget: (n, rng) -> (n, N) sequences.
        density: The log-density of the procedure at given sequences.
        spec: Specification of the sequences, whose tokens are categorical.
        name: Name of the procedure, for methods and errors.
        routes: Routes in the order in which they are tried: `density` trusts the log-density,
            `branching` runs the procedure.

    Returns:
        The law, or the reasons why every route fails.

    Raises:
        CapcheckError: The probabilities do not sum to 1, or the procedure returns values that are
            no token ids.
    """
    if (refused := refusal(spec)) is not None:
        return Unavailable(reason=refused)
    reasons = []
    for route in routes:
        if route == "density":
            law = _by_density(density, spec, name)
        else:
            law = _Branched(sample=sample, spec=spec, name=name).law()
        if isinstance(law, SequenceLaw):
            return law
        reasons.append(law.reason)
    return Unavailable(reason="; ".join(reasons))


def _by_density(density: Density, spec: SequenceSpec, name: str) -> SequenceLaw | Unavailable:
    """The law from the log-density that a procedure states."""
    parts, method, device = [], "", spec.mean.device
    for x in batches(spec):
        with torch.no_grad():
            found = density(x.to(device), CounterRandomness(0, name="density", device=device))
        if isinstance(found, Unavailable):
            return found
        if found.bound:
            return Unavailable(reason=f"the log-density is only bounded ({found.method})")
        parts.append(found.values.double().cpu())
        method = found.method
    method = f"log-density of {name} at every sequence ({method})"
    return summed_to_one(torch.cat(parts), spec, method)


@dataclass(frozen=True, kw_only=True)
class _Branched:
    """A procedure that is run with a branch for every value of each of its draws."""

    sample: Sampler
    spec: SequenceSpec
    name: str

    def law(self) -> SequenceLaw | Unavailable:
        """The sampled law, by branching runs."""
        tree, x, spec = _Tree(log_p=torch.zeros(1, dtype=torch.float64)), None, self.spec
        try:
            while x is None:
                try:
                    x = self._result(tree)
                except _ForkError as fork:
                    tree = fork.tree
            self._require_separate_rows(tree, x)
        except RefusedError as refusal:
            return Unavailable(reason=str(refusal))
        if bool(((x < 0) | (x >= spec.dim)).any()):
            raise CapcheckError(f"{self.name}: run() returned tokens outside 0..{spec.dim - 1}.")
        q = torch.zeros(spec.dim**spec.tokens, dtype=torch.float64)
        q.index_add_(0, numbers(x, spec.dim), tree.log_p.exp())
        method = f"branching run of {self.name}, {len(x)} leaves"
        return summed_to_one(q.log(), spec, method)

    def _require_separate_rows(self, tree: _Tree, x: Tensor) -> None:
        """Refuses unless the first third of the rows gives the same results when run alone."""
        part = tree.first(-(-len(x) // 3))
        try:
            alone = self._result(part)
        except _ForkError:
            raise RefusedError(_COUPLED) from None
        for run in (tree, part):
            run.require_replayed(rounding_of(self.spec))
        if not torch.equal(alone, x[: len(alone)]):
            raise RefusedError(_COUPLED)

    def _result(self, tree: _Tree) -> Tensor:
        """The result of the rows of a tree, (n, N)."""
        return self.sample(len(tree.log_p), _Branching(tree, self.spec.mean.device)).cpu()


_Key = tuple[str, int]  # stream, and number of the draw in it
_COUPLED = "what a sample row draws depends on the other rows of its batch"


class _ForkError(ControlFlow):
    """Signals a draw without chosen values: the run starts again with one row for each value."""

    def __init__(self, tree: _Tree) -> None:
        self.tree = tree


@dataclass(kw_only=True)
class _Tree:
    """The rows of a branching run with their chosen draws, by stream and number of the draw.

    Attributes:
        log_p: (n,) log-probability of all draws of each row.
        values: The chosen values of each draw, (n, C): C numbers per row.
        shapes: The shape (C, K) of each draw: C numbers per row, from K values.
        replayed: (n,) log-probability of the row's draws under the laws of the current run.
        made: Draws that the current run has made so far.
    """

    log_p: Tensor
    values: dict[_Key, Tensor] = field(default_factory=dict)
    shapes: dict[_Key, tuple[int, ...]] = field(default_factory=dict)
    replayed: Tensor = field(init=False)
    made: set[_Key] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.replayed = torch.zeros_like(self.log_p)

    def draw(self, key: _Key, weights: Tensor) -> Tensor:
        """The chosen values (n, C) of a draw with weights (n, C, K).

        Raises:
            _ForkError: The values of this draw are not chosen yet.
            RefusedError: The draw does not fit a run with independent rows.
        """
        p = weights.double().cpu()
        what = f"draw {key[1]} of stream {key[0]!r}"
        if len(p) != len(self.log_p):
            raise RefusedError(f"{what} is for {len(p)} rows, not one for each sample")
        if key in self.made:
            raise RefusedError(f"{what} is used twice in a run")
        if not bool((p.isfinite() & (p >= 0)).all() and (p.sum(-1) > 0).all()):
            raise RefusedError(f"{what} has weights that are no law")
        self.made.add(key)
        p = p / p.sum(-1, keepdim=True)
        if key not in self.values:
            raise _ForkError(self._forked(key, p))
        if self.shapes[key] != tuple(p.shape[1:]):
            raise RefusedError(_COUPLED)
        values = self.values[key]
        self.replayed += p.gather(2, values[..., None]).log().sum((1, 2))
        return values

    def first(self, n: int) -> _Tree:
        """The tree of the first n rows, for another run."""
        values = {key: drawn[:n] for key, drawn in self.values.items()}
        return _Tree(log_p=self.log_p[:n], values=values, shapes=self.shapes)

    def require_replayed(self, rounding: float) -> None:
        """Refuses unless the run made exactly the chosen draws, under the laws of the forks."""
        same = bool(((self.replayed - self.log_p).abs() <= rounding).all())
        if not same or self.made != set(self.values):
            raise RefusedError(_COUPLED)

    def _forked(self, key: _Key, p: Tensor) -> _Tree:
        """The tree with one row for every combination of values of positive probability.

        Args:
            key: Stream and number of the draw.
            p: (n, C, K) probabilities of the draw.
        """
        _, C, K = p.shape
        count = float((p > 0).sum(2).double().prod(1).sum())
        if count > LEAVES or count * C * K > NUMBERS:
            raise RefusedError(
                f"branching needs at least {count:.4g} leaves of {C} x {K} probabilities, more "
                f"than the {LEAVES} leaves or {NUMBERS} numbers that are followed"
            )
        parent = torch.arange(len(p))  # (rows,)
        values, log_p = torch.empty(len(p), 0, dtype=torch.int64), self.log_p
        for c in range(C):
            of_c = p[parent, c]  # (rows, K)
            row, value = (of_c > 0).nonzero(as_tuple=True)
            log_p = log_p[row] + of_c[row, value].log()
            values = torch.cat([values[row], value[:, None]], 1)
            parent = parent[row]
        return _Tree(
            log_p=log_p,
            values={known: drawn[parent] for known, drawn in self.values.items()} | {key: values},
            shapes=self.shapes | {key: (C, K)},
        )


class _Branching(Randomness):
    """Randomness that takes categorical draws and permutations from a tree, and refuses others."""

    def __init__(self, tree: _Tree, device: torch.device, name: str = "") -> None:
        self._tree, self._device, self._name = tree, device, name
        self._number = 0

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        raise RefusedError("uniform numbers are drawn, which do not branch")

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        raise RefusedError("normal numbers are drawn, which do not branch")

    def stream(self, name: str) -> _Branching:
        return _Branching(self._tree, self._device, f"{self._name}/{name}")

    def categorical(self, probabilities: Tensor, shape: tuple[int, ...]) -> Tensor:
        p = probabilities if probabilities.dim() == 1 else probabilities[..., None, :]
        K = p.shape[-1]
        p = p.expand(*shape, K).reshape(shape[0], math.prod(shape[1:]), K)  # (n, C, K)
        return self._next(p).reshape(shape).to(self._device)

    def permutation(self, n: int, size: int) -> Tensor:
        # Place j takes one of the size - j items that are left: a digit of the order's number.
        left = torch.arange(size, 0, -1)
        p = (torch.arange(size) < left[:, None]).double().expand(n, size, size)
        digits = self._next(p)  # (n, size)
        worth = torch.tensor([math.factorial(size - 1 - j) for j in range(size)])
        orders = torch.tensor(list(itertools.permutations(range(size))), dtype=torch.int64)
        return orders[(digits * worth).sum(1)].to(self._device)

    def _next(self, p: Tensor) -> Tensor:
        key = self._name, self._number
        self._number += 1
        return self._tree.draw(key, p)
