"""Users' own samplers: right ones stay silent, and every planted mistake has its name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from capcheck import check_sampler
from capcheck.cli.app import cli
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.samplers.battery import rates
from capcheck.samplers.drawing import Drawing
from capcheck.samplers.findings import Cell, SamplerResult

Network = Callable[[Tensor, float], Tensor]
Sampler = Callable[..., Tensor]
LINEAR = {"path": "linear"}


def euler(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    x = noise
    for j in range(steps, 0, -1):
        t, s = j / steps, (j - 1) / steps
        x = x + (s - t) * (x - network(x, t)) / t
    return x


def ancestral(
    network: Network, noise: Tensor, steps: int, generator: torch.Generator, guided: bool = True
) -> Tensor:
    """DDPM with the small variance on the cosine path."""
    x = noise
    for j in range(steps, 0, -1):
        (a, s), (b, r) = (
            (math.sin(math.pi * (1 - i / steps) / 2), math.sin(math.pi * i / steps / 2))
            for i in (j, j - 1)
        )
        mean, ratio = network(x, j / steps), a / b
        variance = s * s - ratio * ratio * r * r
        x = (ratio * r * r * x + b * variance * mean) / (s * s)
        fresh = torch.randn(x.shape, generator=generator if guided else None, dtype=x.dtype)
        x = x + math.sqrt(variance) * r / s * fresh
    return x


def stops_early(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    x = noise
    for j in range(steps, 0, -1):
        t, s = 0.05 + 0.95 * j / steps, 0.05 + 0.95 * (j - 1) / steps
        x = x + (s - t) * (x - network(x, t)) / t
    return x


def starts_wide(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    return euler(network, 1.2 * noise, steps, generator)


def starts_late(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    x = noise
    for j in range(steps, 0, -1):
        t, s = 0.9 * j / steps, 0.9 * (j - 1) / steps
        x = x + (s - t) * (x - network(x, t)) / t
    return x


def repeats(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    network(noise, 1.0)
    return euler(network, noise, steps - 1, generator)


def skips(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    return euler(network, noise, max(1, steps // 2), generator)


def overshoots(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    return 1.1 * euler(network, noise, steps, generator)


def wrong_slope(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Its answer is pulled to the mean of the batch, which a single point does not show."""
    x = noise
    for j in range(steps, 0, -1):
        t, s = j / steps, (j - 1) / steps
        x = x + (s - t) * (x - 1.2 * network(x, t) + 0.2 * 0.5) / t
    return x


def breaks(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    if steps > 10:
        raise IndexError("index 11 is out of bounds")
    return euler(network, noise, steps, generator)


def kinds(sampler: Sampler, **how: Any) -> set[str]:
    how = {"config": LINEAR, "steps": [4, 20], "lint_only": True, **how}
    return {finding.kind for finding in check_sampler(sampler, **how).findings}


def test_right_samplers_stay_silent_and_converge() -> None:
    for sampler, config in ((euler, LINEAR), (ancestral, {})):
        found = check_sampler(sampler, config=config, steps=[1, 10, 100], samples=500)
        assert found.silent, found.findings
        exact = [cell for cell in found.cells if cell.exact]
        assert len(exact) >= 12
        last = [cell.outcome for cell in exact if cell.steps == 100 and cell.target == "wide"]
        first = {cell.outcome for cell in exact if cell.steps == 1}
        assert (last, first) == (["representable"], {"not_representable"})
        if sampler is euler:
            assert rates(found.cells)["wide"] == pytest.approx(2, abs=0.2)  # of order 1


def heun(
    network: Network, noise: Tensor, steps: int, generator: torch.Generator, late: bool = False
) -> Tensor:
    """Heun's method; if it is `late`, its second stage asks at the time of the first."""
    x = noise
    for j in range(steps, 0, -1):
        t, s = j / steps, (j - 1) / steps
        slope = (x - network(x, t)) / t
        if s > 0:
            ahead = x + (s - t) * slope
            level = t if late else s
            slope = 0.5 * (slope + (ahead - network(ahead, level)) / level)
        x = x + (s - t) * slope
    return x


def test_a_mistake_in_the_second_stage_shows_in_the_fall_of_the_error() -> None:
    how: dict[str, Any] = {"steps": [10, 40], "samples": 300}
    right = check_sampler(heun, config=LINEAR, **how)
    wrong = check_sampler(heun, config=LINEAR | {"late": True}, **how)
    assert rates(right.cells)["wide"] == pytest.approx(4, abs=0.2)  # order 2
    assert rates(wrong.cells)["wide"] < 2.5
    assert "modes" not in rates(right.cells)  # whose errors are estimates
    assert (right.silent, wrong.silent) == (True, True)
    assert right.conclusion == "nothing was found" or "40 steps" in right.conclusion


def test_a_conclusion_names_the_targets_that_most_steps_do_not_reach() -> None:
    def cell(target: str, steps: int, error: float) -> Cell:
        outcome = "representable" if error < 1 else "not_representable"
        errors = {"kl": (error, error, error)}
        return Cell(
            target=target, steps=steps, calls=1, outcome=outcome, reason="", divergences=errors,
            exact=True,
        )  # fmt: skip

    cells = [cell("wide", 4, 8.0), cell("wide", 8, 2.0), cell("modes", 4, 9.0), cell("modes", 8, 0)]
    found = SamplerResult(name="x", config={}, versions={}, findings=(), cells=tuple(cells), seed=0)
    assert rates(found.cells) == {"wide": 2.0}  # an error of 0 has none
    assert "8 steps are not within the tolerance of wide: see" in found.conclusion
    near = found.model_copy(update={"cells": (cell("wide", 8, 0.5),)})
    assert (rates(near.cells), near.conclusion) == ({}, "nothing was found")


def test_a_time_that_runs_the_other_way_is_told() -> None:
    def reversed_time(network: Network, noise: Tensor, steps: int, generator: Any) -> Tensor:
        x = noise
        for j in range(steps):
            x = x + (network(x, j / steps) - x) / (steps - j)
        return x

    [found, *_] = check_sampler(reversed_time, config=LINEAR, steps=[4], lint_only=True).findings
    assert found.kind == "prior_mismatch"
    assert "network(x, 1 - t)" in found.sentence


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        (stops_early, "leftover_noise"),
        (starts_wide, "prior_mismatch"),
        (starts_late, "prior_mismatch"),
        (repeats, "repeated_level"),
        (skips, "fewer_steps"),
        (overshoots, "biased_rule"),
    ],
)
def test_a_planted_mistake_has_its_name(sampler: Sampler, kind: str) -> None:
    assert kind in kinds(sampler)
    assert kinds(euler) == set()


def test_draws_without_the_generator_are_seen() -> None:
    assert kinds(ancestral, config={"guided": False}) == {"ignores_generator"}
    assert kinds(ancestral, config={"guided": True}) == set()


def test_a_bias_that_a_single_point_hides_is_found_by_the_targets() -> None:
    assert kinds(wrong_slope) == set()
    found = check_sampler(wrong_slope, config=LINEAR, steps=[20, 50, 100], samples=500)
    biased = {f.target for f in found.findings if f.kind in ("biased_rule", "no_convergence")}
    assert {"wide", "narrow", "correlated"} <= biased


def test_what_a_sampler_raises_is_the_result_of_its_cells() -> None:
    found = check_sampler(breaks, config=LINEAR, steps=[5, 50], samples=500)
    (finding,) = found.findings
    assert (finding.kind, finding.steps) == ("raises", (50,))
    assert finding.sentence == "IndexError: index 11 is out of bounds"
    outcomes = {(cell.steps, cell.outcome == "raises") for cell in found.cells}
    assert outcomes == {(5, False), (50, True)}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="steps must be whole numbers of at least 1"):
        check_sampler(euler, steps=[0])
    with pytest.raises(InputError, match="samples must be a whole number of at least 200"):
        check_sampler(euler, config=LINEAR, samples=10)
    with pytest.raises(InputError, match="seed must be a whole number"):
        check_sampler(euler, config=LINEAR, seed=-1)
    with pytest.raises(InputError, match="path must be cosine or linear"):
        check_sampler(euler, config={"path": "straight"})
    with pytest.raises(
        InputError, match="sampler no_such_module:f names a module that cannot be imported"
    ):
        check_sampler("no_such_module:f")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("..:f", "TypeError"),
        ("", "ValueError"),
        ("math", "math has no ''"),
        ("math:pi", "must name a function, got float"),
        ("broken:f", "SyntaxError"),
        ("raising:f", "RuntimeError: no licence"),
    ],
)
def test_names_of_nothing_get_one_sentence(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "raising.py").write_text("raise RuntimeError('no licence\\nat all')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=f"^sampler {re.escape(name)} .*{reason}") as found:
        check_sampler(name)
    assert "\n" not in str(found.value)


def test_draws_come_from_the_source_whatever_the_call() -> None:
    rng, again = (CounterRandomness(3) for _ in range(2))
    like = torch.zeros(4, 2)
    with Drawing(rng, 4) as drawing:
        found = [
            torch.randn(4, 2), torch.randn((4, 2), dtype=torch.float64), torch.randn(size=(4, 2)),
            torch.randn_like(like), torch.rand(4, 2, generator=torch.Generator()),
        ]  # fmt: skip
    for draw, normal in zip(found, [True] * 4 + [False], strict=True):
        expected = again.normal((4, 2)) if normal else again.uniform((4, 2))
        torch.testing.assert_close(draw.double(), expected, atol=1e-6, rtol=0)
    assert (drawing.draws, drawing.unguided) == (5, 4)
    assert found[1].dtype == torch.float64
    assert not torch.equal(torch.randn(4, 2), found[0])


MODULE = """
def sampler(network, noise, steps, generator):
    x = noise
    for j in range(steps, 0, -1):
        t, s = j / steps, (j - 1) / steps
        x = x + (s - t) * (x - network(x, t)) / t
    return {factor} * x
"""


def test_the_command_names_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "straight.py").write_text(MODULE.format(factor=1))
    (tmp_path / "bent.py").write_text(MODULE.format(factor=1.1))

    def run(*words: str) -> Any:
        return CliRunner().invoke(cli, ["sampler", *words], standalone_mode=False)

    good = run("straight:sampler", "--config", "path=linear", "--steps", "4,50")
    assert good.return_value == 0
    assert "nothing was found" in good.output
    assert "off-centre" in good.output
    bad = run("bent:sampler", "--config", "path=linear", "--steps", "4", "--lint", "--json")
    data = json.loads(bad.output)
    assert bad.return_value == 1
    assert [finding["kind"] for finding in data["findings"]] == ["biased_rule"]
    assert data["versions"]["capcheck"]
    assert data["cells"] == []
    kept = tmp_path / "kept"
    again = run(
        "bent:sampler", "--config", "path=linear", "--steps", "4", "--lint", "--out", str(kept)
    )
    assert again.exception is None
    before = (kept / "samplers.json").read_text()
    assert json.loads(before)["samplers"] == [data]
    assert "bent:sampler" in (kept / "samplers.html").read_text()
    run("diffusers:Nothing", "--out", str(kept))
    assert (kept / "samplers.json").read_text() == before
    refused = run("straight:sampler", "--config", "path")
    assert isinstance(refused.exception, InputError)
