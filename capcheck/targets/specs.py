"""Built-in targets by name: `NAME` or `NAME:key=value,key=value`.

gaussian:tokens=4,std=1         independent N(0, std^2) tokens
modes:tokens=4,modes=2,gap=4    equally likely modes `gap` standard deviations apart on the
                                diagonal: all tokens sit in the same mode
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from capcheck.errors import InputError, near
from capcheck.targets.product_mixture import ProductMixture
from capcheck.targets.target import Provenance


def gaussian(*, tokens: int = 8, std: float = 1.0) -> ProductMixture:
    """Independent tokens N(0, std^2)."""
    return ProductMixture(
        torch.zeros(1, tokens, 1, dtype=torch.float64),
        torch.full((tokens, 1), std, dtype=torch.float64),
        provenance=Provenance(description=f"{tokens} independent tokens N(0, {std:g}^2)"),
    )


def modes(*, tokens: int = 4, modes: int = 2, gap: float = 4.0) -> ProductMixture:
    """Equally likely modes of unit variance; all tokens of a sequence sit in the same mode."""
    places = gap * (torch.arange(modes, dtype=torch.float64) - (modes - 1) / 2)
    return ProductMixture(
        places[:, None, None].expand(modes, tokens, 1).contiguous(),
        torch.ones(tokens, 1, dtype=torch.float64),
        provenance=Provenance(description=f"{modes} shared modes {gap:g} apart, {tokens} tokens"),
    )


BUILT_IN: dict[str, tuple[Callable[..., ProductMixture], dict[str, type[int] | type[float]]]] = {
    "gaussian": (gaussian, {"tokens": int, "std": float}),
    "modes": (modes, {"tokens": int, "modes": int, "gap": float}),
}


LARGEST: dict[type[int] | type[float], float] = {int: 65_536, float: 1e100}


def from_spec(spec: str) -> ProductMixture:
    """Build the target that a spec string names.

    Args:
        spec: `NAME` or `NAME:key=value,key=value`; see the module's docstring.

    Raises:
        InputError: Unknown name or key, or a value that is not a positive number.

    Example:
        >>> from_spec("gaussian:tokens=3,std=2").spec.tokens
        3
    """
    name, _, rest = spec.partition(":")
    if name not in BUILT_IN:
        raise InputError(f"target has no built-in named {name!r}; {near(name, BUILT_IN)}")
    build, types = BUILT_IN[name]
    arguments: dict[str, float] = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        if key not in types:
            raise InputError(f"target {name!r} has no parameter {key!r}; {near(key, types)}")
        if key in arguments:
            raise InputError(f"target {name!r} is given {key} twice; give it once.")
        arguments[key] = _positive(f"{name}.{key}", value, types[key])
    return build(**arguments)


def _positive(field: str, text: str, kind: type[int] | type[float]) -> float:
    rule = f"target {field} must be a positive {'whole ' if kind is int else ''}number"
    try:
        value = kind(text)
    except ValueError:
        raise InputError(f"{rule}, got {text!r}.") from None
    if not 0 < value <= LARGEST[kind]:
        raise InputError(f"{rule} of at most {LARGEST[kind]:g}, got {text!r}.")
    return value
