"""Counting of arithmetic: floating-point operations of products, and bytes that are moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["Work", "WorkCounter"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Arithmetic that was done, or would be.

    Attributes:
        flops: Floating-point operations of matrix products, a multiply-add counted as two.
        moved: Bytes that all operations read and write, as if nothing stayed in a cache.
        launches: Number of operations, each of which a GPU launches by itself.
    """

    flops: float = 0.0
    moved: float = 0.0
    launches: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            flops=self.flops + other.flops,
            moved=self.moved + other.moved,
            launches=self.launches + other.launches,
        )

    def scaled(self, *, size: float = 1.0, turns: float = 1.0) -> Work:
        """The work on larger tensors, made some number of times."""
        return Work(
            flops=self.flops * size * turns,
            moved=self.moved * size * turns,
            launches=self.launches * turns,
        )


class WorkCounter(TorchDispatchMode):
    """Counts the work of torch's operations inside a `with` block; numpy and scipy are not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make an operation and count it; a view moves nothing."""
        kwargs = dict(kwargs or {})
        out = func(*args, **kwargs)
        if not func.is_view:
            count = flop_registry.get(func._overloadpacket)
            flops = 0.0 if count is None else float(count(*args, **kwargs, out_val=out))
            moved = sum(
                x.numel() * x.element_size() for x in _tensors((args, kwargs.values(), out))
            )
            self.work += Work(flops=flops, moved=moved, launches=1)
        return out


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)
