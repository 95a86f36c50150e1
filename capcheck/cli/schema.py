"""`capcheck schema`: prints the JSON Schema of a spec, which editors check it by."""

from __future__ import annotations

import json

import click

from capcheck.pipeline import spec

__all__ = ["schema"]


@click.command()
def schema() -> None:
    """Print the JSON Schema of a spec, by which editors check and complete it."""
    click.echo(json.dumps(spec.schema(), indent=2))
