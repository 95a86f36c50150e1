"""Counting of arithmetic and memory: operations of products, bytes moved, and bytes held."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["MemoryMeter", "Work", "WorkCounter"]


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


class MemoryMeter(TorchDispatchMode):
    """Measures the most bytes that torch's tensors hold at once inside a `with` block.

    Tensors that were there before count once they are read through a view. What numpy and scipy
    hold, and what an operation allocates and frees inside itself, is not seen.

    Attributes:
        peak: Most bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak, self._held = 0, 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make an operation, and count the memory of its result until it is freed."""
        out = func(*args, **dict(kwargs or {}))
        for x in _tensors(out):
            storage = x.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._storages:
                freed = functools.partial(self._free, key, size)
                self._storages[key] = weakref.ref(storage, freed)
                self._held += size
                self.peak = max(self.peak, self._held)
        return out

    def _free(self, key: int, size: int, _: object) -> None:
        self._held -= size
        self._storages.pop(key, None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)
