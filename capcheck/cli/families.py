"""`capcheck families`: lists the families, or shows the card of one family."""

from __future__ import annotations

import click

from capcheck.cli.console import output
from capcheck.cli.paper_table import families_table
from capcheck.procedures.listing import listed_families

__all__ = ["families"]


@click.command()
@click.argument("name", required=False)
def families(name: str | None) -> None:
    """List the families, or show the card of one family."""
    if name is None:
        output().print(families_table(listed_families()))
        return
    from capcheck.cli.catalogue import family_card  # a list of families does without torch
    from capcheck.procedures.registry import build_probe

    output().print(family_card(build_probe(name)))
