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
        authors: Authors and year.
        work: Title.
        link: Address of the publication.
        also: Addresses of further publications of the same kind.
        about: What of it is recomputed, in one phrase.
        package: Package that the recomputation needs beside capcheck's own, or None.
        extra: The extra of capcheck that installs it.
    """

    name: str
    authors: str
    work: str
    link: str
    about: str
    also: tuple[str, ...] = ()
    package: str | None = None
    extra: str | None = None

    @property
    def title(self) -> str:
        """Authors, year and title."""
        return f"{self.authors}, {self.work}"

    @property
    def links(self) -> tuple[str, ...]:
        """All addresses."""
        return (self.link, *self.also)

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
        name="parallelbench",
        authors="Kang et al. 2025",
        work="ParallelBench: Understanding the Trade-offs of Parallel Decoding in Diffusion LLMs",
        link="https://arxiv.org/abs/2510.04767",
        about="losses and accuracies of copying, replacing and shuffling lists in one step, with "
        "several items a step, greedily and by threshold, in bits (section 4, table 1)",
    ),
    Source(
        name="speculative-decoding",
        authors="Leviathan, Kalman & Matias 2023",
        work="Fast Inference from Transformers via Speculative Decoding",
        link="https://arxiv.org/abs/2211.17192",
        about="operations and speed by acceptance rate and number of drafts (table 1), expected "
        "speeds (table 4), drafts that are accepted with probability 1 - TV",
    ),
    Source(
        name="blockwise-decoding",
        authors="Stern, Shazeer & Uszkoreit 2018",
        work="Blockwise Parallel Decoding for Deep Autoregressive Models",
        link="https://arxiv.org/abs/1811.03115",
        about="accepted lengths and tokens per round on laws on which they follow without training",
    ),
    Source(
        name="noise-schedules",
        authors="Lin, Liu, Li & Yang 2023",
        work="Common Diffusion Noise Schedules and Sample Steps are Flawed",
        link="https://arxiv.org/abs/2305.08891",
        about="signal that is left at the last timestep (table 1); timesteps by spacing (table 2)",
        package="diffusers",
        extra="diffusers",
    ),
    Source(
        name="inference-schedules",
        authors="Chen, Cong & Li 2025",
        work="Optimal Inference Schedules for Masked Diffusion Models",
        link="https://arxiv.org/abs/2511.04647",
        about="correlations of parity, copies and a Reed-Solomon code, and the expected KL of "
        "schedules in random order, in nats",
    ),
    Source(
        name="factorized-decoding",
        authors="Lavenant & Zanella 2025",
        work="Error Bounds and Optimal Schedules for Masked Diffusions with Factorized "
        "Approximations",
        link="https://arxiv.org/abs/2510.25544",
        about="information profiles of a chain of bits and of correlated normal numbers, and the "
        "KL of equal steps",
    ),
    Source(
        name="gumbel-noise",
        authors="Zheng et al. 2024",
        work="Masked Diffusion Models are Secretly Time-Agnostic Masked Models and "
        "Exploit Inaccurate Categorical Sampling",
        link="https://arxiv.org/abs/2409.02908",
        about="the largest Gumbel noise of a precision, and how rarely it draws what is rare",
    ),
    Source(
        name="push-forward",
        authors="Salmona, De Bortoli, Delon & Desolneux 2022",
        work="Can Push-forward Generative Models Fit Multimodal Distributions?",
        link="https://arxiv.org/abs/2206.14476",
        about="the slope that two modes need, and what a map of smaller slope leaves",
    ),
    Source(
        name="ppca",
        authors="Tipping & Bishop 1999",
        work="Probabilistic Principal Component Analysis",
        link="https://doi.org/10.1111/1467-9868.00196",
        about="noise variances and kept eigenvalues of a linear decoder with one noise variance, "
        "and the KL that it leaves",
    ),
    Source(
        name="solver-orders",
        authors="Song et al. 2021, Karras et al. 2022, Lu et al. 2022",
        work="DDIM, Heun and DPM-Solver++(2M)",
        link="https://arxiv.org/abs/2010.02502",
        also=("https://arxiv.org/abs/2206.00364", "https://arxiv.org/abs/2211.01095"),
        about="orders of convergence: the slope of W2 against the number of steps",
    ),
    Source(
        name="inference-time-scaling",
        authors="Song & Zhou 2025",
        work="Ideas in Inference-time Scaling can Benefit Generative Pre-training Algorithms",
        link="https://arxiv.org/abs/2503.07154",
        about="the two worked examples: DDIM, which is not told where it lands, and two words by "
        "independent heads",
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
