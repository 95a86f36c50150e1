"""A record is immutable data that can be written as JSON; all results derive from it.

In JSON, infinite and broken numbers are the strings `Infinity`, `-Infinity` and `NaN`, and a number
that is unavailable is null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

__all__ = ["Record"]


class _Made(ModelMetaclass):
    """The class of records, whose constructors tell in one sentence what is wrong."""

    if not TYPE_CHECKING:  # type checkers know the fields from the class itself

        def __call__(self, *arguments: Any, **fields: Any) -> Any:
            try:
                return super().__call__(*arguments, **fields)
            except ValidationError as error:
                first = error.errors()[0]
                name = ".".join(map(str, first["loc"][:1])) or self.__name__
                rule = first["msg"].removeprefix("Value error, ")
                raise InputError(
                    f"{name} of a {self.__name__}: {rule}, got {shown(first['input'])}."
                ) from None


class Record(BaseModel, metaclass=_Made):
    """The base class of all records: frozen, and without unknown fields.

    The constructor raises `InputError` where a field is wrong, and what reads JSON pydantic's
    `ValidationError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    computed: ClassVar[frozenset[str]] = frozenset()
    """Fields of the JSON that follow from the others, and are left out when it is read."""

    @model_validator(mode="before")
    @classmethod
    def _without_computed(cls, data: Any) -> Any:
        if isinstance(data, dict) and not cls.computed.isdisjoint(data):
            return {name: value for name, value in data.items() if name not in cls.computed}
        return data

    def to_json(self, exclude: dict[str, Any] | None = None) -> dict[str, Any]:
        """The data as `json.loads` returns it, with infinite and broken numbers as strings.

        Args:
            exclude: Fields to leave out, nested as for pydantic's `model_dump`.
        """
        data: dict[str, Any] = json.loads(self.model_dump_json(exclude=exclude))
        return data
