"""`capcheck work`: measures a part of a run that was started elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from capcheck import api
from capcheck.cli.failures import debugging
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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--shard",
    type=_Shard(),
    default="1/1",
    show_default=True,
    help="Begin where the i-th of n such commands should; each helps the others in the end.",
)
@click.option(
    "--workers",
    type=int,
    default=0,
    envvar="CAPCHECK_WORKERS",
    show_envvar=True,
    help="Measure with this many processes, of one thread each.  [default: one per core or GPU]",
)
@click.option(
    "--network",
    "networks",
    metavar="NAME",
    multiple=True,
    help="Allow this package.module:factory, which the run fits or measures.",
)
@click.option(
    "--device", default="auto", show_default=True, help="Run on this device: auto, cpu or cuda[:N]."
)
@click.option("--batch", type=int, default=1024, show_default=True, help="Rows at a time.")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=debugging,
    help="Show the traceback of a failure.",
)
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
