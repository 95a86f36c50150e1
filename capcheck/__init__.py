"""capcheck tells before training whether a generative model can do what you want at inference.

target = capcheck.targets.from_samples(x)          # (n, N, d) rows of your data
result = capcheck.check("diffusion", target, steps=[1, 2, 4, 8])
print(result.outcome, result.smallest_budget)
"""

import importlib
from typing import Any

from capcheck import targets
from capcheck.api import check, report, require, survey, work
from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, InputError, NetworkError, ProbeError
from capcheck.core.version import __version__
from capcheck.fitting import Fitted, fit
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CapacityError, CheckResult, SurveyResult
from capcheck.runs.options import Progress
from capcheck.runs.store import save

__all__ = [
    "Budget",
    "CapacityError",
    "CapcheckError",
    "CheckResult",
    "Fitted",
    "InputError",
    "NetworkError",
    "Outcome",
    "ProbeError",
    "Progress",
    "SurveyResult",
    "__version__",
    "check",
    "fit",
    "report",
    "require",
    "save",
    "survey",
    "targets",
    "work",
]


def __getattr__(name: str) -> Any:
    """The modules for authors of families, which are loaded when they are first used."""
    if name in ("authoring", "testing"):
        return importlib.import_module(f"capcheck.{name}")
    raise AttributeError(f"module 'capcheck' has no attribute {name!r}")
