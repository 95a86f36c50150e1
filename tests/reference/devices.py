"""A second device where there is none: tensors of factories without `device=` are the host's.

All tensors lie on the CPU. Inside `TwoDevices`, those that come from the outside (a target, draws)
or from a factory that is told a device stand for a GPU's; those that `torch.arange(3)` and its like
make without one stand for the host's. A computation on both raises, as it would on a GPU; numbers
and indices from the host are welcome there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FACTORIES = {
    torch.arange, torch.zeros, torch.ones, torch.full, torch.tensor, torch.linspace, torch.eye,
    torch.rand, torch.randn, torch.randint, torch.randperm, torch.empty, torch.as_tensor,
}  # fmt: skip
READING = {
    "__get__",
    "__len__",
    "size",
    "dim",
    "tolist",
    "item",
    "__bool__",
    "__float__",
    "__int__",
}
LIKE_THEIR_TENSOR = {"new_tensor", "new_full", "new_zeros", "new_ones", "new_empty"}


class MixedDevicesError(Exception):
    """A computation on tensors of both devices."""


class TwoDevices(TorchFunctionMode):
    """Watches every function of torch; see the module."""

    def __init__(self) -> None:
        super().__init__()
        self._host: dict[int, weakref.ref[Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The function's answer, or an error if it mixes devices."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        answer = func(*args, **kwargs)
        if func in FACTORIES:
            return self._mark(answer, host=kwargs.get("device") is None)
        if name in READING:
            return answer
        first: Any = args[0] if args else None
        if name == "cpu":
            return self._mark(answer.clone() if answer is first else answer, host=True)
        if name == "to":
            others = [x for x in args[1:] if isinstance(x, Tensor)]
            told = "device" in kwargs or any(isinstance(x, (str, torch.device)) for x in args[1:])
            host = self._is_host(others[0]) if others else self._is_host(first) and not told
            return self._mark(answer.clone() if answer is first else answer, host=host)
        if name == "__get__" or name in LIKE_THEIR_TENSOR:
            return self._mark(answer, host=self._is_host(first))
        found = list(_tensors((args, kwargs)))
        hosts = [x for x in found if self._is_host(x)]
        if name in ("__getitem__", "__setitem__"):  # host indices may point into the other device
            found = [x for x in (first, *args[2:]) if isinstance(x, Tensor)]
            hosts = [x for x in found if self._is_host(x)]
        if any(x.dim() for x in hosts) and len(hosts) < len(found):
            raise MixedDevicesError(f"{name} of {[tuple(x.shape) for x in found]}")
        return self._mark(answer, host=bool(found) and len(hosts) == len(found))

    def _is_host(self, x: object) -> bool:
        kept = self._host.get(id(x))
        return kept is not None and kept() is x

    def _mark(self, answer: Any, *, host: bool) -> Any:
        for x in _tensors(answer):
            if host:
                self._host[id(x)] = weakref.ref(x)
            elif self._is_host(x):
                del self._host[id(x)]
        return answer


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from _tensors(inner)
    elif isinstance(part, dict):
        yield from _tensors(list(part.values()))
