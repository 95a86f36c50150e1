"""`capcheck families`: lists the families, or shows the card of one family."""

from __future__ import annotations

import click

from capcheck.cli.catalogue import families_table, family_card
from capcheck.cli.terminal import output
from capcheck.procedures.registry import build_probe, probe_class
from capcheck.procedures.registry import families as registered

__all__ = ["families"]


@click.command()
@click.argument("name", required=False)
def families(name: str | None) -> None:
    """List the families, or show the card of one family."""
    if name is None:
        output().print(families_table([probe_class(family) for family in registered()]))
        return
    output().print(family_card(build_probe(name)))
