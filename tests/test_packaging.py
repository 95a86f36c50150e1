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
HANDBOOK = ROOT / "reports" / "handbook"
MOST_LINES = 300  # of a module, beyond which it usually holds two ideas
LONG = {
    "capcheck/divergences/estimate.py": "a term, and the estimate that is made of terms",
    "capcheck/exact/inversion.py": "one computation: the inverse of passes, by Newton's method",
    "capcheck/laws/mixture.py": "one class: a token law of closed forms",
    "capcheck/runs/engine.py": "one class: a run from its options to its results",
    "capcheck/procedures/probe.py": "one interface: all that a family can be asked",
    "capcheck/procedures/procedure.py": "one class: all that a bound procedure can be asked",
    "capcheck/targets/components.py": "one engine: sums over components, tile by tile",
    "capcheck/targets/categorical/categorical_mixture.py": "one class: a target by sums over rows",
    "capcheck/targets/categorical/hidden_markov.py": "one class: a target by recursions on a chain",
    "capcheck/targets/categorical/markov_chain.py": "one class: gaps, spans, recursions",
    "capcheck/targets/continuous/diagonal_mixture.py": "one class: a target of closed forms",
    "capcheck/targets/continuous/gaussian_mixture.py": "one class: a target of closed forms",
    "capcheck/targets/continuous/noisy_gaussians.py": "one class: posteriors of Gaussians",
    "capcheck/targets/continuous/posterior_law.py": "one class: a token law by sums over rows",
    "capcheck/targets/continuous/product_mixture.py": "one class: a target of rows of data",
    "capcheck/targets/target.py": "one interface: all that a target can be asked",
    "probes/steps/diffusion.py": "a family is one file, and this one has six solvers",
}
"""Modules of more than `MOST_LINES` lines, with the reason why each is one file."""


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
            if module.is_relative_to(HANDBOOK):
                continue  # settings and extensions of Sphinx, which no wheel holds
            assert (module.parent / "__init__.py").is_file(), module


def long_modules(root: Path) -> set[str]:
    modules = (
        Path(folder) / name
        for top in ("capcheck", "probes", "reports")
        for folder, _, names in os.walk(root / top)  # which follows no links
        for name in names
        if name.endswith(".py")
    )
    return {
        module.relative_to(root).as_posix()
        for module in modules
        if len(module.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }


def test_long_modules_are_named_with_a_reason() -> None:
    assert long_modules(ROOT) == set(LONG)
    assert all(LONG.values())


def test_a_long_module_is_found_once(tmp_path: Path) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "capcheck").mkdir()
    (tmp_path / "capcheck" / "probes").symlink_to("../probes")
    (tmp_path / "probes" / "long.py").write_text("x = 1\n" * (MOST_LINES + 1))
    (tmp_path / "probes" / "short.py").write_text("x = 1\n" * MOST_LINES)
    assert long_modules(tmp_path) == {"probes/long.py"}


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
    files = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in files if "handbook" in name]
    names = {name.split("/")[0] for name in files}
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
    survey += ["--family", "gpt,diffusion", "--law", "rows"]
    subprocess.run(
        [sys.executable, "-m", "capcheck", *survey],
        cwd=tmp_path, env=environment, check=True, capture_output=True,
    )  # fmt: skip
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
