"""The command `capcheck` and its subcommands: families, targets, check, survey, work, report.

Exit codes are 0 for success, 1 for not representable, 2 for wrong use or bad input, 3 for
inconclusive, and 4 for an internal failure. With `--json` standard output holds the result schema
and nothing else.
"""

from __future__ import annotations

import os
import sys

import click

from capcheck.cli.check import check
from capcheck.cli.failures import QuietStream, Session, debugging, fail
from capcheck.cli.families import families
from capcheck.cli.report import report
from capcheck.cli.survey import survey
from capcheck.cli.targets import targets
from capcheck.cli.work import work
from capcheck.core.version import __version__

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="capcheck")
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=debugging,
    help="Show the traceback of a failure.",
)
def cli() -> None:
    """Tell before training whether a generative model can do what you want at inference."""


for command in (families, targets, check, survey, work, report):
    cli.add_command(command)


def main() -> None:
    """Run the command line; a failure prints one sentence and sets the exit code."""
    session, stdout = Session(), sys.stdout
    sys.stdout = QuietStream(stdout)
    try:
        code = cli.main(standalone_mode=False, obj=session)
    except (Exception, KeyboardInterrupt) as error:
        fail(error, session)
    finally:
        sys.stdout = stdout
        _flush_or_discard()
    sys.exit(code)


def _flush_or_discard() -> None:
    """Flush standard output, or redirect it to the null device if its reader has closed it.

    The interpreter would otherwise print a warning when it flushes the stream at exit.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
