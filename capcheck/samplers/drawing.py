"""A context in which torch's normal and uniform draws come from a `Randomness`."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from capcheck.core.randomness import FOLLOWED, Randomness, torch_generators

__all__ = ["IN_PLACE", "Drawing", "others_code"]


IN_PLACE: dict[Callable[..., Any], tuple[tuple[str, float], tuple[str, float]]] = {
    torch.Tensor.normal_: (("mean", 0.0), ("std", 1.0)),
    torch.Tensor.uniform_: (("from", 0.0), ("to", 1.0)),
    torch.Tensor.exponential_: (("lambd", 1.0), ("unused", 0.0)),
}
"""Methods that overwrite a tensor with draws, with their arguments and defaults."""

DRAW = frozenset(
    {
        torch.randn,
        torch.rand,
        torch.randn_like,
        torch.rand_like,
        torch.bernoulli,
        torch.Tensor.bernoulli,
        torch.randint,
        torch.randint_like,
        torch.randperm,
        torch.normal,
        torch.multinomial,
        torch.Tensor.multinomial,
        *IN_PLACE,
    }
)
"""All functions and methods that draw; every other call, of which a run makes many, passes."""


class Drawing(TorchFunctionMode):
    """A context in which torch's functions that draw do so from a source, row by row.

    These are `randn`, `rand`, `randint`, their like, `randperm`, `normal`, `bernoulli`,
    `multinomial`, and the methods `normal_`, `uniform_` and `exponential_`.

    Code that is run inside needs no change, and its draws can be replayed.

    Args:
        rng: The source.
        rows: Number of sample rows. The first dimension of a draw counts them, or is a multiple of
            them if the code has merged it with others.

    Attributes:
        draws: Number of draws.
        unguided: Number of those that were made without a generator.
    """

    def __init__(self, rng: Randomness, rows: int) -> None:
        super().__init__()
        self._rng, self._rows = rng, rows
        self.draws, self.unguided = 0, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or draw in its place."""
        if func not in DRAW:
            return func(*args, **(kwargs or {}))
        given = dict(kwargs or {})
        if func in (torch.randn, torch.rand):
            shape = given.get("size", args)
            if len(shape) == 1 and not isinstance(shape[0], int):
                shape = shape[0]
            return self._drawn(func is torch.randn, tuple(shape), torch.get_default_dtype(), given)
        if func in (torch.randn_like, torch.rand_like):
            return self._drawn(func is torch.randn_like, tuple(args[0].shape), args[0].dtype, given)
        if func in (torch.bernoulli, torch.Tensor.bernoulli):
            return (self._unit(False, tuple(args[0].shape), given) < args[0].double().cpu()).to(
                args[0]
            )
        if func in (torch.randint, torch.randint_like):
            return self._integers(func is torch.randint_like, *args, **given)
        if func is torch.randperm:
            return self._order(*args, **given)
        if func is torch.normal:
            return self._normal(*args, **given)
        if func in (torch.multinomial, torch.Tensor.multinomial):
            return self._chosen(*args, **given)
        return self._filled(func, *args, **given)

    def _by_rows(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with a first dimension that counts rows, if it is a multiple of them."""
        several, rest = divmod(shape[0], self._rows) if shape else (0, 1)
        return shape if rest or several < 2 else (self._rows, several, *shape[1:])

    def _count(self, given: Mapping[str, Any]) -> None:
        self.draws += 1
        self.unguided += given.get("generator") is None

    def _unit(self, normal: bool, shape: tuple[int, ...], given: dict[str, Any]) -> Tensor:
        """Standard normal numbers, or uniform ones in (0, 1), of this shape, in float64."""
        self._count(given)
        draw = self._rng.normal if normal else self._rng.uniform
        return draw(self._by_rows(shape)).reshape(shape)

    def _normal(
        self, mean: Tensor | float, std: Tensor | float = 1.0, size: Any = None, **given: Any
    ) -> Tensor:
        """Draws of `normal`, in the shape of its tensors or of `size`."""
        like = next((each for each in (mean, std) if isinstance(each, Tensor)), None)
        shapes = [tuple(each.shape) for each in (mean, std) if isinstance(each, Tensor)]
        shape = torch.broadcast_shapes(*shapes) if shapes else tuple(size)
        z = self._unit(True, tuple(shape), given)
        dtype = torch.get_default_dtype() if like is None else like.dtype
        draws: Tensor = mean + std * z.to(dtype)
        return draws

    def _integers(self, like: bool, *args: Any, **given: Any) -> Tensor:
        """Draws of `randint` and its like, whose arguments are [low,] high and a shape."""
        places = list(args)
        model = places.pop(0) if like else torch.empty(0, dtype=torch.int64)
        shape = tuple(model.shape) if like else tuple(given.get("size") or places.pop())
        high = given["high"] if "high" in given else places.pop()
        low = given.get("low", places.pop() if places else 0)
        count, rows = high - low, self._by_rows(shape)
        if math.prod(shape) * count > FOLLOWED:
            drawn = (self._unit(False, shape, given) * count).long()
        else:
            self._count(given)
            equal = torch.ones(1, dtype=torch.float64).expand(*rows, count)
            drawn = self._rng.categorical(equal, (*rows, 1)).reshape(shape)
        dtype, device = given.get("dtype") or model.dtype, given.get("device") or model.device
        integers: Tensor = (low + drawn).to(device=device, dtype=dtype)
        return integers

    def _order(self, n: int, **given: Any) -> Tensor:
        """A draw of `randperm`, (n,), of the row whose turn it is: code orders row after row."""
        row = self.draws % self._rows
        u = self._unit(False, (self._rows, n), given)[row]
        return u.argsort().to(device=given.get("device"), dtype=given.get("dtype") or torch.int64)

    def _chosen(
        self, input: Tensor, num_samples: int, replacement: bool = False, **given: Any
    ) -> Tensor:
        """Draws of `multinomial`, (n, num_samples); without replacement one after the other."""
        self._count(given)
        weights = input
        left, chosen = weights.double(), list[Tensor]()
        shape = self._by_rows((*weights.shape[:-1], 1))
        for _ in range(num_samples):
            drawn = self._rng.categorical(left.reshape(*shape[:-1], -1), shape)
            chosen.append(drawn.reshape(*weights.shape[:-1], 1))
            if not replacement:
                left = left.scatter(-1, chosen[-1].to(left.device), 0)
        return torch.cat(chosen, -1).to(weights.device)

    def _filled(self, func: Callable[..., Any], tensor: Tensor, *args: Any, **given: Any) -> Tensor:
        """A tensor that is overwritten by draws, with the scale and the place that are given."""
        normal = func is torch.Tensor.normal_
        unit = self._unit(normal, tuple(tensor.shape), given)
        names = IN_PLACE[func]
        first, second = (
            float(args[i] if len(args) > i else given.get(name, default))
            for i, (name, default) in enumerate(names)
        )
        if normal:
            return tensor.copy_(first + second * unit)
        if func is torch.Tensor.uniform_:
            return tensor.copy_(first + (second - first) * _below_one(unit, tensor.dtype))
        return tensor.copy_(-unit.log() / first)

    def _drawn(
        self, normal: bool, shape: tuple[int, ...], dtype: torch.dtype, given: dict[str, Any]
    ) -> Tensor:
        unit, made = self._unit(normal, shape, given), given.get("dtype") or dtype
        draws = unit if normal else _below_one(unit, made)
        return draws.to(device=given.get("device"), dtype=made)


def _below_one(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform numbers in float64 that stay below 1 in a coarser type, as torch's do."""
    return u.clamp(max=1 - torch.finfo(dtype).eps)


@contextlib.contextmanager
def others_code(rng: Randomness, rows: int) -> Iterator[Drawing]:
    """A context in which other people's code is run: it draws from a source, without gradients.

    What it draws by other means is seeded, and the caller's generators stay as they are. Its
    warnings are not shown: they are its own business, and many come once a step.

    Args:
        rng: The source.
        rows: Number of sample rows, as for `Drawing`.
    """
    with (
        torch_generators(),
        warnings.catch_warnings(),
        torch.no_grad(),
        Drawing(rng, rows) as drawing,
    ):
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        yield drawing
