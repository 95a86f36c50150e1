"""The machinery of the handbook: what it reads on a page, what it compares, and what it renews."""

from __future__ import annotations

from pathlib import Path

import pytest

from .blocks import blocks, commands
from .comparison import difference, renewed
from .execution import run_page
from .refresh import written

PAGE = """# A page

```{code-block} python
:caption: own/rows.py

rows = [1, 2]
```

Then

```python
from own.rows import rows

print(len(rows), "rows")
```
```text
2 rows
```

% picture: rows.svg charts/rows.svg

- in a list

  ```console
  $ capcheck families nothing; echo $?
  error: there is no family 'nothing'
  ...
  2
  $ capcheck check --family gpt \\
      --target gaussian:tokens=2
  ...
  ```

```sh
$ rm -r everything
```
"""


def outputs(text: str, folder: Path) -> list[tuple[str, str]]:
    """What a page shows, and what its blocks print."""
    page = folder / "page.md"
    page.write_text(text)
    (folder / "empty").mkdir()
    found = run_page(page, folder / "empty")
    return [(one[0].text, one[1]) for one in found if isinstance(one, tuple)]


def test_the_blocks_of_a_page_are_found_in_its_order() -> None:
    found = blocks(PAGE)
    assert [block.kind for block in found] == ["file", "python", "picture", "console"]
    assert (found[0].name, found[0].code) == ("own/rows.py", "rows = [1, 2]\n")
    assert found[1].output is not None
    assert found[1].output.text == "2 rows\n"
    assert (found[2].name, found[2].source) == ("rows.svg", "charts/rows.svg")
    first, second = commands(found[3])
    assert second[0] == "capcheck check --family gpt --target gaussian:tokens=2"
    lines = PAGE.split("\n")
    assert "  2" in lines[first[1].first : first[1].last]
    assert lines[second[1].first : second[1].last] == ["  ..."]


def test_a_page_runs_in_a_folder_and_a_namespace_of_its_own(tmp_path: Path) -> None:
    (shown, printed), (_, failed), (_, checked) = outputs(PAGE, tmp_path)
    assert difference(shown, printed) is None
    assert failed.splitlines()[0].startswith("error: ")
    assert failed.splitlines()[-1] == "2"
    assert "representable" in checked


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("```python\nprint(1)\n```\n", "no text block follows"),
        ("```python\nundefined\n```\n", "NameError"),
        ("```console\n$ capcheck families nothing\n```\n", "exits with 2"),
        ("```console\n$ rm -r everything\n```\n", "only commands of capcheck"),
        ("```console\nno command\n```\n", "does not begin with a command"),
    ],
)
def test_a_block_that_fails_is_told(block: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=told):
        outputs(block, tmp_path)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("kl 0.123", "kl 0.124"),
        ("kl 0.100 in 12 s", "kl 0.108 in 3.5 min"),
        ("capcheck 0.1.0, torch 2.13.0+cpu", "capcheck 0.2.0, torch 2.14.1"),
        ("...\nlast", "first\nlast"),
        ("first\n...", "first\nmiddle\nlast"),
        ("first\n...\nlast", "first\n\nmiddle\nlast"),
        ("first\n...\nmiddle\n...\nlast", "first\nother\nmiddle\nlast"),
        ("first\n...\nlast", "first\nlast"),
        ("┏━━┓", "┏━━━━┓"),
        ("", ""),
        ("...", "anything"),
    ],
)
def test_equal_outputs_are_equal(shown: str, printed: str) -> None:
    assert difference(shown, printed) is None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("kl 0.123", "kl 0.143"),
        ("kl 0.123", "mmd 0.123"),
        ("12 draws", "13 draws"),
        ("1,200 draws", "1,300 draws"),
        ("kl 1.2e-05", "kl 1.2e-04"),
        ("kl -0.5", "kl 0.5"),
        ("first", "first\nlast"),
        ("first\n...", "zeroth\nfirst"),
        ("...\nlast", "last\nmore"),
        ("first\n...\nmiddle\n...\nlast", "first\nother\nlast"),
        ("first\n...\nb\n...\na\n...\nlast", "first\na\nb\nlast"),
        ("one\n...\none", "one"),
        ("", "something"),
        ("something", ""),
    ],
)
def test_unequal_outputs_are_told(shown: str, printed: str) -> None:
    assert difference(shown, printed) is not None


def test_renewing_keeps_what_is_left_out() -> None:
    printed = "target: four\nnoise\ngpt 0.5\nvae 0.7\nnoise\nreport: x"
    shown = "target: four\n...\ngpt 0.4\n...\nreport: x"
    assert renewed(shown, printed) == "target: four\n...\ngpt 0.5\n...\nreport: x"
    assert renewed("...", printed) == "..."
    assert renewed("old", printed) == printed
    with pytest.raises(ValueError, match="nothing in the output is like 'maskgit"):
        renewed("...\nmaskgit cannot be had\n...", printed)


def test_an_output_is_written_where_it_stood() -> None:
    (block,) = (one for one in blocks(PAGE) if one.kind == "python")
    assert block.output is not None
    after = written(PAGE, [(block.output, "3 rows\nin all\n")])
    assert after == PAGE.replace("2 rows\n", "3 rows\nin all\n")
