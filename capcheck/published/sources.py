"""The sources whose numbers are recomputed, each in a module of its own.

A module has a function `claims() -> Iterator[Claim]`, and its docstring says what the source prints
and how capcheck computes it. The modules are loaded when they are used, since torch takes long.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from capcheck.core.errors import InputError, near

__all__ = ["SOURCES", "Source", "chosen_sources"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A publication.

    Attributes:
        name: Name by which it is asked for, which is that of its module with `-` for `_`.
        title: Authors, year and title.
        link: Address of the publication.
        about: What of it is recomputed, in one phrase.
        package: Package that the recomputation needs beside capcheck's own, or None.
        extra: The extra of capcheck that installs it.
    """

    name: str
    title: str
    link: str
    about: str
    package: str | None = None
    extra: str | None = None

    @property
    def module(self) -> str:
        """The name of its module."""
        return f"capcheck.published.{self.name.replace('-', '_')}"

    @property
    def missing(self) -> str:
        """Why it cannot be recomputed in this installation; empty if it can."""
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return ""
        return f"needs {self.package}: pip install 'capcheck[{self.extra}]'"


_LISTED = (
    Source(
        name="speculative-decoding",
        title="Leviathan, Kalman & Matias 2023, Fast Inference from Transformers via Speculative "
        "Decoding",
        link="https://arxiv.org/abs/2211.17192",
        about="operations and speed by acceptance rate and number of drafts (table 1); drafts that "
        "are accepted with probability 1 - TV",
    ),
    Source(
        name="noise-schedules",
        title="Lin, Liu, Li & Yang 2023, Common Diffusion Noise Schedules and Sample Steps are "
        "Flawed",
        link="https://arxiv.org/abs/2305.08891",
        about="signal that is left at the last timestep (table 1); timesteps by spacing (table 2)",
        package="diffusers",
        extra="diffusers",
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _LISTED}
"""All sources by name."""


def chosen_sources(names: Iterable[str] | None) -> list[Source]:
    """The sources of some names, each once, or all of them for None.

    Raises:
        InputError: There is no source of a name.
    """
    if names is None:
        return list(SOURCES.values())
    asked = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    for name in asked:
        if name not in SOURCES:
            raise InputError(f"there is no source {name!r}; {near(name, SOURCES)}")
    return [SOURCES[name] for name in asked]
