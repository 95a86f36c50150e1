"""Options of the command line, in the groups of `--help`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from capcheck.cli.parameters import DEBUG, Decorator, GridShape, Pairs, WholeNumbers, grouped
from capcheck.data import LAWS, NAMED
from capcheck.diagnostics.diagnosis import DIAGNOSES
from capcheck.divergences import DEFAULT, NAMES
from capcheck.networks.perturbed import SIZES
from capcheck.networks.rounded import PRECISIONS
from capcheck.results.settings import SAMPLES, SECONDS_PER_CELL, SECONDS_PER_RUN

__all__ = [
    "BUDGETS",
    "EVIDENCE",
    "MACHINE",
    "NETWORK",
    "OUTPUT",
    "TARGET",
    "fits",
]

TARGET: Sequence[Decorator] = (
    grouped(
        "data",
        "--data",
        metavar="FILE",
        help="Read rows from a .npy, .npz, .csv, .parquet, .pt, .safetensors or .txt file or a "
        f"folder of images, or use one of {', '.join(NAMED)}.",
    ),
    grouped(
        "data",
        "--target",
        "spec",
        metavar="SPEC",
        help="Use a built-in law, such as parity:6, in place of data; see `capcheck targets`.",
    ),
    grouped(
        "data",
        "--tokens",
        type=click.IntRange(1),
        help="Cut every row into this number of tokens.  [default: by the shape of the data]",
    ),
    grouped(
        "data",
        "--token-dim",
        type=click.IntRange(1),
        help="Use this many numbers as one token.  [default: by the shape of the data]",
    ),
    grouped(
        "data",
        "--pca",
        type=click.IntRange(1),
        help="Use this many whitened principal components as the numbers of a row.",
    ),
    grouped(
        "data", "--grid", type=GridShape(), help="Lay the tokens out in rows x columns, as in 8x8."
    ),
    grouped(
        "data",
        "--kind",
        type=click.Choice(["continuous", "categorical"]),
        help="Read numbers as numbers or as token ids.  [default: integers are token ids]",
    ),
    grouped(
        "data",
        "--unit",
        type=click.Choice(["characters", "bytes", "words"]),
        default="characters",
        show_default=True,
        help="Use one of these as a token of text.",
    ),
    grouped(
        "data",
        "--split",
        type=click.Choice(["file", "lines"]),
        default="file",
        show_default=True,
        help="Read the whole file, or every line, as a document of text.",
    ),
    grouped(
        "law",
        "--law",
        metavar="NAME[:SIZE]",
        help=f"Fit this law to the rows: {', '.join(LAWS['continuous'])} for numbers, "
        f"{', '.join(LAWS['categorical'])} for token ids; auto takes the one that predicts unseen "
        "rows best.  [default: auto]",
    ),
    grouped(
        "law",
        "--bandwidth",
        type=float,
        help="Smooth the rows by this share of each token's standard deviation.  [default: by "
        "likelihood]",
    ),
)
BUDGETS: Sequence[Decorator] = (
    grouped(
        "budgets",
        "--length",
        "lengths",
        type=WholeNumbers(),
        help="Let procedures place these numbers of tokens.  [default: 0,N/2,N]",
    ),
    grouped(
        "budgets",
        "--steps",
        type=WholeNumbers(),
        help="Let procedures make these numbers of refinement iterations.  [default: 1,4,16]",
    ),
    grouped(
        "budgets",
        "--given",
        type=WholeNumbers(),
        help="Give the tokens of these indices, drawn from the target, as a prompt.  "
        "[default: none]",
    ),
)
EVIDENCE: Sequence[Decorator] = (
    grouped(
        "evidence",
        "--divergence",
        "divergences",
        metavar="NAME,...",
        help=f"Measure these divergences: {', '.join(NAMES)}.  [default: {','.join(DEFAULT)}]",
    ),
    grouped(
        "evidence",
        "--tolerance",
        type=Pairs(),
        multiple=True,
        help="Set tolerances, as in kl=0.01,mmd=0.004; see the table of divergences for units.",
    ),
    grouped(
        "evidence",
        "--samples",
        type=int,
        help=f"Draw this many sequences for every cell.  [default: {SAMPLES}]",
    ),
    grouped(
        "evidence",
        "--looks",
        type=int,
        default=1,
        show_default=True,
        help="Measure an undecided family up to this many times, with at least twice the draws "
        "each time.",
    ),
    grouped(
        "evidence",
        "--seconds-per-cell",
        type=float,
        default=SECONDS_PER_CELL,
        show_default=True,
        help="Spend about this time on the exact log-density of a cell; it limits its draws.",
    ),
    grouped(
        "evidence",
        "--seconds-per-run",
        type=float,
        default=SECONDS_PER_RUN,
        show_default=True,
        help="Do not measure a family one run of whose procedure would take longer.",
    ),
    grouped(
        "evidence",
        "--level",
        type=float,
        default=0.95,
        show_default=True,
        help="Make intervals and verdicts hold with this confidence.",
    ),
    grouped(
        "evidence",
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Make all draws from this seed, 0 to 2^63 - 1.",
    ),
    grouped(
        "evidence",
        "--diagnose",
        metavar="NAME,...",
        help="Also test the draws at the largest budget, without any effect on verdicts: "
        f"{', '.join(DIAGNOSES)}.  [default: none]",
    ),
    grouped(
        "evidence",
        "--precision",
        metavar="NAME,...",
        help=f"Run everything again in these precisions: {', '.join(PRECISIONS)}.  [default: none]",
    ),
    grouped(
        "evidence",
        "--sensitivity",
        metavar="SIZE,...",
        is_flag=False,
        flag_value=",".join(map(str, SIZES)),
        help="Measure the oracle with errors of these sizes; 1 is a token's standard deviation.  "
        f"[without sizes: {','.join(map(str, SIZES))}]",
    ),
)
MACHINE: Sequence[Decorator] = (
    grouped(
        "machine",
        "--workers",
        type=int,
        default=0,
        show_envvar=True,
        envvar="CAPCHECK_WORKERS",
        help="Measure with this many processes, of one thread each; no number depends on it.  "
        "[default: one per core or GPU]",
    ),
    grouped(
        "machine",
        "--device",
        default="auto",
        show_default=True,
        help="Run on this device: auto, cpu or cuda[:N].",
    ),
    grouped(
        "machine",
        "--batch",
        type=int,
        default=1024,
        show_default=True,
        help="Run this many sequences at a time; no number depends on it.",
    ),
    DEBUG,
)
OUTPUT: Sequence[Decorator] = (
    grouped(
        "output", "--out", type=click.Path(path_type=Path), help="Keep the run in this folder."
    ),
    grouped(
        "output",
        "--start-only",
        is_flag=True,
        help="Write the folder --out and measure nothing; `capcheck work` measures it.",
    ),
    grouped(
        "output", "--json", "as_json", is_flag=True, help="Print only the result schema, as JSON."
    ),
    *MACHINE,
)
NETWORK = grouped(
    "networks",
    "--network",
    metavar="NAME",
    multiple=True,
    help="Measure this network beside the oracle: mlp:width=128,depth=3, transformer:width=64,"
    "depth=2 or your package.module:factory; several make a capacity curve.",
)


def fits(default: str) -> Sequence[Decorator]:
    """The options that limit the fit of a network.

    Args:
        default: Default number of steps, in words.
    """
    return (
        grouped(
            "networks",
            "--fit-steps",
            type=click.IntRange(1),
            help=f"Fit every network in this many steps.  [default: {default}]",
        ),
        grouped(
            "networks",
            "--fit-seconds",
            type=float,
            help="Fit every network for this time in place of a number of steps; the result then "
            "depends on the machine.",
        ),
    )
