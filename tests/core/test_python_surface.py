"""Wrong values of the Python interface: each ends in an `InputError` of one line with its field."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click import Context
from torch import nn

import capcheck
from capcheck import Budget, InputError, targets
from capcheck.cli.app import COMMANDS, cli
from capcheck.procedures.registry import build_probe, families, probe_class
from capcheck.runs.engine import Engine
from capcheck.runs.options import RunOptions
from capcheck.runs.planning import engine_of_check, engine_of_survey
from capcheck.targets.categorical.model_folder import ModelFolder
from capcheck.targets.provenance import HeldOut, Picture, Provenance

HOSTILE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "-1": lambda: -1,
    "0": lambda: 0,
    "3": lambda: 3,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "a very large int": lambda: 10**400,
    "empty text": lambda: "",
    "text": lambda: "x",
    "text of two lines": lambda: "x\ny",
    "digits": lambda: "0",
    "bytes": lambda: b"x",
    "empty list": list,
    "empty dict": dict,
    "list of None": lambda: [None],
    "list of lists": lambda: [[1], [2]],
    "ragged list": lambda: [[1], [2, 3]],
    "list of texts": lambda: ["x", ""],
    "list of NaN": lambda: [float("nan")],
    "list of a large int": lambda: [10**400],
    "dict of None": lambda: {"x": None},
    "dict with a number as key": lambda: {1: 2},
    "set": lambda: {1, 2},
    "object": object,
    "class": lambda: int,
    "scalar array": lambda: np.array(1.0),
    "numpy bool": lambda: np.bool_(True),
    "array": lambda: np.zeros((20, 20)),
    "array of objects": lambda: np.array([None, "x"], dtype=object),
    "tensor": lambda: torch.zeros(20, 20),
    "tensor of integers": lambda: torch.zeros(2, 2, dtype=torch.long),
    "empty tensor": lambda: torch.zeros(0),
    "complex tensor": lambda: torch.zeros(1, 2, 2, dtype=torch.complex128),
    "path": lambda: Path("x"),
    "function": lambda: lambda: None,
    "numpy int": lambda: np.int64(2),
    "integer tensor": lambda: torch.tensor(2),
    "text with NUL": lambda: "x\0y",
    "generator": lambda: (value for value in (None, 1)),
    "complex": lambda: 1j,
    "module": lambda: nn.Linear(1, 1),
    "dtype": lambda: torch.float16,
}
"""Makers of values, each of which is wrong for most fields."""

SAID_AS = {
    "lengths": "length",
    "families": "famil(y|ies)",
    "divergences": "divergences?",
    "networks": "networks?",
    "vocabularies": "vocabular(y|ies)",
    "sequences": "sequences?|a table|rows",
    "vocabulary": "vocabulary|symbols",
    "path": "path|file",
    "x": "samples|ids|bandwidth|smoothing",
    "fit_steps": "fit_steps|objective",
    "fit_seconds": "fit_seconds|objective",
    "token_dim": "token.dim",
    "spec": "target",
    "options": "options?",
    "probabilities": "probabilit(y|ies)",
    "budgets": "budgets?",
    "budget": "[Bb]udget",
    "data": "data|rows",
}
"""Words that stand for a field in messages, where they are not its name."""


class Measured(Exception):  # noqa: N818
    """The arguments are fine, and the measurement would begin."""


def _measured(*_: Any, **__: Any) -> Any:
    raise Measured


def one_step(
    network: Callable[..., Any], noise: torch.Tensor, steps: int, generator: torch.Generator
) -> Any:
    return network(noise, 1.0)


def draft_is_kept(target: Any, draft: Any, token: Any, generator: Any) -> Any:
    return token


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A target, a result and the folder of its run, which the calls share."""
    target = targets.from_spec("modes:tokens=2")
    folder = tmp_path_factory.mktemp("surface") / "run"
    few: Mapping[str, Any] = {"samples": 200, "lengths": [2], "steps": [1], "divergences": ["mmd"]}
    result = capcheck.check("gpt", target, out=folder, **few)
    plan = capcheck.decoding_plan(targets.from_spec("parity:2"))
    return {"target": target, "result": result, "folder": folder, "plan": plan}


def _table(ground: dict[str, Any]) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Functions of the interface, each with arguments that are right."""
    run = dict.fromkeys(
        (
            *("lengths", "steps", "divergences", "tolerance", "precision", "sensitivity"),
            *("diagnose", "samples", "given", "looks", "seconds_per_cell", "seconds_per_run"),
            *("seed", "level", "device", "batch", "workers", "executor", "out", "progress"),
        ),
        ...,
    )
    fits = dict.fromkeys(("options", "network", "fit_steps", "fit_seconds"), ...)
    family = {"family": "gpt", "target": ground["target"]}
    check = {**family, **run, **fits, "objective": ...}
    fit: dict[str, Any] = dict.fromkeys(
        ("seconds", "batch", "seed", "learning_rate", "folder", "progress"), ...
    )
    fit |= {"objective": ..., "steps": ..., "budgets": [Budget(length=2, steps=1)]}
    plan = dict.fromkeys(("calls", "tolerance", "samples", "seed", "level", "progress"), ...)
    sampler = dict.fromkeys(("config", "steps", "samples", "seed", "progress"), ...)
    work = dict.fromkeys(("shard", "target", "networks", "workers", "device", "batch"), ...)
    rule = {"vocabularies": [3], "draws": 1000, "seed": ...}
    return {
        "check": (capcheck.check, check),
        "survey": (capcheck.survey, {"target": ground["target"], "families": ..., **fits}),
        "fit": (capcheck.fit, {**family, "module": nn.Linear(1, 1), **fit}),
        "decoding_plan": (
            capcheck.decoding_plan,
            {"target": targets.from_spec("parity:2"), **plan},
        ),
        "check_sampler": (
            capcheck.check_sampler,
            {"sampler": one_step, "lint_only": True, **sampler},
        ),
        "check_acceptance": (capcheck.check_acceptance, {"rule": draft_is_kept, **rule}),
        "work": (capcheck.work, {"folder": ground["folder"], **work, "progress": ...}),
        "report": (capcheck.report, {"result": ground["plan"], "path": "page.html", "kind": ...}),
        "save": (capcheck.save, {"result": ground["result"], "folder": "kept"}),
        "gate": (capcheck.gate, _gate()),
        **_records(),
        **_laws(),
    }


def _gate() -> dict[str, Any]:
    """Arguments of `gate`; the data are so few that a law takes no time."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    names = "budget on_fail inconclusive seconds options network tolerance divergences given level "
    names += "seed device rows tokens token_dim pca grid kind progress"
    right = {"data": x, "family": "gpt", "law": "gaussian", "keep": False}
    return right | dict.fromkeys(names.split(), ...)


def _records() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """What laws are described by, with arguments that are right."""
    score = {"log_likelihood": -1.0, "in_sample": -1.0, "baseline": -2.0, "baseline_name": "b"}
    image = {"rows": 1, "columns": 2, "offset": [0.0, 0.0], "basis": [[1.0, 0.0], [0.0, 1.0]]}
    return {
        "Budget": (Budget, {"length": 1, "steps": 1}),
        "HeldOut": (HeldOut, {"rows": 5, **score, "dependence": ...}),
        "Picture": (Picture, image),
        "Provenance": (
            Provenance,
            {"description": "d", "exactness": "analytic", "held_out": ..., "picture": ...},
        ),
    }


def _laws() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """The makers of targets, each with arguments that are right."""
    more = {"weights": ..., "grid": ..., "provenance": ...}
    ones = torch.ones(1, 2, 1, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    ids = torch.tensor([[0, 1], [1, 0]])
    x = np.array([[0.0, 0.0], [0.1, 0.2], [1.0, 1.1], [0.9, 1.0]])
    chain = {"tokens": 2, "grid": ..., "scored": ..., "provenance": ...}
    return {
        "from_spec": (targets.from_spec, {"spec": "parity:2"}),
        "from_samples": (
            targets.from_samples,
            {"x": x, "bandwidth": 0.5, "weights": ..., "grid": ...},
        ),
        "from_samples of ids": (
            targets.from_samples,
            {"x": ids, "smoothing": 0.1, "vocabulary": ..., "weights": ..., "grid": ...},
        ),
        "from_table": (targets.from_table, {"joint": eye, "grid": ...}),
        "uniform_over": (
            targets.uniform_over,
            {
                "sequences": [[0, 1]],
                "vocabulary": 2,
                "description": "d",
                "weights": ...,
                "grid": ...,
            },
        ),
        "from_sklearn": (targets.from_sklearn, {"model": _sklearn(x), "tokens": 2, "grid": ...}),
        "from_causal_lm": (
            targets.from_causal_lm,
            {"folder": "nowhere", "tokens": 2, "prompt": ..., "dtype": ...},
        ),
        "GaussianMixture": (
            targets.GaussianMixture,
            {"means": ones, "covariances": eye[None], **more},
        ),
        "DiagonalMixture": (targets.DiagonalMixture, {"means": ones, "scales": ones, **more}),
        "ProductMixture": (
            targets.ProductMixture,
            {"means": ones, "scales": ones[0], "dtype": ..., **more},
        ),
        "CategoricalMixture": (
            targets.CategoricalMixture,
            {"probabilities": torch.full((1, 2, 2), 0.5), **more},
        ),
        "CategoricalMixture.of_rows": (
            targets.CategoricalMixture.of_rows,
            {"rows": ids, "vocabulary": ..., "smoothing": ..., "marginals": ..., "dtype": ...}
            | more,
        ),
        "MarkovChain": (
            targets.MarkovChain,
            {"conditionals": [eye[0], eye], "tokens": 2, "grid": ..., "provenance": ...},
        ),
        "HiddenMarkov": (
            targets.HiddenMarkov,
            {"initial": eye[0], "transition": eye, "emission": eye, **chain},
        ),
        "HiddenMarkov.from_potentials": (
            targets.HiddenMarkov.from_potentials,
            {"initial": eye[0], "transition": eye, "emission": eye, **chain},
        ),
    }


def _sklearn(x: np.ndarray) -> Any:
    from sklearn.mixture import GaussianMixture as Fitted

    return Fitted(1).fit(x)


def _calls(ground: dict[str, Any]) -> Iterator[tuple[str, str, str, Callable[[], Any]]]:
    """Every field with every hostile value, and all other fields right."""
    for name, (function, arguments) in _table(ground).items():
        right = {key: value for key, value in arguments.items() if value is not ...}
        for field in arguments:
            for kind, make in HOSTILE.items():
                if field == "progress" and callable(make()):
                    continue  # what a caller's function raises is the caller's to see
                yield name, field, kind, partial(_called, function, right, field, make)


def _called(
    function: Callable[..., Any], right: dict[str, Any], field: str, make: Callable[[], Any]
) -> Any:
    return function(**{**right, field: make()})


def _wrong_end(field: str, call: Callable[[], Any]) -> str:
    """How a call ends, if it neither is fine nor raises a sentence about the field."""
    try:
        call()
    except Measured:
        return ""
    except InputError as error:
        text, word = str(error), SAID_AS.get(field, re.escape(field))
        if "\n" in text or len(text) > 400:
            return f"not one line: {text[:120]!r}"
        if not re.search(rf"(?<![a-z])({word})(?![a-z])", text):
            return f"no field: {text}"
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    return ""


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stubs in place of all that takes time, and an own folder for what is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Engine, "run", _measured)
    monkeypatch.setattr(Engine, "help", _measured)
    monkeypatch.setattr(ModelFolder, "open", _measured)
    for module, name in (
        ("fitting.fit", "RecordedRun"),
        ("samplers.check_sampler", "cells_of"),
        ("samplers.acceptance", "_bias"),
    ):
        monkeypatch.setattr(importlib.import_module(f"capcheck.{module}"), name, _measured)


def test_a_wrong_value_ends_in_a_sentence_with_its_field(
    ground: dict[str, Any], nothing_is_measured: None
) -> None:
    wrong = [
        f"{name}({field}={kind}): {end}"
        for name, field, kind, call in _calls(ground)
        if (end := _wrong_end(field, call))
    ]
    assert wrong == [], "\n".join([f"{len(wrong)} wrong ends", *wrong])


@pytest.mark.parametrize("family", families())
def test_a_wrong_option_of_a_family_ends_in_a_sentence(family: str) -> None:
    fields = [field.name for field in dataclasses.fields(probe_class(family))]
    wrong = [
        f"{family}({field}={kind}): {end}"
        for field in fields
        for kind, make in HOSTILE.items()
        if (end := _wrong_end(field, partial(_built, family, field, make)))
    ]
    assert wrong == [], "\n".join(wrong)


def _built(family: str, field: str, make: Callable[[], Any]) -> Any:
    return build_probe(family, {field: make()})


def test_none_is_the_default_of_every_keyword_of_a_run(
    ground: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of_check("gpt", ground["target"])
    nothing: Any = dict.fromkeys(RunOptions.__annotations__)
    other = engine_of_check("gpt", ground["target"], **nothing)
    assert other._settings == engine._settings
    with pytest.raises(InputError, match="'none' is no keyword"):
        engine_of_check("gpt", ground["target"], none=None)  # type: ignore[call-arg]


def test_values_that_can_mean_one_thing_are_accepted(ground: dict[str, Any]) -> None:
    written: Any = {
        "steps": np.array([1, 4]),
        "lengths": (k for k in (0, 1)),  # one of the two tokens is given
        "divergences": "kl,mmd",
        "diagnose": "stein",
        "precision": "float32,bfloat16",
        "sensitivity": np.array([0.1]),
        "tolerance": {"kl": np.float32(0.5)},
        "samples": np.int64(400),
        "given": torch.tensor([0]),
        "level": np.float64(0.9),
        "seconds_per_run": 5,
        "device": torch.device("cpu"),
    }
    settings = engine_of_check("gpt", ground["target"], **written)._settings
    assert (settings.grid.steps, settings.grid.lengths) == ((1, 4), (0, 1))
    assert settings.tolerances == {"kl": 0.5, "mmd": 0.004}
    assert settings.precisions == ("float32", "bfloat16")
    assert (settings.diagnose, settings.sensitivity) == (("stein",), (0.1,))
    assert (settings.samples, settings.given, settings.level) == (400, (0,), 0.9)
    assert {type(settings.samples), type(settings.grid.steps[0])} == {int}


def test_a_survey_takes_one_family_or_names_with_commas(ground: dict[str, Any]) -> None:
    def surveyed(families: Any) -> list[str]:
        return [
            one.probe.family for one in engine_of_survey(ground["target"], families)._candidates
        ]

    assert surveyed("gpt") == surveyed(["gpt"]) == surveyed(build_probe("gpt"))
    assert surveyed("gpt,diffusion") == surveyed(iter(["gpt", "diffusion"]))


def test_a_grid_is_the_same_as_a_list() -> None:
    joint = torch.full((2, 2), 0.25, dtype=torch.float64)
    wrong: Any = [np.int64(1), 2]
    target = targets.from_table(joint, grid=wrong)
    assert target.spec.grid == (1, 2)
    assert target.fingerprint == targets.from_table(joint, grid=(1, 2)).fingerprint


def test_messages_name_options_that_exist() -> None:
    root = Path(capcheck.__file__).parent
    known = {"--help"}
    for command in (cli, *(cli.get_command(Context(cli), name) for name in COMMANDS)):
        assert command is not None
        for option in command.params:
            known |= {*option.opts, *option.secondary_opts}
    named = {
        (found, file.relative_to(root).as_posix())
        for folder in (root, root / "probes", root / "reports")
        for file in folder.rglob("*.py")
        for text in _messages(ast.parse(file.read_text(encoding="utf-8")))
        for found in re.findall(r"(?<![\w(-])--[a-z][a-z-]*", text)  # var(--x) is a variable of CSS
    }
    assert len(named) > 20
    assert {(option, file) for option, file in named if option not in known} == set()


def _messages(module: ast.Module) -> Iterator[str]:
    """All text of a module but its docstrings, which are statements of their own."""
    described = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in described else None
        if isinstance(text, str):
            yield text
