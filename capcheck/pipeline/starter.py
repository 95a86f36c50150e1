"""The starter of a spec: what `capcheck init` writes beside a user's data."""

from __future__ import annotations

import json
import os
from pathlib import Path

from capcheck.core.errors import InputError
from capcheck.data import NAMED
from capcheck.data.arrays import place_and_name
from capcheck.data.files import name_of, read

__all__ = ["starter"]

HEAD = """\
# The checks of a project: can these procedures produce these data?
#   capcheck plan {spec}      what the checks would cost
#   capcheck run {spec}       make them; exit code 1 if one is not as expected
#   capcheck schema           the JSON Schema of this file, for an editor
# Every field is optional but those that are set here.

[defaults]                      # for all checks that do not give their own
# samples = 2000                # draws of every cell
# tolerance = {{ kl = 0.01 }}     # nats per number or token; see `capcheck check --help`
# seconds_per_run = 600         # give up what would take longer

[targets.{name}]
data = {data}
{layout}
"""
NUMBERS = """\
# {shape}
# tokens = 16                   # cut a row into so many tokens
# pca = 16                      # or take its leading principal components
# law = "auto"                  # the law behind the rows: rows, gaussian, mixture, diagonal"""
IDS = """\
# {shape}
# law = "auto"                  # the law behind the rows: rows, classes, markov, hmm"""
TEXT = """\
tokens = 16                     # characters of a window
# unit = "words"                # tokens are characters, bytes or words
# split = "lines"               # every line is a document
# law = "markov:1"              # or auto, classes, hmm"""
FOR_NUMBERS = """
[[checks]]
name = "few-step-diffusion"
target = "{name}"
family = "diffusion"            # `capcheck families` lists them all
options = {{ solver = "ddim" }}
steps = [16, 64]                # refinement steps
length = {length}                    # tokens that may be placed
why = "We serve with 64 steps."

[checks.expect]
outcome = "representable"       # or not_representable, inconclusive
steps = 64                      # at most so many steps suffice
# at_most = {{ kl = 0.02 }}       # divergences at the largest budget, in units of tolerances

[[checks]]
name = "autoregressive"
target = "{name}"
family = "gpt"
steps = [1]
"""
FOR_IDS = """
[[checks]]
name = "autoregressive"
target = "{name}"
family = "gpt"                  # `capcheck families` lists them all
steps = [1]
why = "The baseline: it must be able to."

[[checks]]
name = "parallel-decoding"
target = "{name}"
family = "maskgit"
options = {{ rounds = 4 }}        # all tokens in so many calls
steps = [1]
why = "We would like to decode in 4 calls."

[checks.expect]
outcome = "representable"       # or not_representable, inconclusive
calls = 4                       # at most so many model calls suffice
# at_most = {{ kl = 0.02 }}       # divergences at the largest budget, in units of tolerances
"""
SAMPLER = """
# [[checks]]                    # a sampler of yours, or of a library: `capcheck sampler --help`
# name = "scheduler"
# sampler = "diffusers:DDIMScheduler"
# config = { timestep_spacing = "trailing" }
# steps = [10, 50]
# expect = { findings = ["prior_mismatch"] }
"""


def starter(data: str, spec: Path) -> str:
    """The text of a spec for data, with what its fields mean in comments.

    Args:
        data: File of data, or the name of data that ship with a dependency.
        spec: Path of the spec, which the path of the data becomes relative to.

    Raises:
        InputError: The data cannot be read.
    """
    path = Path(place_and_name(data)[0])
    layout, checks, length = _kind_of(data, path)
    relative = data if data in NAMED else os.path.relpath(data, spec.parent)
    facts = {
        "spec": spec.name,
        "name": name_of(data).replace(".", "-"),  # a bare key of TOML
        "data": json.dumps(relative),
        "layout": layout,
        "length": length,
    }
    return HEAD.format(**facts) + checks.format(**facts) + SAMPLER


def _kind_of(data: str, path: Path) -> tuple[str, str, str]:
    """The layout's lines, the checks, and the lengths, by the kind of the data."""
    if data == "text" or path.suffix.lower() == ".txt":
        if data != "text" and not os.path.isfile(path):
            raise InputError(f"data {data!r} does not exist; give a file that does.")
        return TEXT, FOR_IDS, ""
    if data in NAMED:
        return NUMBERS.format(shape="images of scikit-learn"), FOR_NUMBERS, "[8]"
    array = read(data)
    shape = " x ".join(map(str, array.shape))
    if array.dtype.kind in "iu":
        return IDS.format(shape=f"{shape} token ids"), FOR_IDS, ""
    tokens = array.shape[1] if array.ndim < 4 else array.shape[1] * array.shape[2]
    return NUMBERS.format(shape=f"{shape} numbers"), FOR_NUMBERS, f"[{tokens}]"
