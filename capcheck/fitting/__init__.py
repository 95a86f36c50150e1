"""Fitting: real networks in the oracle's place, found by name, checked, and fitted to the oracle.

The folder imports `procedures` and what lies below; `runs` and `api` may import it.
"""

from capcheck.fitting.architecture import Architecture
from capcheck.fitting.fit import Fitted, fit
from capcheck.fitting.modules import build, module_for
from capcheck.fitting.networks import as_network
from capcheck.fitting.objectives import Objective
from capcheck.fitting.registry import RecordedRun, objective_for

__all__ = [
    "Architecture",
    "Fitted",
    "Objective",
    "RecordedRun",
    "as_network",
    "build",
    "fit",
    "module_for",
    "objective_for",
]
