"""A second look confirms a mistake, and not what one seed or one target shows by accident."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from capcheck import check_sampler
from capcheck.samplers.battery import OTHERS, TARGETS, TOKEN_TARGETS
from capcheck.samplers.lint import ROWS, Seen, lint

Network = Callable[[Tensor, float], Tensor]


def euler(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    x = noise
    for j in range(steps, 0, -1):
        t, s = j / steps, (j - 1) / steps
        x = x + (s - t) * (x - network(x, t)) / t
    return x


def shrinking(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    return 0.9 * euler(network, noise, steps, generator)


def attracted(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Moves samples whose mean is near 1/2, where the first data point and target are."""
    x = euler(network, noise, steps, generator)
    near = (x.mean(1, keepdim=True) - 0.5).abs() < 0.2
    return torch.where(near & (x.mean() > 0.45), x + 0.05, x)


LINEAR = {"path": "linear"}


def test_every_target_has_another_of_its_kind() -> None:
    assert set(OTHERS) == {*TARGETS, *TOKEN_TARGETS}
    for name, made in {**TARGETS, **TOKEN_TARGETS}.items():
        assert made().spec.kind == OTHERS[name]().spec.kind
        assert made().fingerprint != OTHERS[name]().fingerprint


def test_a_mistake_is_seen_again_everywhere() -> None:
    found = check_sampler(shrinking, config=LINEAR, steps=[20, 50, 100], samples=400)
    assert {finding.target for finding in found.findings} >= {None, "off-centre"}
    assert all(finding.confirmed for finding in found.findings)


def test_what_one_data_point_shows_is_not_confirmed() -> None:
    found = check_sampler(attracted, config=LINEAR, steps=[100], lint_only=True)
    assert [finding.kind for finding in found.findings] == ["biased_rule"]
    assert found.findings[0].confirmed is False


def test_silent_samplers_are_looked_at_once() -> None:
    calls: list[int] = []

    def counted(network: Network, noise: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        calls.append(len(noise))
        return euler(network, noise, steps, generator)

    assert check_sampler(counted, config=LINEAR, steps=[100], lint_only=True).silent
    assert calls == [ROWS]


@pytest.mark.parametrize(
    ("told", "collide"),
    [
        ((1000.0, 998.0, 990.0, 980.0), True),  # 998 has no bfloat16 of its own: multiples of 4
        ((1000.0, 1000.0, 990.0, 980.0), False),  # equal anyway: another finding
        ((1.0, 0.75, 0.5, 0.25), False),
    ],
)
def test_timesteps_that_bfloat16_cannot_tell_apart_are_named(
    told: tuple[float, ...], collide: bool
) -> None:
    run = Seen(asked=4, levels=(1.0, 0.9, 0.8, 0.7), told=told)
    found = [finding for finding in lint([run]) if "bfloat16" in finding.sentence]
    assert [finding.kind for finding in found] == ["repeated_level"] * collide
    assert all(finding.evidence["collisions"] == [1] for finding in found)
