"""The conformance suite checks that a family keeps the contract of `Probe`.

`check_family(MyProbe())` runs a probe on small targets with several networks on every available
device (see `cases`), and raises at the first violation (see `checks`). It is meant for authors of
families, like scikit-learn's `check_estimator`; capcheck's own tests run the same checks.
"""

from __future__ import annotations

from capcheck.core.errors import InputError, ProbeError
from capcheck.procedures.probe import AnyProbe, Probe
from capcheck.testing.cases import TARGETS, cases_of
from capcheck.testing.checks import CHECKS, check_declaration

__all__ = ["check_family"]


def check_family(probe: AnyProbe) -> None:
    """Checks that a family, registered or not, keeps the contract of `Probe`.

    Args:
        probe: The probe of the family, with its options.

    Raises:
        ProbeError: The probe violates the contract; the sentence names the first violation.
    """
    if not isinstance(probe, Probe):
        raise InputError(
            f"check_family takes a Probe, got {probe!r}; make the probe first, as in MyProbe()."
        )
    cases = list(cases_of(probe))
    if not cases:
        raise ProbeError(
            f"{probe.family}: its kinds must admit one of the small targets {', '.join(TARGETS)}, "
            "and its signature must have an oracle there."
        )
    check_declaration(probe)
    for case in cases:
        for check in CHECKS:
            check(case)
