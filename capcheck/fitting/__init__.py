"""Fitting: networks that replace the oracle are found by name, checked, and fitted to the oracle.

This folder imports `procedures` and the folders below it; `runs` and `api` may import this folder.
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
