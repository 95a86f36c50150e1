"""A spec names a built-in target, as `NAME`, `NAME:value,value` or `NAME:key=value,key=value`.

Values without a key fill the parameters in their order, so `parity:6` is `parity:tokens=6` and
`gaussian:ar1,rho=0.9` is `gaussian:structure=ar1,rho=0.9`.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le, MultipleOf
from pydantic import ValidationError, validate_call

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError, near
from capcheck.targets.built_in import BUILT_IN
from capcheck.targets.target import Target

__all__ = ["from_spec", "parameters"]


def from_spec(spec: str) -> Target:
    """Build a built-in target from a spec string.

    Args:
        spec: Name and parameters, as in the module's docstring; `capcheck targets` lists the names.

    Raises:
        InputError: The name or a key is unknown, a value breaks its parameter's rule, or there are
            too many values.

    Example:
        >>> from_spec("gaussian:ar1,tokens=3,rho=0.5").spec.tokens
        3
    """
    if not isinstance(spec, str):
        raise InputError(f"target must be named by text, got {shown(spec)}; write 'parity:6'.")
    name, _, rest = spec.partition(":")
    if name not in BUILT_IN:
        raise InputError(f"target has no built-in named {name!r}; {near(name, BUILT_IN)}")
    known = list(inspect.signature(BUILT_IN[name]).parameters)
    arguments: dict[str, str] = {}
    for place, item in enumerate(rest.split(",") if rest else ()):
        key, equals, value = item.partition("=")
        if not (value if equals else key).strip():
            raise InputError(
                f"target {name!r} must be given a value in every item, got {item!r} in {spec!r}; "
                "leave it out to keep the default."
            )
        if not equals:
            if place >= len(known):
                raise InputError(
                    f"target {name!r} takes at most {len(known)} values, got {item!r} beyond them."
                )
            key, value = known[place], item
        key = key.strip()
        if key not in known:
            hint = near(key, known) if known else "it has none."
            raise InputError(f"target {name!r} has no parameter {key!r}; {hint}")
        if key in arguments:
            raise InputError(f"target {name!r} is given {key} twice; give it once.")
        arguments[key] = value.strip()
    try:
        target: Target = validate_call(BUILT_IN[name])(**arguments)
        target.recipe = {"spec": spec}
        return target
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0])
        raise InputError(
            f"target {name}.{field}: {problem['msg'].rstrip('.')}, got {arguments.get(field)!r}; "
            "see `capcheck targets`."
        ) from None


def parameters(name: str) -> dict[str, tuple[Any, str]]:
    """The parameters of a built-in, by name: the default, and a description with the range."""
    found = {}
    for key, parameter in inspect.signature(BUILT_IN[name], eval_str=True).parameters.items():
        (kind, field) = get_args(parameter.annotation)
        found[key] = (parameter.default, f"{field.description}: {_range(kind, field.metadata)}")
    return found


def _range(kind: Any, rules: list[Any]) -> str:
    """The values that a parameter's annotation allows, in words."""
    if get_origin(kind) is Literal:
        return " or ".join(", ".join(get_args(kind)).rsplit(", ", 1))
    if kind is bool:
        return "yes or no"
    if str in get_args(kind):
        return "text without commas"
    low = next(rule.ge for rule in rules if isinstance(rule, Ge))
    high = next(rule.le for rule in rules if isinstance(rule, Le))
    even = ", even" if MultipleOf(2) in rules else ""
    return f"{low:g} to {high:g}{even}"
