"""`capcheck targets`: lists the built-in laws and their parameters."""

from __future__ import annotations

import click

from capcheck.cli.catalogue import targets_table
from capcheck.cli.console import output

__all__ = ["targets"]


@click.command()
def targets() -> None:
    """List the built-in targets and their parameters."""
    output().print(targets_table())
    click.echo("A spec is NAME:value,value or NAME:key=value,key=value, e.g. gaussian:ar1,rho=0.5.")
