"""The base class of everything that is kept as data and written as JSON.

Infinite and broken numbers are the strings `Infinity`, `-Infinity` and `NaN` in JSON; a number that
could not be had is null.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Data that is never changed, and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def to_json(self, exclude: dict[str, Any] | None = None) -> dict[str, Any]:
        """The data as `json.loads` gives it: no bare infinity.

        Args:
            exclude: Fields to leave out, nested as for pydantic's `model_dump`.
        """
        data: dict[str, Any] = json.loads(self.model_dump_json(exclude=exclude))
        return data
