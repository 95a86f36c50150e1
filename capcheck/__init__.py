"""capcheck tells before training whether a generative model can do what you want at inference.

target = capcheck.targets.from_samples(x)          # (n, N, d) rows of your data
result = capcheck.check("diffusion", target, steps=[1, 2, 4, 8])
print(result.outcome, result.smallest_budget)
"""

from capcheck import targets
from capcheck.api import check, require, survey
from capcheck.budget import Budget
from capcheck.errors import CapcheckError, InputError
from capcheck.fitting import Fitted, fit
from capcheck.measuring import Progress
from capcheck.records import Outcome
from capcheck.results import CapacityError, CheckResult, SurveyResult
from capcheck.version import __version__

__all__ = [
    "Budget",
    "CapacityError",
    "CapcheckError",
    "CheckResult",
    "Fitted",
    "InputError",
    "Outcome",
    "Progress",
    "SurveyResult",
    "__version__",
    "check",
    "fit",
    "require",
    "survey",
    "targets",
]
