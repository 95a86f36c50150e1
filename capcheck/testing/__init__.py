"""For those who add a family: `check_family` and what it is made of.

It may import every other folder; nothing but tests imports it.
"""

from capcheck.testing.conformance import check_family
from capcheck.testing.intervention import require_honest

__all__ = ["check_family", "require_honest"]
