"""`capcheck init`: writes a commented spec for a user's data."""

from __future__ import annotations

import os
from pathlib import Path

import click

from capcheck.cli.run import SPEC
from capcheck.core.errors import InputError
from capcheck.pipeline.starter import starter
from capcheck.runs.atomic import write_atomically

__all__ = ["init"]


@click.command()
@click.argument("data")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=SPEC,
    show_default=True,
    help="Write the spec to this file.",
)
def init(data: str, out: Path) -> None:
    """Write a commented spec of checks for DATA, a file or a folder as for --data."""
    if os.path.exists(out):
        raise InputError(
            f"out must be a new file, got {str(out)!r}, which exists; delete it first."
        )
    write_atomically(out, starter(data, out))
    click.echo(f"spec: {out}; make its checks: capcheck run {out}")
