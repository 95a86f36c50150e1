"""Surveys of samplers as JSON: read as they were written, or refused with one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from capcheck.core.errors import InputError
from capcheck.samplers.findings import Cell, Finding, SamplerResult
from capcheck.samplers.survey import SamplerSurvey, load_samplers

SURVEY = SamplerSurvey(
    samplers=(
        SamplerResult(
            name="diffusers:DDIMScheduler",
            config={"timestep_spacing": "trailing", "sizes": [1, 2.5, None]},
            versions={"capcheck": "0.1.0", "diffusers": "1"},
            findings=(Finding(kind="leftover_noise", sentence="it scatters", steps=(2, 3),
                              evidence={"deviation": [0.5, 0.25]}),),
            cells=(Cell(target="wide", steps=2, calls=2, outcome="not_representable", reason="far",
                        divergences={"kl": (math.inf, 3.0, math.inf), "mmd": (None,) * 3}),),
            seed=3,
        ),
    ),
    refused={"diffusers:LCMScheduler": "it runs a consistency function"},
    samples=500,
)  # fmt: skip


def written(folder: Path, data: Any) -> Path:
    path = folder / "samplers.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_survey_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load_samplers(written(tmp_path, SURVEY.to_json())) == SURVEY
    bare = {"samplers": SURVEY.to_json()["samplers"]}
    found = load_samplers(written(tmp_path, bare))
    assert (found.samplers, found.refused, found.samples) == (SURVEY.samplers, {}, 4000)


def changed(**fields: Any) -> dict[str, Any]:
    return SURVEY.to_json() | fields


def outcome(name: str) -> dict[str, Any]:
    data = SURVEY.to_json()
    data["samplers"][0]["cells"][0]["outcome"] = name
    return data


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ([], "the file: Input should be"),
        ({}, "samplers: Field required"),
        (changed(samples=0), "samples: Input should be greater"),
        (changed(refused={"a": 1}), "refused.a: Input should be a valid string"),
        (changed(further=1), "further: Extra inputs"),
        (changed(samplers=[{}]), "samplers.0.name: Field required"),
        (outcome("fine"), "outcome must be one of .*, got 'fine'"),
    ],
)
def test_what_is_no_survey_is_refused_with_one_sentence(
    data: Any, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told) as error:
        load_samplers(written(tmp_path, data))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json' cannot be read \(No such file"):
        load_samplers(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no JSON"):
        load_samplers(tmp_path / "binary.json")
