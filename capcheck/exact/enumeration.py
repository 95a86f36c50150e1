"""Enumeration: the exact law that a categorical procedure samples, as V^N probabilities.

There are two routes to q(x). Where a probe has an exact log-density it is evaluated at
every sequence, and must sum to 1. Otherwise the procedure is run as it is on draws that *branch*: a
draw from p becomes one row for every value v with p(v) > 0, which carries the factor p(v), and

    q(x) = sum over leaves that return x of prod over their draws of p(v).

All leaves are rows of one run, which starts again whenever it meets a draw that has no value yet.
Values of probability 0 are never tried, and a point mass does not branch.
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

LEAVES = 1 << 18  # rows of a branching run: seconds
NUMBERS = 1 << 24  # probabilities of one draw of all its rows, 128 MiB


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
    """The law of what a procedure returns, by the first route that leads to it.

    It is the law of all tokens; `onto(spec.counted)` leaves the auxiliary ones out. Branching
    refuses procedures that draw plain uniform or normal numbers, that use one draw twice, whose
    sample rows depend on each other, or that have more than `LEAVES` leaves.

    Args:
        sample: The procedure at one budget: (n, rng) -> (n, N) sequences.
        density: Its log-density at given sequences.
        spec: Of the sequences; categorical tokens.
        name: Of the procedure, for the sentences.
        routes: `density` believes the log-density, `branching` runs the procedure.

    Returns:
        The law, or the reasons why no route leads to it.

    Raises:
        CapcheckError: The probe's density does not sum to 1, or it breaks its contract.
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
    """The law whose log-density a procedure states."""
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
    """A procedure that is run with a fork at each of its draws."""

    sample: Sampler
    spec: SequenceSpec
    name: str

    def law(self) -> SequenceLaw | Unavailable:
        """The law that is sampled."""
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
        """Refuse unless the first third of the rows, by themselves, do what they did among all."""
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
    """A draw had no value yet, so the run starts again with one row for each; likewise."""

    def __init__(self, tree: _Tree) -> None:
        self.tree = tree


@dataclass(kw_only=True)
class _Tree:
    """The rows of a run, and what each of them has drawn, by stream and number.

    Attributes:
        log_p: (n,) log-probability of each row's draws.
        values: (n, C) of each draw that the rows have made, C numbers per row.
        shapes: (C, K) of each draw from K values.
        replayed: (n,) as `log_p`, from the laws that the current run showed.
        made: Draws of the current run.
    """

    log_p: Tensor
    values: dict[_Key, Tensor] = field(default_factory=dict)
    shapes: dict[_Key, tuple[int, ...]] = field(default_factory=dict)
    replayed: Tensor = field(init=False)
    made: set[_Key] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.replayed = torch.zeros_like(self.log_p)

    def draw(self, key: _Key, weights: Tensor) -> Tensor:
        """Values (n, C) of draws with weights (n, C, K).

        Raises:
            _ForkError: There are none yet.
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
        """The first n rows, for another run."""
        values = {key: drawn[:n] for key, drawn in self.values.items()}
        return _Tree(log_p=self.log_p[:n], values=values, shapes=self.shapes)

    def require_replayed(self, rounding: float) -> None:
        """Refuse unless this run made the draws, under the laws, that the forks saw."""
        same = bool(((self.replayed - self.log_p).abs() <= rounding).all())
        if not same or self.made != set(self.values):
            raise RefusedError(_COUPLED)

    def _forked(self, key: _Key, p: Tensor) -> _Tree:
        """One row for every combination of values of positive probability p (n, C, K)."""
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
    """Categorical draws and permutations from a tree; other numbers are refused."""

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
        # Place j takes one of the size - j that are left: digits of the order's number.
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
