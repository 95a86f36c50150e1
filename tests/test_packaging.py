from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_list_of_packages_equals_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(folder.relative_to(ROOT).parts)
        for top in ("capcheck", "probes", "reports")
        for folder in [ROOT / top, *(ROOT / top).rglob("*")]
        if (folder / "__init__.py").is_file() and not folder.is_symlink()
    }
    placed = {
        name if name.startswith("capcheck") else f"capcheck.{name}"
        for name in found
        if not name.startswith(("capcheck.probes", "capcheck.reports"))
    }
    assert set(listed) == placed


def test_no_module_is_hidden_from_the_repository() -> None:
    listed = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "*.py"]
    hidden = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    assert [
        name
        for name in hidden.stdout.splitlines()
        if name.startswith(("capcheck/", "probes/", "reports/", "tests/"))
    ] == []


def test_every_module_is_within_a_package() -> None:
    for top in ("capcheck", "probes", "reports"):
        for module in (ROOT / top).rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


def test_dependencies_point_one_way() -> None:
    for module in (ROOT / "capcheck").glob("**/*.py"):
        inside = module.relative_to(ROOT / "capcheck").parts[0]
        if inside not in ("probes", "reports"):
            text = module.read_text()
            assert "capcheck.probes" not in text, module
            assert "capcheck.reports import" not in text, module
    for top, other in (("probes", "reports"), ("reports", "probes")):
        for module in (ROOT / top).rglob("*.py"):
            assert f"capcheck.{other}" not in module.read_text(), module


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves files behind, and would pick up old ones
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    shutil.rmtree(source / "runs", ignore_errors=True)  # outputs, and not the package of the name
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"capcheck"}
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    code = "import capcheck, sys; sys.stdout.write(capcheck.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert Path(where.stdout).is_relative_to(site)
    survey = ["survey", "--data", "digits", "--samples", "200", "--steps", "1", "--length", "0,8"]
    survey += ["--family", "gpt,maskgit,diffusion"]
    subprocess.run(
        [sys.executable, "-m", "capcheck", *survey],
        cwd=tmp_path, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
