"""From the user's data to a target.

A reader makes raw rows of a file (`files`, `text`, `named`), a layout makes tokens of them
(`layout`), and a law is built or fitted to the tokens (`laws`). The folder imports `targets` and
what lies below; `cli` and users import it.
"""

from capcheck.data.laws import LAWS
from capcheck.data.layout import Layout
from capcheck.data.loading import NAMED, load_target
from capcheck.data.text import Windows, windows

__all__ = ["LAWS", "NAMED", "Layout", "Windows", "load_target", "windows"]
