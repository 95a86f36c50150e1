"""Pictures of the handbook: charts that a page's blocks have written, and photographs of pages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

from .blocks import FOLDER, Block

__all__ = ["LARGEST", "PICTURES", "save_picture", "words"]

PICTURES = FOLDER / "pictures"
LARGEST = 300_000  # bytes of a photograph
SIZE = re.compile(r"(\d+)x(\d+)")


def save_picture(block: Block, folder: Path) -> None:
    """Makes a picture of a file that the page's blocks have written.

    A photograph is as large as the details say, "1200x800", and shows the top of the page.
    """
    source, picture = folder / block.source, PICTURES / block.name
    beside = sorted(path.name for path in source.parent.glob("*"))
    assert source.is_file(), f"{block.source} was not written; beside it are {beside}"
    if source.suffix != ".html":
        shutil.copyfile(source, picture)
        return
    from playwright.sync_api import sync_playwright

    size = SIZE.search(block.details)
    assert size is not None, f"{block.name} has no size, as in 1200x800"
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": int(size.group(1)), "height": int(size.group(2))}
        )
        page.goto(source.as_uri())
        page.wait_for_timeout(1500)  # until charts are drawn
        page.screenshot(path=picture)
        browser.close()
    assert picture.stat().st_size <= LARGEST, f"{block.name} is too large: show less"


def words(svg: str) -> str:
    """The texts of a drawing, one a line."""
    root = ElementTree.fromstring(svg)
    texts = (
        "".join(one.itertext()).strip() for one in root.iter("{http://www.w3.org/2000/svg}text")
    )
    return "\n".join(text for text in texts if text)
