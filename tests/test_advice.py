"""What messages and pages tell the user to type can be typed."""

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.main import GROUPS
from pipeline.config import parse_settings

ROOT = Path(__file__).parents[1]
SOURCES = [path for room in ("pipeline", "actors", "web") for path in sorted((ROOT / room).rglob("*.py"))]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = {name for commands in GROUPS.values() for name in commands}


def strings(path: Path) -> Iterator[str]:
    """Every string of a module, the fixed parts of formatted ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts() -> Iterator[tuple[Path, str]]:
    for path in SOURCES:
        yield from ((path, text) for text in strings(path))
    yield from ((path, path.read_text()) for path in PAGES)


def mentioned(pattern: str) -> list[tuple[Path, str]]:
    return [(path, match[1]) for path, text in texts() for match in re.finditer(pattern, text)]


def test_no_index_is_asked_for_this_project() -> None:
    """It is on none: `pip install packet-voice` would fail, or install something else."""
    assert mentioned(r"(pip install [^\n]*packet-voice)") == []


def test_packages_to_install_are_known_to_the_project() -> None:
    """They are in a range of pyproject.toml, so that a version that works is known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    known = {re.split(r"[\[<>=;~! ]", each)[0] for each in ranges}
    named = mentioned(r"pip install (?:--?[\w-]+ )*([a-z][\w-]*)")
    assert [(path.name, name) for path, name in named if name not in known] == []


def test_modules_to_run_exist() -> None:
    """`python -m NAME` can be run, and after `pipeline` comes a command."""
    for path, name in mentioned(r"python -m ((?:pipeline|web|actors)[\w.]*)"):
        assert importlib.util.find_spec(name.rstrip(".")) is not None, (path, name)
    named = mentioned(r"python -m pipeline ([a-z-]+)")
    assert [(path.name, name) for path, name in named if name not in COMMANDS] == []


def test_commands_to_run_exist() -> None:
    """As far as they are in backquotes."""
    named = mentioned(r"`packet-voice ([a-z][a-z-]+)")
    assert [(path.name, name) for path, name in named if name not in COMMANDS] == []


def test_targets_to_make_exist() -> None:
    """As far as they are in backquotes."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = mentioned(r"`make ([a-z][a-z-]+)(?: [A-Z]+=[^`]*)?`")
    assert [(path.name, name) for path, name in named if name not in targets] == []


@pytest.mark.parametrize("key", sorted({key for _, key in mentioned(r"--set ([a-z_]+(?:\.[a-z_]+)*)=")}))
def test_keys_to_set_exist(key: str) -> None:
    """As keys of the settings: an unknown one would be named as such."""
    *sections, last = key.split(".")
    raw: dict[str, object] = {last: object()}
    for section in reversed(sections):
        raw = {section: raw}
    with pytest.raises(Exception, match=r"^(?!.*unknown field).*$"):
        parse_settings(raw)
