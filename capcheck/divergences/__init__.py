"""How far what a procedure samples is from the target; every answer is an `Estimate`.

| name | divergence | unit | tolerance speaks of |
|---|---|---|---|
| `kl` | KL(target to model) | nats per sequence | nats per token |
| `wasserstein` | W2 squared, corrected | squared token units | W2 / sqrt(tr Cov) of the target |
| | categorical: W1, Hamming distance | differing tokens | W1 / mean distance of two draws |
| `mmd` | MMD squared, Gaussian kernels | share of the kernel variance | the same |
| `reverse_kl` | KL(model to target) | nats per sequence | nats per token |
| `total_variation` | largest difference of an event's probability | probability | the same |

The last two are measured where they are asked for. Categorical tokens are one-hot vectors in the
kernels, which makes those products over tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from capcheck.core.errors import InputError, near
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.divergences.wasserstein import LARGEST

__all__ = ["DEFAULT", "DIVERGENCES", "NAMES", "Divergence", "chosen", "tolerances"]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """What a divergence is measured in and when it counts as small.

    A Gaussian whose standard deviation is off by a tenth sits near all three default tolerances.

    Attributes:
        name: Name in options and results.
        label: Name in tables and charts.
        unit: Unit of its estimates.
        tolerance: Default tolerance.
        tolerance_unit: What the tolerance is a number of.
        per: What one `tolerance_unit` is measured per: the tokens, the target's squared spread, or
            nothing.
        power: Power of the tolerance that the estimate is compared with.
        sufficient: Whether a small value alone can make a family representable.
        sets: Independent sets that the draws of a cell are split into.
        most: Largest set that it can be computed from, or None.
    """

    name: str
    label: str
    unit: str
    tolerance: float
    tolerance_unit: str
    per: Literal["tokens", "squared spread", "one"]
    power: int
    sufficient: bool
    sets: int = 1
    most: int | None = None

    def scale(self, spec: SequenceSpec) -> float:
        """What an estimate is divided by before it is compared with tolerance ** power."""
        if self.per == "tokens":
            return float(len(spec.counted))
        return spec.spread**2 if self.per == "squared spread" else 1.0


_KL = Divergence(
    name="kl",
    label="KL",
    unit="nats per sequence",
    tolerance=0.01,
    tolerance_unit="nats per token",
    per="tokens",
    power=1,
    sufficient=True,
)
_REVERSE_KL = replace(_KL, name="reverse_kl", label="reverse KL")
_TOTAL_VARIATION = Divergence(
    name="total_variation",
    label="total variation",
    unit="probability",
    tolerance=0.05,
    tolerance_unit="probability",
    per="one",
    power=1,
    sufficient=True,
)
_MMD = Divergence(
    name="mmd",
    label="MMD squared",
    unit="MMD squared, share of the kernel variance",
    tolerance=0.004,
    tolerance_unit="MMD squared as a share of the kernel variance",
    per="one",
    power=1,
    sufficient=False,  # such kernels barely see lost dependence
)
_WASSERSTEIN: dict[Kind, Divergence] = {
    "continuous": Divergence(
        name="wasserstein",
        label="W2 squared",
        unit="W2 squared, squared token units",
        tolerance=0.1,
        tolerance_unit="W2 as a share of the target's spread sqrt(tr Cov)",
        per="squared spread",
        power=2,
        sufficient=True,
        sets=2,
        most=LARGEST,
    ),
    "categorical": Divergence(
        name="wasserstein",
        label="W1",
        unit="W1, differing tokens",
        tolerance=0.05,
        tolerance_unit="W1 as a share of the mean Hamming distance of two target draws",
        per="squared spread",  # which is that mean distance
        power=1,
        sufficient=True,
        sets=2,
        most=LARGEST,
    ),
}
DIVERGENCES: dict[Kind, dict[str, Divergence]] = {
    kind: {
        "kl": _KL,
        "wasserstein": _WASSERSTEIN[kind],
        "mmd": _MMD,
        "reverse_kl": _REVERSE_KL,
        "total_variation": _TOTAL_VARIATION,
    }
    for kind in _WASSERSTEIN
}
NAMES = tuple(DIVERGENCES["continuous"])
DEFAULT = ("kl", "wasserstein", "mmd")


def chosen(names: str | Iterable[str]) -> tuple[str, ...]:
    """Check the names of divergences, in the order of the table above.

    Args:
        names: A list, or a text with commas between them.

    Raises:
        InputError: An unknown name, or none at all.
    """
    names = names.split(",") if isinstance(names, str) else list(names)
    for name in names:
        if name not in NAMES:
            raise InputError(f"divergence {name!r} is unknown; {near(name, NAMES)}")
    if not names:
        raise InputError(f"divergences needs at least one of {', '.join(NAMES)}, got none.")
    return tuple(name for name in NAMES if name in names)


def tolerances(
    names: Iterable[str], given: Mapping[str, float] | None, kind: Kind
) -> dict[str, float]:
    """The tolerance of each divergence: what was given, and defaults for the rest.

    Raises:
        InputError: A tolerance for a divergence that is not measured, or one that is not positive.
    """
    names, given = tuple(names), dict(given or {})
    for name, value in given.items():
        if name not in names:
            raise InputError(
                f"tolerance names {name!r}, which is not measured; {near(name, names)}"
            )
        if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise InputError(f"tolerance of {name} must be positive and finite, got {value!r}.")
    return {name: float(given.get(name, DIVERGENCES[kind][name].tolerance)) for name in names}
