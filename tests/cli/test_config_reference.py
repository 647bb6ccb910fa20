"""The page of keys is what the types say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from pipeline.cli import config_reference
from pipeline.cli.config_reference import BEGIN, END, main, tables, written_into
from pipeline.config import Seconds, Section, Settings
from pipeline.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/configuration.md"


def test_the_page_is_what_the_command_prints() -> None:
    """After a change of a type, a default or a docstring, `make docs` writes it anew."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "config-reference"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    page = PAGE.read_text(encoding="utf-8")
    assert done.stdout.strip() in page, "docs/reference/configuration.md is old: make docs"
    assert written_into(page) == page


def test_what_is_written_by_hand_stays(tmp_path: Path) -> None:
    """Only what stands between the marks is replaced, however often."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(["--write", str(page)]) == main(["--write", str(page)]) == 0
    assert page.read_text() == f"before\n{BEGIN}\n\n{tables()}\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_page_without_marks_is_refused(text: str, tmp_path: Path) -> None:
    """Nothing is written where nobody said where."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError):
        main(["--write", str(page)])
    assert page.read_text() == text
    with pytest.raises(ConfigError, match="cannot be rewritten"):
        main(["--write", str(tmp_path / "absent" / "page.md")])


def test_every_key_says_what_it_does() -> None:
    """Four cells each, none of them empty, and every section says what it is about."""
    rows = re.findall(r"^\| `[a-z_.]+` \|.*$", tables(), re.MULTILINE)
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4, row
        assert all(cells), row
    for heading in re.findall(r"^### `.*`\n\n(.*)$", tables(), re.MULTILINE):
        assert heading
    assert "`sampling.temperature`" in tables()


def test_a_key_without_a_word_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new key that its docstring does not name cannot be printed."""

    class Silent(Section, frozen=True):
        """A section of one key."""

        key: int = 1

    class Whole(Section, frozen=True):
        """Settings."""

        silent: Silent = Silent()

    monkeypatch.setattr(config_reference, "Settings", Whole)
    with pytest.raises(KeyError, match="key"):
        tables()


Short = Annotated[str, msgspec.Meta(min_length=1, max_length=9)]


class Told(Section, frozen=True):
    """Every kind of key.

    one, two: of both,
        on two lines.
    wait_s: how long.
    kind: which.
    many: more than one.
    few: not too many, nor too long.
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

    told: Told = Told()


def test_values_are_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kind, range and unit; a docstring may speak of several keys at once."""
    monkeypatch.setattr(config_reference, "Settings", Everything)
    printed = tables()
    for row in (
        "| `told.one` | whole number | `1` | of both, on two lines |",
        "| `told.two` | whole number | `null` | of both, on two lines |",
        "| `told.wait_s` | number > 0, seconds | `2.0` | how long |",
        '| `told.kind` | `a` or `b` or `c` | `"a"` | which |',
        '| `told.many` | list: text | `["x", "y"]` | more than one |',
        "| `told.few` | list of at most 3: text of 1 to 9 characters | `[]` | not too many, nor too long |",
        "| `told.flag` | `true` or `false` | `false` | yes or no |",
    ):
        assert row in printed
    assert "### `told`\n\nEvery kind of key." in printed


def test_the_real_settings_are_all_there() -> None:
    """Sections first, then what belongs to none."""
    names = [name for name in Settings.__struct_fields__ if isinstance(getattr(Settings(), name), Section)]
    assert re.findall(r"^### `(.*)`$", tables(), re.MULTILINE) == names
    assert "| `stall_s` |" in tables()
