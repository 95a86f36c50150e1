"""The script that measures what is promised of a GPU runs through where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "gpu" / "run.sh"


@pytest.mark.slow
def test_every_stage_of_the_gpu_script_passes_its_rehearsal(tmp_path: Path) -> None:
    ended = subprocess.run(
        [str(SCRIPT), "--out", str(tmp_path), "--device", "cpu"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["conformance"]["checks"] > 20
    assert found["agreement"]["estimates"] > 4
    assert found["million"]["error"] < 1e-4
    assert 0 < found["oracle"]["256 x 4000 x 64"]["share_of_peak"] <= 1
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {stage} |" in table for stage in found if stage != "machine")
