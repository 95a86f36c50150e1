"""Divergences measure how far the law that a procedure samples is from the target.

Each is measured as an `Estimate`. The table lists every divergence, the unit of its estimate and
the quantity that its tolerance limits:

| name | divergence | unit | tolerance limits |
|---|---|---|---|
| `kl` | KL(target to model) | nats per sequence | nats per token |
| `wasserstein` | W2 squared, corrected | squared token units | W2 / sqrt(tr Cov) of the target |
| | categorical: W1, Hamming distance | differing tokens | W1 / mean distance of two target draws |
| `mmd` | MMD squared, Gaussian kernels | share of the kernel variance | the same |
| `reverse_kl` | KL(model to target) | nats per sequence | nats per token |
| `total_variation` | largest difference of an event's probability | probability | the same |

The last two are measured only on request (`DEFAULT` holds the first three). Categorical tokens
enter the kernels as one-hot vectors, so that each kernel is a product over tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from capcheck.core.arguments import mapping, real_number, shown, texts
from capcheck.core.errors import InputError, near
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.divergences.wasserstein import LARGEST

__all__ = ["DEFAULT", "DIVERGENCES", "NAMES", "Divergence", "chosen", "tolerances"]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The unit of a divergence and the tolerance below which its estimates count as small.

    The default tolerances agree with each other: a Gaussian whose standard deviation is wrong by a
    tenth lies near the tolerance of each of the three default divergences.

    Attributes:
        name: Name in options and results.
        label: Name in tables and charts.
        unit: Unit of its estimates.
        tolerance: Default tolerance.
        tolerance_unit: Unit of the tolerance.
        per: Divisor that takes an estimate to the unit of tolerance ** power: the number of tokens
            that count, the target's squared spread, or one (no division).
        power: Exponent of the tolerance in the comparison estimate / scale <= tolerance ** power.
        sufficient: Whether a small value of this divergence alone can make a family representable.
        sets: Number of independent sets that the draws of a cell are split into.
        most: Number of rows of the largest set that the divergence can be computed from, or None
            if there is no limit.
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
        """Divisor of an estimate before it is compared with tolerance ** power."""
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
    sufficient=False,  # Gaussian kernels hardly respond to lost dependence between tokens
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
        per="squared spread",  # of one-hot tokens this is the mean distance of two draws
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


def chosen(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Check names of divergences and return them in the order of the module's table, once each.

    Args:
        names: A sequence of names, one string of names separated by commas, or None for
            `DEFAULT`.

    Raises:
        InputError: A name is unknown, or there is no name.
    """
    names = DEFAULT if names is None else names
    names = texts("divergences", names, "names of divergences", "write ['kl']")
    for name in names:
        if name not in NAMES:
            raise InputError(f"divergence {shown(name)} is unknown; {near(name, NAMES)}")
    if not names:
        raise InputError(f"divergences needs at least one of {', '.join(NAMES)}, got none.")
    return tuple(name for name in NAMES if name in names)


def tolerances(
    names: Iterable[str], given: Mapping[str, float] | None, kind: Kind
) -> dict[str, float]:
    """The tolerance of each named divergence: the given one, or the default.

    Raises:
        InputError: A tolerance names a divergence that is not among `names`, or is not positive
            and finite.
    """
    names = tuple(names)
    cure = "write {'kl': 0.01}"
    given = mapping("tolerance", given, "numbers by names of divergences", cure)
    for name, value in given.items():
        if name not in names:
            raise InputError(
                f"tolerance names {shown(name)}, which is not measured; {near(name, names)}"
            )
        rule = "positive and finite"
        real_number(f"tolerance of {name}", value, rule, lambda t: 0 < t < float("inf"))
    return {name: float(given.get(name, DIVERGENCES[kind][name].tolerance)) for name in names}
