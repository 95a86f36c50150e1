"""Types of command-line options, and groups of options in `--help`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from capcheck.cli.failures import debugging
from capcheck.core.errors import InputError

__all__ = [
    "DEBUG",
    "Decorator",
    "GridShape",
    "GroupedCommand",
    "Pairs",
    "WholeNumbers",
    "grouped",
    "with_options",
]

Decorator = Callable[[Any], Any]


class WholeNumbers(click.ParamType[Any]):
    """The type of options that take comma-separated whole numbers."""

    name = "n,n,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Parse, or fail with one sentence."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            raise InputError(
                f"{_name(param)} must be whole numbers separated by commas, got {value!r}."
            ) from None


class GridShape(click.ParamType[Any]):
    """The type of the option --grid, which takes rows x columns."""

    name = "RxC"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Parse, or fail with one sentence."""
        rows, _, columns = str(value).lower().partition("x")
        if not (rows.isdigit() and columns.isdigit() and int(rows) * int(columns) > 0):
            raise InputError(f"{_name(param)} must be ROWSxCOLUMNS such as 8x8, got {value!r}.")
        return int(rows), int(columns)


class Pairs(click.ParamType[Any]):
    """The type of options that take key=value pairs, separated by commas."""

    name = "key=value"

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, str]:
        """Parse, or fail with one sentence."""
        pairs = {}
        for item in str(value).split(","):
            key, equals, text = item.partition("=")
            if not (key and equals):
                raise InputError(f"{_name(param)} must be key=value, got {item!r}.")
            key = key.strip().replace("-", "_")
            if key in pairs:
                raise InputError(f"{_name(param)} gives {key} twice; give it once.")
            pairs[key] = text.strip()
        return pairs


class _GroupedOption(click.Option):
    """An option that `--help` shows under the heading of a group."""

    group = "other"


class GroupedCommand(click.Command):
    """A command whose `--help` shows its options in groups, and that takes each option once."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse an option that is given twice, as the first value would be lost."""
        before = args[: args.index("--")] if "--" in args else args
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and not (param.multiple or param.is_flag):
                count = sum(one.partition("=")[0] in param.opts for one in before)
                if count > 1:
                    raise InputError(
                        f"{_name(param)} is given {count} times; give it once, with commas between "
                        "its values where it takes several."
                    )
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, in the order in which the groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if not isinstance(param, click.Option):
                continue  # an argument stands in the first line
            record = param.get_help_record(ctx)
            if record is not None:
                group = param.group if isinstance(param, _GroupedOption) else "other"
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            with formatter.section(f"{group.capitalize()} options"):
                formatter.write_dl(records)


def grouped(group: str, *names: str, **facts: Any) -> Decorator:
    """A decorator that adds an option to a group; other arguments are those of `click.option`."""
    cls = type("Option", (_GroupedOption,), {"group": group})
    return click.option(*names, cls=cls, **facts)


def with_options(options: Sequence[Decorator]) -> Decorator:
    """A decorator that adds options to a command, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _name(param: click.Parameter | None) -> str:
    return max(param.opts, key=len) if param is not None else "value"


DEBUG = grouped(
    "machine",
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=debugging,
    help="Show the traceback of a failure.",
)
"""The option that shows the traceback of a failure."""
