"""An architecture is the kind and size of a default module, written as one line of text.

`mlp:width=128,depth=3` is a residual perceptron over the whole sequence, and `transformer:...` a
transformer whose tokens attend to each other; with `depth=0` either is an affine map. The key
`components` sets the number of Gaussians in the law of a continuous token.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from capcheck.core.errors import InputError, near
from capcheck.targets.parameters import require_count

__all__ = ["LIMITS", "Architecture", "Trunk"]

Trunk = Literal["mlp", "transformer"]
LIMITS = {"width": (1, 4096), "depth": (0, 64), "components": (1, 256)}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Kind and size of a default module.

    Attributes:
        trunk: Kind of network that maps the tokens' features to outputs.
        width: Units of a hidden layer, 1..4096.
        depth: Number of residual blocks, 0..64.
        components: Number m of Gaussians in the law of a continuous token, 1..256.
    """

    trunk: Trunk = "mlp"
    width: int = 128
    depth: int = 3
    components: int = 8

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, (least, most) in LIMITS.items():
            count = require_count(f"network {name}", getattr(self, name), least=least)
            if count > most:
                raise InputError(f"network {name} must be at most {most}, got {count}.")

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Parse `trunk:key=value,...`; keys that are left out keep their defaults.

        Raises:
            InputError: The trunk or a key is unknown, a key is given twice, or a value is not a
                whole number in its range.

        Example:
            >>> Architecture.parse("mlp:width=8,depth=1").width
            8
        """
        trunk, _, rest = text.partition(":")
        trunks = {name: name for name in get_args(Trunk)}
        if trunk not in trunks:
            raise InputError(
                f"network must be a known architecture or package.module:function, got {text!r}; "
                f"{near(trunk, trunks)}"
            )
        sizes = [field.name for field in dataclasses.fields(cls) if field.name != "trunk"]
        given: dict[str, int] = {}
        for item in rest.split(",") if rest else ():
            key, _, value = (part.strip() for part in item.partition("="))
            if key not in sizes:
                raise InputError(
                    f"network {trunk} must be given sizes that it has, got {item!r}; "
                    f"{near(key, sizes)}"
                )
            if key in given:
                raise InputError(f"network {key} must be given once, got {text!r}; leave one out.")
            if not value.isdecimal():
                raise InputError(
                    f"network {key} must be a whole number, got {value!r}; write {key}=3."
                )
            given[key] = int(value)
        return cls(trunk=trunks[trunk], **given)

    def __str__(self) -> str:
        standard = Architecture()
        heads = f",components={self.components}" if self.components != standard.components else ""
        return f"{self.trunk}:width={self.width},depth={self.depth}{heads}"
