"""`capcheck work`: measures a part of a run that was started elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from capcheck import api
from capcheck.cli.options import MACHINE
from capcheck.cli.parameters import GroupedCommand, grouped, with_options
from capcheck.cli.progress import live_progress
from capcheck.core.errors import InputError
from capcheck.runs.engine import Engine

__all__ = ["start", "work"]


class _Shard(click.ParamType[tuple[int, int]]):
    name = "I/N"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        i, slash, n = str(value).partition("/")
        if slash and i.isdecimal() and n.isdecimal():
            return int(i), int(n)
        self.fail(f"must be two numbers, as in 1/4, got {value!r}.", param, ctx)


@click.command(cls=GroupedCommand)
@click.argument("folder", type=click.Path(path_type=Path))
@grouped(
    "run",
    "--shard",
    type=_Shard(),
    default="1/1",
    show_default=True,
    help="Begin where the i-th of n such commands should; each helps the others in the end.",
)
@grouped(
    "run",
    "--network",
    "networks",
    metavar="NAME",
    multiple=True,
    help="Allow this package.module:factory, which the run fits or measures.",
)
@with_options(MACHINE)
def work(
    folder: Path,
    shard: tuple[int, int],
    workers: int,
    networks: Sequence[str],
    device: str,
    batch: int,
) -> None:
    """Measure cells of a run beside any number of other such commands.

    The run in FOLDER is started by `capcheck check` or `capcheck survey` with --out FOLDER, and
    with --start-only if nothing should be measured there. The command ends when the run is whole;
    `capcheck report FOLDER` then writes the report.
    """
    with live_progress() as progress:
        api.work(
            folder,
            shard=shard,
            networks=networks,
            workers=workers,
            device=device,
            batch=batch,
            progress=progress,
        )
    click.echo(f"the run is whole: capcheck report {folder}")


def start(engine: Engine, folder: Path | None) -> None:
    """Start a run and measure nothing, for `--start-only`.

    Raises:
        InputError: There is no folder to start it in.
    """
    if folder is None:
        raise InputError("--start-only needs a folder for the run, got none; give --out FOLDER.")
    engine.start()
    click.echo(f"the run is started; measure it: capcheck work {folder}")
