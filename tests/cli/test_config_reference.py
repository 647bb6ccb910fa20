"""The configuration reference is generated from the types and docstrings of the settings."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from pipeline.cli import config_reference
from pipeline.cli.config_reference import BEGIN, END, main, tables, with_tables
from pipeline.config import Seconds, Section, Settings
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/configuration.md"


def test_the_page_is_up_to_date() -> None:
    """After a change of a type, a default or a docstring, run `make docs`."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "config-reference"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    page = PAGE.read_text(encoding="utf-8")
    assert done.stdout.strip() in page, "docs/reference/configuration.md is outdated: run make docs"
    assert with_tables(page) == page


def test_only_the_text_between_the_markers_is_replaced(tmp_path: Path) -> None:
    """Repeating the command changes nothing."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--write", str(page)]) == main(["--write", str(page)]) == 0
    assert page.read_text() == f"before\n{BEGIN}\n\n{tables()}\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_markers_is_refused(text: str, tmp_path: Path) -> None:
    """The page is not changed."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError):
        main(["--write", str(page)])
    assert page.read_text() == text
    with pytest.raises(ConfigError, match="cannot be read"):
        main(["--write", str(tmp_path / "absent" / "page.md")])


def test_every_key_and_section_has_a_description() -> None:
    """Each row has four non-empty cells, and each section a summary."""
    rows = re.findall(r"^\| `[a-z_.]+` \|.*$", tables(), re.MULTILINE)
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4, row
        assert all(cells), row
    for heading in re.findall(r"^### `.*`\n\n(.*)$", tables(), re.MULTILINE):
        assert heading
    assert "`sampling.temperature`" in tables()


def test_a_key_without_a_description_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The docstring of a section has to describe every key."""

    class Undescribed(Section, frozen=True):
        """A section of one key."""

        key: int = 1

    class Whole(Section, frozen=True):
        """Settings."""

        undescribed: Undescribed = Undescribed()

    monkeypatch.setattr(config_reference, "Settings", Whole)
    with pytest.raises(KeyError, match="key"):
        tables()


Short = Annotated[str, msgspec.Meta(min_length=1, max_length=9)]


class Example(Section, frozen=True):
    """Every kind of key.

    one, two: of both,
        on two lines.
    wait_s: how long.
    kind: which.
    many: more than one.
    few: not too many or long.
    flag: yes or no.
    """

    one: int = 1
    two: int | None = None
    wait_s: Seconds = 2.0
    kind: Literal["a", "b", "c"] = "a"
    many: tuple[str, ...] = ("x", "y")
    few: Annotated[tuple[Short, ...], msgspec.Meta(max_length=3)] = ()
    flag: bool = False


class Everything(Section, frozen=True):
    """Settings."""

    example: Example = Example()


def test_types_ranges_and_units_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """One docstring line can describe several keys."""
    monkeypatch.setattr(config_reference, "Settings", Everything)
    printed = tables()
    for row in (
        "| `example.one` | integer | `1` | of both, on two lines |",
        "| `example.two` | integer | `null` | of both, on two lines |",
        "| `example.wait_s` | number ≥ 0.001, seconds | `2.0` | how long |",
        '| `example.kind` | `a` or `b` or `c` | `"a"` | which |',
        '| `example.many` | list: string | `["x", "y"]` | more than one |',
        "| `example.few` | list of at most 3: string of 1 to 9 characters | `[]` | not too many or long |",
        "| `example.flag` | `true` or `false` | `false` | yes or no |",
    ):
        assert row in printed
    assert "### `example`\n\nEvery kind of key." in printed


def test_every_section_of_the_settings_is_included() -> None:
    """The sections come first, then the keys at the top level."""
    names = [name for name in Settings.__struct_fields__ if isinstance(getattr(Settings(), name), Section)]
    assert re.findall(r"^### `(.*)`$", tables(), re.MULTILINE) == names
    assert "| `stall_s` |" in tables()
