"""`capcheck selftest`: tests this installation against closed forms and planted defects."""

from __future__ import annotations

import click

from capcheck.cli.console import output
from capcheck.cli.tables import folding
from capcheck.pipeline import selftest as tests
from capcheck.runs.environment import environment

__all__ = ["selftest"]


@click.command()
@click.option("--device", default="auto", show_default=True, help="Run on this device.")
def selftest(device: str) -> None:
    """Test capcheck on this machine against closed forms and planted defects, in under a minute."""
    console = output()
    table = folding("test", "expected", "found", "", "s")
    failed = 0
    for one in tests.selftest(device):
        failed += not one.passed
        mark = "passed" if one.passed else "FAILED"
        table.add_row(one.name, one.expected, one.found, mark, f"{one.seconds:.1f}")
        click.echo(f"{mark}: {one.name}", err=True)
    console.print(table)
    console.print(", ".join(f"{name} {version}" for name, version in environment().items()))
    raise SystemExit(1 if failed else 0)
