"""The command line: `families`, `targets`, `check`, `survey` and `report`.

Exit codes: 0 as expected, 1 not representable, 2 usage or spec error, 3 inconclusive, 4 internal
failure. With `--json` standard output holds the result schema and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from capcheck import api
from capcheck.catalogue import families_table, family_card, targets_table
from capcheck.data import LAWS, NAMED, Layout, load_target
from capcheck.data.files import name_of
from capcheck.diagnosis import DIAGNOSES
from capcheck.divergences import DEFAULT, NAMES
from capcheck.errors import CapcheckError, InputError, near
from capcheck.measuring import Measuring, Progress
from capcheck.precision import PRECISIONS
from capcheck.progress_bar import live_progress
from capcheck.registry import build_probe, probe_class
from capcheck.registry import families as registered
from capcheck.results import CheckResult, SurveyResult
from capcheck.sensitivity import SIZES
from capcheck.store import Store
from capcheck.targets.specs import from_spec
from capcheck.targets.target import Target
from capcheck.terminal import output, print_check, print_survey
from capcheck.version import __version__

DRAWS = 2000  # per cell
# Where an answer in a minute or two is worth more undecided cells; two ends tell a used axis.
QUICK: dict[str, Any] = {"samples": 500, "steps": (1, 16)}


class _List(click.ParamType[Any]):
    """Comma-separated whole numbers."""

    name = "n,n,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Parse, or fail with one sentence."""
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            raise InputError(
                f"{_name(param)} must be whole numbers separated by commas, got {value!r}."
            ) from None


class _GridShape(click.ParamType[Any]):
    """Rows x columns."""

    name = "RxC"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Parse, or fail with one sentence."""
        rows, _, columns = str(value).lower().partition("x")
        if not (rows.isdigit() and columns.isdigit() and int(rows) * int(columns) > 0):
            raise InputError(f"{_name(param)} must be ROWSxCOLUMNS such as 8x8, got {value!r}.")
        return int(rows), int(columns)


class _Pairs(click.ParamType[Any]):
    """key=value pairs, separated by commas."""

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


def _name(param: click.Parameter | None) -> str:
    return f"--{param.name.replace('_', '-')}" if param is not None and param.name else "value"


_TARGET_OPTIONS: Sequence[Callable[[Any], Any]] = (
    click.option(
        "--data",
        metavar="FILE",
        help="A .npy, .npz, .csv, .parquet, .pt, .safetensors or .txt file, a folder of images, "
        f"or: {', '.join(NAMED)}.",
    ),
    click.option(
        "--target",
        "spec",
        metavar="SPEC",
        help="A built-in law, e.g. parity:6; see `capcheck targets`.",
    ),
    click.option("--tokens", type=click.IntRange(1), help="Number of tokens of a sequence."),
    click.option("--token-dim", type=click.IntRange(1), help="Dimension of a token."),
    click.option("--pca", type=click.IntRange(1), help="Whitened principal components as tokens."),
    click.option("--grid", type=_GridShape(), help="Layout of the tokens, e.g. 8x8."),
    click.option(
        "--kind",
        type=click.Choice(["continuous", "categorical"]),
        help="What numbers are  [default: integers are categorical]",
    ),
    click.option(
        "--unit",
        type=click.Choice(["characters", "bytes"]),
        default="characters",
        show_default=True,
        help="What a token of text is.",
    ),
    click.option(
        "--split",
        type=click.Choice(["file", "lines"]),
        default="file",
        show_default=True,
        help="What a document of text is.",
    ),
    click.option(
        "--law",
        metavar="NAME[:SIZE]",
        help=f"Law behind continuous ({', '.join(LAWS['continuous'])}) or categorical "
        f"({', '.join(LAWS['categorical'])}) tokens  [default: rows; markov for text]",
    ),
    click.option(
        "--bandwidth", type=float, help="Smoothing of the rows; by likelihood if omitted."
    ),
)
_MEASURING_OPTIONS: Sequence[Callable[[Any], Any]] = (
    click.option("--length", "lengths", type=_List(), help="Token budgets  [default: 0,N/2,N]"),
    click.option("--steps", type=_List(), help="Iteration budgets  [default: 1,4,16]"),
    click.option(
        "--divergence",
        "divergences",
        metavar="NAME,...",
        help=f"Which to measure, of {', '.join(NAMES)}  [default: {','.join(DEFAULT)}]",
    ),
    click.option(
        "--tolerance", type=_Pairs(), multiple=True, help="For example kl=0.01,mmd=0.004."
    ),
    click.option(
        "--diagnose",
        metavar="NAME,...",
        help=f"Further tests at the largest budget, of {', '.join(DIAGNOSES)}; no verdict",
    ),
    click.option(
        "--precision",
        metavar="NAME,...",
        help=f"Run everything again in fewer digits, of {', '.join(PRECISIONS)}",
    ),
    click.option(
        "--sensitivity",
        metavar="SIZE,...",
        is_flag=False,
        flag_value=",".join(map(str, SIZES)),
        help="Try out errors of the oracle of these sizes"
        f"  [without sizes: {','.join(map(str, SIZES))}]",
    ),
    click.option("--samples", type=int, help=f"Draws per cell  [default: {DRAWS}]"),
    click.option(
        "--looks",
        type=int,
        default=1,
        show_default=True,
        help="Times an undecided family is drawn, each with twice the samples.",
    ),
    click.option("--given", type=_List(), help="Tokens known from the start, e.g. 0,1."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of all draws."),
    click.option("--level", type=float, default=0.95, show_default=True, help="Confidence."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N]."),
    click.option("--batch", type=int, default=1024, show_default=True, help="Rows per batch."),
    click.option("--out", type=click.Path(path_type=Path), help="Folder to keep the run in."),
    click.option("--json", "as_json", is_flag=True, help="Print the result schema."),
)


_NETWORK = click.option(
    "--network",
    metavar="NAME",
    multiple=True,
    help="A network to fit beside the oracle: mlp:width=128,depth=3, transformer:width=64,depth=2 "
    "or your package.module:factory; several make a capacity curve.",
)


def _fits(default: str) -> Sequence[Callable[[Any], Any]]:
    return (
        click.option("--fit-seconds", type=float, help=f"Time of each fit  [default: {default}]"),
        click.option(
            "--fit-steps",
            type=click.IntRange(1),
            help="Steps of each fit, in place of a time that machines fill differently; small "
            "networks are polished after them.",
        ),
    )


def _with(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="capcheck")
def cli() -> None:
    """Tell before training whether a generative model can do what you want at inference."""


@cli.command()
@click.argument("name", required=False)
def families(name: str | None) -> None:
    """List the families, or show the card of one."""
    if name is None:
        output().print(families_table([probe_class(family) for family in registered()]))
        return
    output().print(family_card(build_probe(name)))


@cli.command()
def targets() -> None:
    """List the built-in targets and their parameters."""
    output().print(targets_table())
    click.echo("A spec is NAME:value,value or NAME:key=value,key=value, e.g. gaussian:ar1,rho=0.5.")


@cli.command()
@click.option("--family", required=True, help="Name of a family; see `capcheck families`.")
@click.option("--option", "options", type=_Pairs(), multiple=True, help="A probe's own option.")
@_NETWORK
@click.option(
    "--objective",
    type=click.Choice(["oracle", "end_to_end", "none"]),
    help="What networks are fitted to: the oracle's answers, the target through the procedure at "
    "one budget, or nothing (your weights as they are)  [default: oracle]",
)
@_with(_fits(f"{api.FIT_SECONDS:g}"))
@_with(_TARGET_OPTIONS)
@_with(_MEASURING_OPTIONS)
def check(
    family: str,
    options: Sequence[dict[str, str]],
    network: Sequence[str],
    objective: Any,
    fit_seconds: float | None,
    fit_steps: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Check whether one family can produce a target, and at which budget."""
    probe_class(family)  # an unknown name fails before the data is read
    target = _target(given)
    with live_progress() as progress:
        result = api.check(
            family,
            target,
            options=_merged("--option", options),
            network=network,
            objective=objective,
            fit_seconds=fit_seconds,
            fit_steps=fit_steps,
            **_measuring(given, progress),
        )
    _deliver(result, result.survey(), given["out"], as_json)
    raise SystemExit(result.exit_code)


@cli.command()
@click.option("--family", "names", metavar="NAME,...", help="Which families  [default: all]")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit 1 or 3 unless every family is representable, also with what --network names.",
)
@click.option(
    "--quick", is_flag=True, help="500 draws per cell and --steps 1,16, unless they are given."
)
@_NETWORK
@_with(_fits(f"{api.SURVEY_FIT_SECONDS:g}, {api.QUICK_FIT_SECONDS:g} with --quick"))
@_with(_TARGET_OPTIONS)
@_with(_MEASURING_OPTIONS)
def survey(
    names: str | None,
    strict: bool,
    quick: bool,
    network: Sequence[str],
    fit_seconds: float | None,
    fit_steps: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure every family on one target, and write the report.

    Families whose oracle says little of what can be trained are shown with a fitted network, too;
    --network fits one for every family, and --network none for no family.

    The run is kept in --out, by default runs/NAME for --data NAME (runs/NAME_ARRAY for
    NAME.npz#ARRAY), with -quick behind it for --quick; the same command continues a run that was
    interrupted.
    """
    chosen = names.split(",") if names else None
    for name in chosen or ():
        probe_class(name)
    if quick:
        given |= {name: value for name, value in QUICK.items() if given[name] is None}
    if given["out"] is None and given["data"] is not None:
        given["out"] = Path("runs") / (name_of(given["data"]) + ("-quick" if quick else ""))
    target = _target(given)
    if quick and fit_seconds is None and fit_steps is None:
        fit_seconds = api.QUICK_FIT_SECONDS
    with live_progress() as progress:
        result = api.survey(
            target,
            chosen,
            network="none" if network == ("none",) else network or None,
            fit_seconds=fit_seconds,
            fit_steps=fit_steps,
            **_measuring(given, progress),
        )
    _deliver(result, result, given["out"], as_json, quick=quick)
    if any(found.error and found.supported for found in result.families):
        raise SystemExit(CapcheckError.exit_code)
    raise SystemExit(_strictly(result, networks=bool(network)) if strict else 0)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File  [default: FOLDER/report.html]")
def report(folder: Path, out: Path | None) -> None:
    """Write the HTML report of a saved run."""
    path = Store.open(folder).result().report(out or folder / "report.html")
    Console().print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def _strictly(result: SurveyResult, *, networks: bool) -> int:
    """1 if a family is refused, 3 if one is undecided, or a network that was named not measured."""
    gated = [found for found in result.families if networks or found.network == "oracle"]
    codes = [found.exit_code for found in gated if not found.error or found.network != "oracle"]
    return 1 if 1 in codes else max(codes, default=3)


def _target(given: dict[str, Any]) -> Target:
    data, spec = given["data"], given["spec"]
    layout = Layout(**{field.name: given[field.name] for field in dataclasses.fields(Layout)})
    if (data is None) == (spec is None):
        got = "neither" if data is None else "both"
        raise InputError(f"give one of --data FILE and --target SPEC, got {got}.")
    if spec is not None:
        of_data = [given["law"], given["bandwidth"]]
        if layout != Layout() or any(value is not None for value in of_data):
            raise InputError(
                "--tokens, --token-dim, --pca, --grid, --kind, --unit, --split, --law and "
                "--bandwidth are for --data; write a target's parameters in its spec."
            )
        return from_spec(spec)
    return load_target(data, layout, law=given["law"], bandwidth=given["bandwidth"])


def _measuring(given: dict[str, Any], progress: Callable[[Progress], None]) -> Measuring:
    divergences = given["divergences"]
    return Measuring(
        lengths=given["lengths"],
        steps=given["steps"],
        divergences=DEFAULT if divergences is None else divergences.split(","),
        tolerance=_numbers(_merged("--tolerance", given["tolerance"])),
        diagnose=given["diagnose"].split(",") if given["diagnose"] else (),
        precision=given["precision"].split(",") if given["precision"] else (),
        sensitivity=_sizes(given["sensitivity"]),
        samples=DRAWS if given["samples"] is None else given["samples"],
        given=given["given"] or (),
        looks=given["looks"],
        seed=given["seed"],
        level=given["level"],
        device=given["device"],
        batch=given["batch"],
        out=given["out"],
        progress=progress,
    )


def _sizes(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(
            f"--sensitivity must be numbers separated by commas, got {text!r}."
        ) from None


def _merged(option: str, given: Sequence[dict[str, str]]) -> dict[str, str]:
    """The pairs of an option that may be repeated; a key may not."""
    merged: dict[str, str] = {}
    for pairs in given:
        for key, value in pairs.items():
            if key in merged:
                raise InputError(f"{option} gives {key} twice; give it once.")
            merged[key] = value
    return merged


def _numbers(pairs: dict[str, str]) -> dict[str, float]:
    try:
        return {name: float(text) for name, text in pairs.items()}
    except ValueError:
        raise InputError(f"--tolerance must give numbers, got {pairs}.") from None


def _deliver(
    result: CheckResult | SurveyResult,
    whole: SurveyResult,
    out: Path | None,
    as_json: bool,
    *,
    quick: bool = False,
) -> None:
    """Print the result, and write the report beside the run."""
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif isinstance(result, CheckResult):
        print_check(result)
    else:
        print_survey(result, quick=quick)
    if out is not None:
        path = whole.report(out / "report.html")
        console = Console(stderr=as_json)
        console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; every failure is one sentence and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except CapcheckError as error:
        _fail(str(error), error.exit_code)
    except click.NoSuchOption as error:
        hint = near(error.option_name, error.possibilities) if error.possibilities else ""
        _fail(f"there is no option {error.option_name}; {hint or 'see --help.'}", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; the same command continues a run kept with --out.", 130)
    except Exception as error:
        _fail(f"internal failure, {type(error).__name__}: {error}", CapcheckError.exit_code)
    else:
        sys.exit(code)


def _fail(sentence: str, code: int) -> None:
    one_line = " ".join(sentence.split())
    Console(stderr=True).print(f"error: {one_line}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
