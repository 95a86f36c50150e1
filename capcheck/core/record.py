"""A record is immutable data that can be written as JSON; all results derive from it.

In JSON, infinite and broken numbers are the strings `Infinity`, `-Infinity` and `NaN`, and a number
that is unavailable is null.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = ["Record"]


class Record(BaseModel):
    """The base class of all records: frozen, and without unknown fields."""

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
