"""The command `capcheck` and its subcommands, which `COMMANDS` lists.

Exit codes are 0 for success, 1 for not representable, 2 for wrong use or bad input, 3 for
inconclusive, 4 for an internal failure, and 5 if a package that capcheck needs cannot be imported.
They are 128 plus the number of the signal that stopped the command, which is SIGPIPE if the reader
of its output left early. With `--json` standard output holds the result schema and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

try:
    import click

    from capcheck.cli.failures import (
        CLOSED_PIPE,
        QuietStream,
        Session,
        Stopped,
        debugging,
        fail,
        stoppable,
    )
except ImportError as error:  # Python would exit with 1, which means "not representable"
    sys.stderr.write(f"error: {error}; capcheck needs this package, install it.\n")
    sys.exit(5)
from capcheck.core.memory import NVIDIA, keep_freed_memory, kept_objects, limit_memory
from capcheck.core.version import __version__
from capcheck.runs import standby

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "families": "List the families, or show the card of one family.",
    "targets": "List the built-in targets and their parameters.",
    "check": "Check whether one family can produce a target, and at which budget.",
    "survey": "Measure every family on one target, and write the report.",
    "init": "Write a commented spec of checks for DATA, a file or a folder as for --data.",
    "run": "Make the checks of a spec, and say which are as expected.",
    "plan": "Tell what a survey, or the checks of a spec, would cost before they are made.",
    "sampler": "Check a sampler of another library, or your own, with the oracle as its network.",
    "plan-decoding": "Tell how many tokens a parallel decoder may place per step.",
    "work": "Measure cells of a run beside any number of other such commands.",
    "show": "Print a saved run, also one that is not whole yet, judged anew from its cells.",
    "compare": "Compare the saved runs BEFORE and AFTER, and exit with 1 if anything got worse.",
    "report": "Write the HTML report of a saved run, a summary of it in Markdown, or its charts.",
    "reproduce": "Recompute published numbers, and set them beside the printed ones.",
    "schema": "Print the JSON Schema of a spec, by which editors check and complete it.",
    "selftest": "Test capcheck on this machine against closed forms and planted defects, "
    "in under a minute.",
}
"""The subcommands, each in the module of its name, which is loaded when it is used."""


class _Lazy(click.Group):
    """A group whose commands are loaded one by one, so that its help does not wait for torch."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Session).arguments = tuple(args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        path = f"capcheck.cli.{name}"
        with contextlib.nullcontext() if path in sys.modules else kept_objects():
            module = importlib.import_module(path)
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
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


def main() -> None:
    """Run the command line; a failure prints one sentence and sets the exit code."""
    keep_freed_memory()
    limit_memory()
    session, streams = Session(), (sys.stdout, sys.stderr)
    for stream in streams:
        _replace_what_it_cannot_encode(stream)
    quiet = QuietStream(sys.stdout)
    sys.stdout, sys.stderr = quiet, QuietStream(sys.stderr)
    try:
        with stoppable():
            if _needs_helpers(sys.argv[1:]):
                standby.begin(standby.cores() - 1)
            code = cli.main(standalone_mode=False, obj=session)
    except SystemExit as ended:
        code = ended.code
    except (Exception, KeyboardInterrupt, Stopped) as error:
        fail(error, session)
    finally:
        standby.end()
        sys.stdout, sys.stderr = streams
        for stream in streams:
            _flush_or_discard(stream)
    sys.exit(CLOSED_PIPE if quiet.broken else code)


def _needs_helpers(arguments: Sequence[str]) -> bool:
    """Whether a command will call in a helper for every other core, unless it fails.

    With a GPU helpers are as many as there are GPUs, which only torch can tell.
    """
    named = {argument.partition("=")[0] for argument in arguments}
    others = {"-h", "--help", "--start-only", "--workers"}
    return (
        arguments[:1] == ["survey"]
        and not named & others
        and "CAPCHECK_WORKERS" not in os.environ
        and not NVIDIA.exists()
    )


def _replace_what_it_cannot_encode(stream: Any) -> None:
    """Have a stream write "?" for a character that its encoding lacks, and not fail."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def _flush_or_discard(stream: Any) -> None:
    """Flush a stream, or redirect it to the null device if it cannot be written.

    The interpreter would otherwise print a warning when it flushes the stream at exit, and have an
    exit code of its own.
    """
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
