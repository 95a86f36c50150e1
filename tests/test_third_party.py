"""A family of a stranger's package is found by its entry point and held to every test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STRIDED = Path(__file__).with_name("third_party") / "strided.py"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Environment of a process in which the package is installed."""
    shutil.copy(STRIDED, tmp_path)
    facts = tmp_path / "strided-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: strided\nVersion: 0.1\n")
    (facts / "entry_points.txt").write_text("[capcheck.families]\nstrided = strided:Strided\n")
    return os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


def run(installed: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=installed,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_measured_by_the_command_line(installed: dict[str, str]) -> None:
    chain = ("--target", "gaussian:ar1,tokens=5,rho=0.9", "--samples", "200", "--json")
    exact = run(installed, "capcheck", "check", "--family", "strided", *chain)
    assert exact.returncode == 0, exact.stderr
    assert json.loads(exact.stdout)["axes"] == {"length": "used", "steps": "flat"}
    wide = ("--option", "stride=3")
    floor = run(installed, "capcheck", "check", "--family", "strided", *wide, *chain)
    assert floor.returncode == 1, floor.stderr
    causes = json.loads(floor.stdout)["causes"]
    assert [(cause["failure"], cause["removed"]) for cause in causes] == [
        ("wrong factorisation", True)
    ]


def test_it_passes_the_conformance_suite(installed: dict[str, str]) -> None:
    suite = "tests/probes/test_conformance.py"
    found = run(installed, "pytest", "-q", suite, "-k", "strided", "-p", "no:cacheprovider")
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout
