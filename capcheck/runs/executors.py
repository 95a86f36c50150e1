"""Executors that run workers on clusters which have none of their own.

Anything with `submit(function, ...)` that returns a `concurrent.futures.Future` runs workers: an
executor of the standard library or of loky, `Client.get_executor()` of Dask, and `RayExecutor`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from capcheck.core.errors import InputError

__all__ = ["RayExecutor"]


class RayExecutor:
    """Runs workers as tasks of the Ray cluster that `ray.init` has joined.

    Args:
        resources: Keywords of `ray.remote`, such as num_cpus=1 or num_gpus=1.

    Raises:
        InputError: Ray is not installed.
    """

    def __init__(self, **resources: Any) -> None:
        try:
            import ray
        except ImportError:
            raise InputError(
                "executor RayExecutor needs Ray; pip install 'capcheck[ray]'."
            ) from None
        self._remote = ray.remote(**resources) if resources else ray.remote

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a function with some arguments, and return its future."""
        future: Future[Any] = self._remote(function).remote(*arguments).future()
        return future
