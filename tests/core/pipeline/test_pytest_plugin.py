"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

TESTS = """
import pytest
from capcheck import targets

PARITY = targets.from_spec("parity:3")
RUN = {"lengths": [2], "steps": [1], "samples": 200, "divergences": ["kl"]}

def test_passes(capacity):
    assert capacity("gpt", PARITY, **RUN).outcome == "representable"

@pytest.mark.capacity(tolerance={"kl": 0.001}, divergences=["kl"])
def test_fails(capacity):
    capacity("gpt", PARITY, **RUN | {"lengths": [0]})

def test_expects_failure(capacity):
    capacity("gpt", PARITY, outcome="not_representable", **RUN | {"lengths": [0]})

@pytest.mark.capacity(tolerance={"kl": 1.0})
class TestLoose:
    def test_of_the_class(self, capacity):
        capacity("gpt", PARITY, **RUN | {"lengths": [0]})

    @pytest.mark.capacity(tolerance={"kl": 0.001})
    def test_of_its_own(self, capacity):
        capacity("gpt", PARITY, **RUN | {"lengths": [0]})

def test_gate(capacity):
    capacity.gate(PARITY, family="gpt", budget={"length": 0}, keep=False)
"""


def test_a_failing_check_prints_its_table(tmp_path: Path) -> None:
    (tmp_path / "test_capacity.py").write_text(TESTS)
    plugin = ["-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", *plugin, "--strict-markers", "--junitxml=j.xml", "."]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "3 failed, 3 passed" in ran.stdout, ran.stdout
    assert "length  steps  calls  kl     verdict" in ran.stdout
    assert "0       1      1      0.693  not representable" in ran.stdout
    cases = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
    failed = {case.get("name") for case in cases if case.find("failure") is not None}
    assert failed == {"test_fails", "test_of_its_own", "test_gate"}


def test_loading_the_plugin_does_not_import_torch(tmp_path: Path) -> None:
    code = "import sys, capcheck.pipeline.pytest_plugin; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
