"""Families of strangers: they import public names, and are held to every promise of `Probe`."""

from __future__ import annotations

import ast
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from networks import law_of, table
from reference.groups import probability
from reference.information import of_blocks, of_table
from third_party.margin import Margin
from third_party.strided import Strided

from capcheck import check
from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import ProbeError
from capcheck.procedures.procedure import Procedure
from capcheck.targets import from_spec, from_table

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).with_name("third_party")
FILES = sorted(FOLDER.glob("*.py"))
PUBLIC = {"capcheck", "capcheck.authoring", "torch", "pydantic", "pydantic.dataclasses"}
AR1 = from_spec("gaussian:ar1,tokens=5,rho=0.9")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_family_is_short_and_imports_public_names_only(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) < 80
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    strange = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert strange <= PUBLIC
    assert strange & {"capcheck", "capcheck.authoring"}


def test_a_probe_is_measured_without_being_registered() -> None:
    exact = check(Strided(), AR1, samples=200)
    assert exact.exit_code == 0
    assert exact.axes.model_dump()["length"] == "used"
    floor = check(Strided(stride=3), AR1, samples=200, lengths=[5], steps=[1])
    C = 0.9 ** np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
    S = C[1:3, 1:3] - C[1:3][:, [0, 3]] @ np.linalg.solve(C[[0, 3]][:, [0, 3]], C[[0, 3], 1:3])
    # Given its neighbour 3, token 4 knows nothing of the gap of 1 and 2, whose correlation is left.
    expected = -0.5 * np.log(1 - S[0, 1] ** 2 / (S[0, 0] * S[1, 1]))
    assert floor.cells[0].estimates["kl"].value == pytest.approx(expected, abs=1e-9)
    assert [(cause.failure, cause.removed) for cause in floor.found.causes] == [
        ("wrong factorisation", True)
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("length", [2, 3])
def test_margins_decide_as_written_out(threshold: float, length: int) -> None:
    p = table(3, 3)
    expected = np.zeros_like(p)
    for x in itertools.product(range(3), repeat=3):
        known: list[int] = []
        value = 1.0
        while len(known) < length:
            margins = {}
            for i in (i for i in range(3) if i not in known):
                z = [[*x[:i], v, *x[i + 1 :]] for v in range(3)]
                low, high = sorted(probability(p, y, [i], known) for y in z)[1:]
                margins[i] = high - low
            ranked = sorted(margins, key=lambda i: -margins[i])[: length - len(known)]
            sure = [i for i in ranked if margins[i] > threshold or i == ranked[0]]
            value *= float(np.prod([probability(p, x, [i], known) for i in sure]))
            known += sure
        rest = [i for i in range(3) if i not in known]
        expected[x] = value * np.prod([probability(p, x, [i], known) for i in rest])
    procedure = Procedure.of(Margin(threshold=threshold), from_table(torch.tensor(p)))
    assert np.abs(law_of(procedure, Budget(length=length, steps=1)) - expected).max() < 1e-9
    assert (np.abs(expected - p).max() < 1e-9) == (threshold == 1)


def test_a_decoder_that_is_always_sure_costs_the_total_correlation() -> None:
    p = table(3, 2)
    found = check(Margin(threshold=0), from_table(torch.tensor(p)), lengths=[3], steps=[1])
    cost = of_blocks(of_table(p), [[0, 1, 2]])
    assert found.cells[0].estimates["kl"].value == pytest.approx(cost, abs=1e-9)
    (cause,) = found.found.causes
    assert (cause.failure, cause.removed) == ("wrong factorisation", True)


@pytest.mark.parametrize("probe", [Strided(), Strided(stride=3), Margin(), Margin(threshold=1)])
def test_they_keep_every_promise(probe: Strided | Margin) -> None:
    from capcheck.testing import check_family

    check_family(probe)


class Forgotten(Strided):
    """Depends on the length, and says that it does not."""

    reads: ClassVar[frozenset[Axis]] = frozenset()


def test_a_family_that_breaks_a_promise_is_told() -> None:
    from capcheck.testing import check_family

    with pytest.raises(ProbeError, match="`reads` leaves length out"):
        check_family(Forgotten())


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Environment of a process in which the package is installed."""
    shutil.copy(FOLDER / "strided.py", tmp_path)
    facts = tmp_path / "strided-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: strided\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[capcheck.families]\nstrided = strided:Strided\n")
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def test_an_entry_point_registers_a_family_for_the_command_line(installed: dict[str, str]) -> None:
    command = ["check", "--family", "strided", "--target", "gaussian:ar1,tokens=5,rho=0.9"]
    found = subprocess.run(
        [sys.executable, "-m", "capcheck", *command, "--samples", "200", "--json"],
        env=installed,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["axes"] == {"length": "used", "steps": "flat"}
