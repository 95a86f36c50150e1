"""Runs other people's code once for every outcome of its draws, which gives the law of its results.

    q(x) = sum over outcomes that return x of prod over their draws of the probability of the draw

A draw from a law has one outcome for each value. A uniform number u that is only compared with p,
as in an acceptance rule, has two: u < p with probability min(p, 1), and u > p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.randomness import Randomness

__all__ = ["NEGLIGIBLE", "OUTCOMES", "every_outcome"]

OUTCOMES = 5000  # most outcomes that are followed, each of which is one run
NEGLIGIBLE = 2.0**-20  # probability below which single precision makes a value of a draw up

Result = TypeVar("Result")


def every_outcome(run: Callable[[Randomness], Result]) -> Iterator[tuple[float, Result]]:
    """The results of a function of random numbers, each with its probability.

    Args:
        run: The function. It is called once for every outcome, and must draw alike each time.

    Raises:
        UnfitError: It draws normal numbers, uses a uniform number otherwise than in one comparison,
            or has more than `OUTCOMES` outcomes.
    """
    pending, followed = [tuple[int, ...]()], 0
    while pending:
        source = _Path(pending.pop())
        result = run(source)
        pending += source.others
        followed += 1
        if followed + len(pending) > OUTCOMES:
            raise UnfitError(
                f"its draws have more than the {OUTCOMES} outcomes that are followed; ask for "
                "fewer steps."
            )
        yield source.probability, result


class _Path(Randomness):
    """One outcome of all draws, whose first values are given.

    Args:
        values: Values of the first draws, in their order.

    Attributes:
        probability: Probability of all draws so far.
        others: Beginnings of the outcomes that branch off where a value was not given.
    """

    def __init__(self, values: Sequence[int]) -> None:
        self._values, self._made = values, list[int]()
        self.probability, self.others = 1.0, list[tuple[int, ...]]()

    def value(self, weights: Tensor) -> int:
        """The value of the next draw, whose law is proportional to the weights (K,)."""
        p = weights.detach().double().cpu()
        total = float(p.sum())
        if not (math.isfinite(total) and total > 0 and float(p.min()) >= 0):
            raise RuntimeError("the weights of a draw are no law")
        p = torch.where(p < NEGLIGIBLE * total, 0, p)
        p = p / p.sum()
        possible = p.nonzero()[:, 0].tolist()
        if len(self._made) < len(self._values):
            value = self._values[len(self._made)]
        else:
            value = possible[0]
            self.others += [(*self._made, other) for other in possible[1:]]
        self._made.append(value)
        self.probability *= float(p[value])
        return value

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return _Uniform.of(self, torch.full(shape, 0.5, dtype=torch.float64))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        raise UnfitError("its draws cannot be enumerated, since normal numbers are among them.")

    def stream(self, name: str) -> _Path:
        return self

    def categorical(self, probabilities: Tensor, shape: tuple[int, ...]) -> Tensor:
        p = probabilities if probabilities.dim() == 1 else probabilities[..., None, :]
        p = p.expand(*shape, p.shape[-1]).reshape(-1, p.shape[-1])
        return torch.tensor([self.value(row) for row in p]).reshape(shape)


class _Uniform(Tensor):
    """Uniform numbers in (0, 1) whose values are not chosen; each may be compared once."""

    _path: _Path
    _compared: list[bool]

    @classmethod
    def of(cls, path: _Path, like: Tensor, compared: list[bool] | None = None) -> _Uniform:
        """Uniform numbers of the shape and the type of a tensor."""
        made: _Uniform = torch.Tensor._make_subclass(cls, like)
        made._path, made._compared = path, [False] if compared is None else compared
        return made

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Change the form of the numbers, or choose the outcome of a comparison."""
        name, given = func.__name__.strip("_"), kwargs or {}
        own = next(each for each in args if isinstance(each, _Uniform))
        with torch._C.DisableTorchFunctionSubclass():
            if name == "get":
                return func(*args, **given)
            if name in ("reshape", "clamp", "to", "squeeze", "unsqueeze"):
                return cls.of(own._path, func(*args, **given), own._compared)
        if name not in ("le", "lt", "ge", "gt") or own._compared[0]:
            raise UnfitError(
                "its draws cannot be enumerated, since a uniform number is used otherwise than in "
                "one comparison."
            )
        own._compared[0] = True
        below = (name in ("le", "lt")) == (args[0] is own)
        bound = args[1] if args[0] is own else args[0]
        return own._below(torch.as_tensor(bound)) == below

    def _below(self, bound: Tensor) -> Tensor:
        """Whether each number is below its bound, by chosen outcomes."""
        shape = torch.broadcast_shapes(self.shape, bound.shape)
        p = bound.detach().double().nan_to_num(0.0).clamp(0, 1).expand(shape).flatten()
        found = [bool(self._path.value(torch.stack([1 - each, each]))) for each in p]
        return torch.tensor(found).reshape(shape)
