"""Claims: files by which the processes that measure one run share out its work.

A claim is a file that only one process can create, and whose time its owner renews. The claim of a
process that ended without releasing it is void: a claim of the next generation takes its place, so
that no claim is ever removed by anybody but its owner. A claim saves work and guards nothing: what
two processes measure twice is equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capcheck.core.errors import ControlFlow, unwritable

__all__ = ["BEAT", "CLAIMS", "PATIENCE", "Busy", "Claims", "SharedClaims", "claim_name"]

CLAIMS = "claims"  # folder of the claims, in a run's folder
BEAT = 2.0  # seconds between renewals of a claim
PATIENCE = 30.0  # seconds without a renewal after which a claim is void
GIVEN_UP = "given-up"  # suffix of the file that says that a part failed


class Busy(ControlFlow):
    """Other processes measure what this one would need to go on."""


def claim_name(**facts: Any) -> str:
    """A short name for a part of a run, from facts that tell it from the other parts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


class Claims:
    """The claims of a process that measures a run alone: every part is its own."""

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Claim a part, yield whether it is this process's, and release it."""
        yield True

    def give_up(self, name: str) -> None:
        """Tell the other processes that a part fails, so that they need not try."""

    def given_up(self, name: str) -> bool:
        """Whether another process found that a part fails."""
        return False

    def close(self) -> None:
        """Release all claims of this process."""


class SharedClaims(Claims):
    """The claims of one of several processes, as files in the folder of their run.

    A thread renews them until `close`.

    Args:
        folder: Folder of the run, which all processes see.

    Raises:
        StoreError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / CLAIMS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._clock = self._folder / f".clock-{socket.gethostname()}-{os.getpid()}"
        self._held: dict[str, Path] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def take(self, name: str) -> bool:
        """Claim a part, and return whether it is this process's now.

        Raises:
            StoreError: The folder cannot be written.
        """
        claims = self._of(name)
        generation = 0
        if claims:
            newest = max(claims, key=_generation)
            if not self._void(newest):
                return False
            generation = _generation(newest) + 1
        path = self._folder / f"{name}.{generation}"
        facts = {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(facts, file)
        except FileExistsError:
            return False
        except OSError as error:
            _discard(path)  # a full disk takes the file, and not what it should say
            raise unwritable(self._folder, error) from error
        with self._lock:
            self._held[name] = path
        return True

    def release(self, name: str) -> None:
        """End a claim of this process, together with the void ones before it."""
        with self._lock:
            own = self._held.pop(name)
        for path in sorted(self._of(name), key=_generation):
            if _generation(path) <= _generation(own):
                _discard(path)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """See `Claims.held`."""
        taken = self.take(name)
        try:
            yield taken
        finally:
            if taken:
                self.release(name)

    def give_up(self, name: str) -> None:
        """See `Claims.give_up`."""
        with self._written():
            (self._folder / f"{name}.{GIVEN_UP}").touch()

    def given_up(self, name: str) -> bool:
        """See `Claims.given_up`."""
        return (self._folder / f"{name}.{GIVEN_UP}").exists()

    def forget_failures(self) -> None:
        """Let parts that failed be tried again."""
        with self._written():
            for path in self._folder.glob(f"*.{GIVEN_UP}"):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Claims.close`."""
        self._closed.set()
        self._thread.join()
        for name in list(self._held):
            self.release(name)
        _discard(self._clock)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self._folder, error) from error

    def _of(self, name: str) -> list[Path]:
        return [p for p in self._folder.glob(f"{name}.*") if p.suffix[1:].isdecimal()]

    def _void(self, claim: Path) -> bool:
        """Whether the owner of a claim is gone, by its process or by the time of its renewals."""
        try:
            owner = json.loads(claim.read_text(encoding="utf-8"))
            if owner["host"] == socket.gethostname() and not _lives(int(owner["pid"])):
                return True
        except FileNotFoundError:
            return True  # it was released meanwhile
        except (ValueError, KeyError, TypeError):
            pass  # it is being written, or its owner died while writing it
        with self._written():
            self._clock.touch()  # the file system's clock, which the machines that see it share
        with contextlib.suppress(FileNotFoundError):
            return self._clock.stat().st_mtime - claim.stat().st_mtime > PATIENCE
        return True

    def _renew(self) -> None:
        while not self._closed.wait(BEAT):
            with self._lock:
                held = list(self._held.values())
            for path in held:
                with contextlib.suppress(OSError):
                    os.utime(path)


def _generation(claim: Path) -> int:
    return int(claim.suffix[1:])


def _discard(path: Path) -> None:
    """Remove a file if that is possible; a claim that stays is void when its owner has ended."""
    with contextlib.suppress(OSError):
        path.unlink()


def _lives(pid: int) -> bool:
    """Whether this machine runs a process of that number, where that can be asked."""
    if os.name == "nt":  # signal 0 ends a process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
