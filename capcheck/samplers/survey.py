"""A survey of samplers is the results of several samplers, and the reasons of those refused.

Its JSON has the fields `samplers` (results of `capcheck.check_sampler`), `refused` (reasons by
name) and `samples`, of which the last two may be missing.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from capcheck.core.errors import InputError
from capcheck.core.record import Record
from capcheck.samplers.check_sampler import SAMPLES
from capcheck.samplers.findings import MARKS, SamplerResult

__all__ = ["SamplerSurvey", "load_samplers"]


class SamplerSurvey(Record):
    """The results of several samplers.

    Attributes:
        samplers: Results of the samplers that were checked.
        refused: Reason, in one sentence, by the name of each sampler that was not checked.
        samples: Number of draws where the law of the samples is not known, at least 1.
    """

    samplers: tuple[SamplerResult, ...]
    refused: dict[str, str] = Field(default_factory=dict)
    samples: int = Field(default=SAMPLES, ge=1)

    @field_validator("samplers")
    @classmethod
    def _of_known_outcomes(cls, samplers: tuple[SamplerResult, ...]) -> tuple[SamplerResult, ...]:
        unknown = {cell.outcome for one in samplers for cell in one.cells} - set(MARKS)
        if unknown:
            raise ValueError(f"outcome must be one of {', '.join(MARKS)}, got {min(unknown)!r}")
        return samplers


def load_samplers(path: str | Path) -> SamplerSurvey:
    """Read a survey of samplers, as `SamplerSurvey.to_json` gives it.

    Args:
        path: Path of the JSON file.

    Raises:
        InputError: The file cannot be read, or is no such survey.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise InputError(
            f"the survey of samplers {str(path)!r} cannot be read ({reason}); give the JSON file "
            "of a survey."
        ) from error
    try:
        return SamplerSurvey.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"the survey of samplers {str(path)!r} is damaged: {where}: {first['msg']}; write it "
            "again with this version of capcheck."
        ) from error
