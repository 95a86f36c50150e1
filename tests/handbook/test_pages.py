"""Every block of the handbook runs, and prints what its page shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import threadpoolctl
import torch

from .blocks import FOLDER, Block, blocks, pages
from .comparison import difference
from .execution import run_page
from .pictures import LARGEST, PICTURES, words


def named(page: Path) -> str:
    """The name of a page."""
    return page.relative_to(FOLDER).with_suffix("").as_posix()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, as when outputs are renewed: sums are then made in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", pages(), ids=named)
def test_a_page_shows_what_its_blocks_print(page: Path, tmp_path: Path) -> None:
    faults = []
    for found in run_page(page, tmp_path):
        if isinstance(found, Block):
            faults += stale(found, tmp_path)
        elif told := difference(found[0].text, found[1]):
            faults.append(f"line {found[0].first}: {told}")
    assert not faults, f"{named(page)} is not up to date:\n" + "\n".join(faults)


def stale(block: Block, folder: Path) -> list[str]:
    """What a picture lacks of the file that it is made of."""
    source, picture = folder / block.source, PICTURES / block.name
    assert source.is_file(), f"{block.source} was not written"
    if not picture.is_file():
        return [f"there is no picture {block.name}"]
    if picture.suffix == ".png":
        return [] if picture.stat().st_size <= LARGEST else [f"{block.name} is too large"]
    told = difference(words(picture.read_text()), words(source.read_text()))
    return [f"{block.name}: {told}"] if told else []


def test_every_picture_is_made_and_shown() -> None:
    made = [
        block.name
        for page in pages()
        for block in blocks(page.read_text())
        if block.kind == "picture"
    ]
    text = "\n".join(page.read_text() for page in FOLDER.rglob("*.md"))
    shown = set(re.findall(r"pictures/(\S+?\.(?:svg|png))", text))
    assert len(made) == len(set(made))
    kept = {path.name for path in PICTURES.iterdir()}
    assert set(made) == shown & set(made), "a picture is made and not shown"
    assert shown == kept, "pictures that pages show, and files"


def test_commands_that_are_not_executed_are_those_of_others() -> None:
    for page in FOLDER.rglob("*.md"):
        for code in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.S | re.M):
            own = [line for line in code.split("\n") if re.match(r" *\$? ?capcheck ", line)]
            assert not own, f"{named(page)}: {own[0]} stands in a block that is not executed"
