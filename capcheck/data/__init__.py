"""Data: builds a target from the user's files.

A reader turns a source into raw rows (`files`, `text`, `named`), a layout turns the rows into
tokens (`layout`), and a law is built from, or fitted to, the tokens (`laws`). This package imports
`targets` and lower packages; `cli` and users import it.
"""

from capcheck.data.laws import LAWS
from capcheck.data.layout import Layout
from capcheck.data.loading import NAMED, load_target, target_of_rows
from capcheck.data.text import Windows, windows

__all__ = ["LAWS", "NAMED", "Layout", "Windows", "load_target", "target_of_rows", "windows"]
