"""The pytest plugin: the fixture `capacity`, and the marker of the same name for its settings.

    @pytest.mark.capacity(tolerance={"kl": 0.02}, samples=500)
    def test_the_sampler_suffices(capacity):
        capacity("diffusion", target, steps=[64])

It is loaded with every pytest of an environment that has capcheck, and imports nothing of it before
the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from capcheck.pipeline.gate_result import GateResult
    from capcheck.results.survey import CheckResult

__all__ = ["Capacity", "capacity", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "capacity(**keywords): settings of the fixture `capacity` in this test, such as tolerance, "
        "samples and level; see capcheck.check.",
    )


@pytest.fixture
def capacity(request: pytest.FixtureRequest) -> Capacity:
    """Checks families; a check that does not pass fails the test, with its table."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("capacity"))):  # the nearest comes last
        if marker.args:
            raise pytest.UsageError(f"the marker capacity takes keywords only, got {marker.args}.")
        settings |= marker.kwargs
    return Capacity(settings)


class Capacity:
    """What the fixture `capacity` gives a test.

    Args:
        settings: Keywords of the test's markers.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def __call__(
        self, family: Any, target: Any, *, outcome: str = "representable", **keywords: Any
    ) -> CheckResult:
        """Check a family as `capcheck.check` does, and fail the test if the verdict is another.

        Args:
            family: See `capcheck.check`.
            target: See `capcheck.check`.
            outcome: Verdict that is expected: `representable`, `not_representable` or
                `inconclusive`.
            **keywords: Keywords of `capcheck.check`, before those of the markers.

        Returns:
            The result of the check.
        """
        __tracebackhide__ = True
        from capcheck.api import check

        result = check(family, target, **{**self.settings, **keywords})
        if result.outcome.value != outcome:
            pytest.fail(_said(result, outcome), pytrace=False)
        return result

    def gate(self, data: Any, *, family: Any, **keywords: Any) -> GateResult:
        """Ask `capcheck.gate` about data, and fail the test if it does not pass.

        Args:
            data: See `capcheck.gate`.
            family: See `capcheck.gate`.
            **keywords: Keywords of `capcheck.gate`, before those of the markers.

        Returns:
            The result of the gate.
        """
        __tracebackhide__ = True
        from capcheck.pipeline.gate import gate
        from capcheck.results.survey import CapacityError

        try:
            return gate(data, family=family, **{**self.settings, **keywords})
        except CapacityError as error:
            table = "" if error.result is None else "\n" + _table(error.result)
            pytest.fail(f"{error}{table}", pytrace=False)


def _said(result: CheckResult, expected: str) -> str:
    words = result.outcome.value.replace("_", " ")
    lines = [
        f"{result.found.title} on {result.target.name} is {words}, expected was "
        f"{expected.replace('_', ' ')}: {result.reason}",
        _table(result),
        *(f"cause: {one.failure}; {one.sentence}" for one in result.found.causes if one.removed),
    ]
    return "\n".join(lines)


def _table(result: CheckResult) -> str:
    """Every budget with its divergences and its verdict, in columns."""
    names = list(result.settings.tolerances)
    rows = [["length", "steps", "calls", *names, "verdict"]]
    rows += [
        [
            str(cell.budget.length),
            str(cell.budget.steps),
            str(cell.model_calls),
            *(str(cell.estimates[name]) for name in names),
            cell.outcome.value.replace("_", " "),
        ]
        for cell in result.cells
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
