"""capcheck tells before training whether a generative model can do what you want at inference.

target = capcheck.targets.from_samples(x)          # (n, N, d) rows of your data
result = capcheck.check("diffusion", target, steps=[1, 2, 4, 8])
print(result.outcome, result.smallest_budget)
"""

import importlib
from typing import TYPE_CHECKING, Any

from capcheck.core.version import __version__

if TYPE_CHECKING:
    from capcheck import authoring, targets, testing
    from capcheck.api import check, report, require, survey, work
    from capcheck.core.budget import Budget
    from capcheck.core.errors import CapcheckError, InputError, NetworkError, ProbeError
    from capcheck.fitting import Fitted, fit
    from capcheck.pipeline.gate import CapacityWarning, gate
    from capcheck.pipeline.gate_result import GateResult
    from capcheck.results.decoding import DecodingPlan
    from capcheck.results.measurement import Outcome
    from capcheck.results.survey import CapacityError, CheckResult, SurveyResult
    from capcheck.runs.decoding import decoding_plan
    from capcheck.runs.options import Progress
    from capcheck.runs.store import save
    from capcheck.samplers.acceptance import AcceptanceResult, check_acceptance
    from capcheck.samplers.check_sampler import check_sampler
    from capcheck.samplers.findings import SamplerResult

__all__ = [
    "AcceptanceResult",
    "Budget",
    "CapacityError",
    "CapacityWarning",
    "CapcheckError",
    "CheckResult",
    "DecodingPlan",
    "Fitted",
    "GateResult",
    "InputError",
    "NetworkError",
    "Outcome",
    "ProbeError",
    "Progress",
    "SamplerResult",
    "SurveyResult",
    "__version__",
    "authoring",
    "check",
    "check_acceptance",
    "check_sampler",
    "decoding_plan",
    "fit",
    "gate",
    "report",
    "require",
    "save",
    "survey",
    "targets",
    "testing",
    "work",
]

_HOMES = {
    "api": ("check", "report", "require", "survey", "work"),
    "core.budget": ("Budget",),
    "core.errors": ("CapcheckError", "InputError", "NetworkError", "ProbeError"),
    "fitting": ("Fitted", "fit"),
    "pipeline.gate": ("CapacityWarning", "gate"),
    "pipeline.gate_result": ("GateResult",),
    "results.decoding": ("DecodingPlan",),
    "results.measurement": ("Outcome",),
    "results.survey": ("CapacityError", "CheckResult", "SurveyResult"),
    "runs.decoding": ("decoding_plan",),
    "runs.options": ("Progress",),
    "runs.store": ("save",),
    "samplers.acceptance": ("AcceptanceResult", "check_acceptance"),
    "samplers.check_sampler": ("check_sampler",),
    "samplers.findings": ("SamplerResult",),
}
"""Modules of the public names. They are loaded when they are first used, since torch takes long."""


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it."""
    if name in ("authoring", "targets", "testing"):
        return importlib.import_module(f"capcheck.{name}")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"capcheck.{module}"), name)
    raise AttributeError(f"module 'capcheck' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
