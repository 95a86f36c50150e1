"""Tests for authors of families: the conformance suite `check_family` and its parts.

This folder may import every other folder; only tests import it.
"""

from capcheck.testing.conformance import check_family
from capcheck.testing.intervention import require_honest

__all__ = ["check_family", "require_honest"]
