"""The command line: `families`, `targets`, `check`, `survey` and `report`.

Exit codes: 0 as expected, 1 not representable, 2 usage or spec error, 3 inconclusive, 4 internal
failure. With `--json` standard output holds the result schema and nothing else.
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
from capcheck.core.version import __version__


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


for command in (families, targets, check, survey, report):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every failure is one sentence and its exit code."""
    session, stdout = Session(), sys.stdout
    sys.stdout = QuietStream(stdout)
    try:
        code = cli.main(standalone_mode=False, obj=session)
    except (Exception, KeyboardInterrupt) as error:
        fail(error, session)
    finally:
        sys.stdout = stdout
        _let_go()
    sys.exit(code)


def _let_go() -> None:
    """Keep the interpreter from complaining, at its end, of a reader that went away."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
