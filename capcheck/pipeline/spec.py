"""The spec of a project's checks: what stands in `capacity.toml`, and where it is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from capcheck.core.errors import InputError, near
from capcheck.core.record import Record
from capcheck.core.sequences import Kind
from capcheck.pipeline.toml_places import Place, field_of, line_of, lines_of

__all__ = [
    "CapacitySpec",
    "CheckSpec",
    "Expected",
    "RunSettings",
    "TargetSpec",
    "read_spec",
    "schema",
]

LARGEST = 1 << 20  # bytes of a spec
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a check, which names a folder as well


class TargetSpec(Record):
    """A target: data and the law behind them, or a law on paper.

    Attributes:
        data: File of data, relative to the spec, or data that ship with a dependency; see `--data`.
        spec: A built-in law such as "parity:6"; see `capcheck targets`.
        tokens: See `--tokens`.
        token_dim: See `--token-dim`.
        pca: See `--pca`.
        grid: Rows and columns of the tokens; see `--grid`.
        kind: See `--kind`.
        unit: See `--unit`.
        split: See `--split`.
        law: See `--law`.
        bandwidth: See `--bandwidth`.
    """

    data: str | None = None
    spec: str | None = None
    tokens: int | None = Field(default=None, ge=1)
    token_dim: int | None = Field(default=None, ge=1)
    pca: int | None = Field(default=None, ge=1)
    grid: tuple[int, int] | None = None
    kind: Kind | None = None
    unit: Literal["characters", "bytes", "words"] = "characters"
    split: Literal["file", "lines"] = "file"
    law: str = "auto"
    bandwidth: float | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TargetSpec:
        if (self.data is None) == (self.spec is None):
            raise ValueError("a target must have one of data and spec")
        return self


class RunSettings(Record):
    """Settings of a check that `[defaults]` may give for all of them; see the command line's help.

    Attributes:
        length: See `--length`.
        steps: See `--steps`; of a sampler its numbers of steps.
        given: See `--given`.
        divergences: See `--divergence`.
        tolerance: See `--tolerance`.
        samples: See `--samples`.
        looks: See `--looks`.
        seconds_per_cell: See `--seconds-per-cell`.
        seconds_per_run: See `--seconds-per-run`.
        level: See `--level`.
        seed: See `--seed`.
        diagnose: See `--diagnose`.
        precision: See `--precision`.
        sensitivity: See `--sensitivity`.
    """

    length: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    given: tuple[int, ...] | None = None
    divergences: tuple[str, ...] | None = None
    tolerance: dict[str, float] | None = None
    samples: int | None = None
    looks: int | None = None
    seconds_per_cell: float | None = None
    seconds_per_run: float | None = None
    level: float | None = None
    seed: int | None = None
    diagnose: tuple[str, ...] | None = None
    precision: tuple[str, ...] | None = None
    sensitivity: tuple[float, ...] | None = None


class Expected(Record):
    """What is expected of a check.

    Attributes:
        outcome: The verdict over the grid.
        steps: A budget of at most as many steps suffices.
        length: A budget of at most that length suffices.
        calls: A budget of at most as many model calls suffices.
        at_most: Divergences at the largest budget, in the units of tolerances.
        findings: Kinds of findings that a sampler may have; none by default.
    """

    outcome: Literal["representable", "not_representable", "inconclusive"] = "representable"
    steps: int | None = Field(default=None, ge=1)
    length: int | None = Field(default=None, ge=0)
    calls: int | None = Field(default=None, ge=1)
    at_most: dict[str, float] = Field(default_factory=dict)
    findings: tuple[str, ...] = ()


class CheckSpec(RunSettings):
    """A check: a family on a target, or a sampler.

    Attributes:
        name: Name of the check, which names its folder as well.
        target: Name of a target of the spec.
        family: See `--family`.
        options: Options of the family; see `capcheck families NAME`.
        network: See `--network`; several make a capacity curve.
        objective: See `--objective`.
        fit_steps: See `--fit-steps`.
        sampler: A sampler in place of family and target; see `capcheck sampler`.
        config: Settings of the sampler; see its `--config`.
        expect: What is expected.
        why: Why it matters, for whoever reads a failure.
    """

    name: str
    target: str | None = None
    family: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    network: tuple[str, ...] = ()
    objective: Literal["oracle", "end_to_end", "none"] | None = None
    fit_steps: int | None = Field(default=None, ge=1)
    sampler: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    expect: Expected = Expected()
    why: str = ""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a name must be letters, digits, dots, dashes and underscores")
        return name

    @field_validator("network", mode="before")
    @classmethod
    def _one_or_several(cls, network: Any) -> Any:
        return (network,) if isinstance(network, str) else network

    @model_validator(mode="after")
    def _family_or_sampler(self) -> CheckSpec:
        if (self.family is None) == (self.sampler is None):
            raise ValueError("a check must have one of family and sampler")
        if self.family is not None and self.target is None:
            raise ValueError("a check of a family must have a target")
        of_family = {"target", "options", "network", "objective", "fit_steps"}
        if self.sampler is not None and (wrong := of_family & self.model_fields_set):
            raise ValueError(f"a check of a sampler has no {', '.join(sorted(wrong))}")
        if self.family is not None and "config" in self.model_fields_set:
            raise ValueError("a check of a family has options and no config")
        return self


class CapacitySpec(Record):
    """The checks of a project.

    Attributes:
        defaults: Settings of all checks that do not give their own.
        targets: Targets by name.
        checks: The checks, in the order in which they run.
    """

    defaults: RunSettings = RunSettings()
    targets: dict[str, TargetSpec] = Field(default_factory=dict)
    checks: tuple[CheckSpec, ...] = Field(min_length=1)

    def settings(self, check: CheckSpec) -> dict[str, Any]:
        """The settings of a check: its own, and those of `defaults` that it does not give."""
        names = RunSettings.model_fields
        merged = {name: getattr(self.defaults, name) for name in names}
        merged |= {name: getattr(check, name) for name in names if name in check.model_fields_set}
        return {name: value for name, value in merged.items() if value is not None}


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec."""
    own = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "capacity.toml"}
    return own | {k: v for k, v in CapacitySpec.model_json_schema().items() if k != "title"}


def read_spec(path: Path) -> CapacitySpec:
    """Read and check a spec.

    Raises:
        InputError: The file cannot be read, or a field of it is wrong; the message names the file,
            the line and the field.
    """
    text = _text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: it is no TOML: {error}.") from None
    lines = lines_of(text)
    try:
        spec = CapacitySpec.model_validate(data)
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: line_of(lines, one["loc"]))
        raise InputError(f"{path}:{line_of(lines, first['loc'])}: {_sentence(first)}") from None
    for place, problem in _problems(spec):
        raise InputError(f"{path}:{line_of(lines, place)}: {field_of(place)}: {problem}")
    return spec


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: a spec must have at most {LARGEST:,} bytes.")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        hint = "; `capcheck init DATA` writes one" if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"spec {str(path)!r} cannot be read: {reason}{hint}.") from None


def _problems(spec: CapacitySpec) -> Iterator[tuple[Place, str]]:
    """Where fields contradict each other, and how."""
    seen: set[str] = set()
    for i, check in enumerate(spec.checks):
        if check.name in seen:
            yield ("checks", i, "name"), f"two checks are named {check.name!r}; rename one."
        seen.add(check.name)
        if check.target is not None and check.target not in spec.targets:
            hint = near(check.target, spec.targets) if spec.targets else "there are no targets."
            yield ("checks", i, "target"), f"there is no target {check.target!r}; {hint}"


FIELDS: dict[str, type[Record]] = {
    "targets": TargetSpec,
    "defaults": RunSettings,
    "checks": CheckSpec,
    "expect": Expected,
}


def _sentence(error: ErrorDetails) -> str:
    """What is wrong with a field, in one sentence."""
    place = error["loc"]
    named = field_of(place)
    if error["type"] == "extra_forbidden":
        names = [part for part in place[:-1] if isinstance(part, str) and part in FIELDS]
        model = FIELDS[names[-1]] if names else CapacitySpec
        return f"{named}: there is no such field; {near(str(place[-1]), model.model_fields)}"
    if error["type"] == "missing":
        return f"{named}: it is missing; give it."
    says = error["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    got = error["input"]
    shown = "" if isinstance(got, dict) else f", got {got!r}"
    return f"{named}: {says[:1].lower()}{says[1:]}{shown}."
