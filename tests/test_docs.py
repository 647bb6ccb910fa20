"""What README and docs name exists: paths, commands, make targets, endpoints and configuration keys."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pipeline.config import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PATH = re.compile(r"(?<![\w/.-])(?:pipeline|actors|web|configs|tests|docs)/[\w./-]*\w/?")
COMMAND = re.compile(r"python -m ((?:pipeline|actors|web)[\w.]*)")
TARGET = re.compile(r"\bmake ((?:[a-z][a-z-]+ ?)+)(?=[`\n,;)]|$)", re.MULTILINE)
ENDPOINT = re.compile(r"`(/(?:health|weights|metrics|profile|api|ws)[\w/-]*)`")
OVERRIDE = re.compile(r"--set ([\w.]+)=")


def mentions(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for match in pattern.finditer(page.read_text(encoding="utf-8")):
            yield page.name, match.group(match.lastindex or 0)


def leaves(section: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in msgspec.structs.asdict(section).items():
        if isinstance(value, msgspec.Struct):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_every_page_is_read() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "architecture.md", "protocol.md", "configuration.md", "decisions.md"} <= names


@pytest.mark.parametrize(("page", "path"), sorted(set(mentions(PATH))))
def test_every_path_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize(("page", "module"), sorted(set(mentions(COMMAND))))
def test_every_command_exists(page: str, module: str) -> None:
    assert importlib.util.find_spec(module) is not None, f"{page} names python -m {module}"


@pytest.mark.parametrize(("page", "targets"), sorted(set(mentions(TARGET))))
def test_every_make_target_exists(page: str, targets: str) -> None:
    declared = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(targets.split()) <= declared, f"{page} names make {targets}"


@pytest.mark.parametrize(("page", "key"), sorted(set(mentions(OVERRIDE))))
def test_every_overridden_key_exists(page: str, key: str) -> None:
    assert key in dict(leaves(Settings())), f"{page} sets {key}"


def test_the_configuration_table_has_every_key_and_its_default() -> None:
    rows = re.findall(
        r"^\| `([a-z_.]+)` \| [^|]+ \| `([^`]+)` \|",
        (ROOT / "docs/configuration.md").read_text(),
        re.MULTILINE,
    )
    documented = {key: json.loads(default) for key, default in rows}
    assert documented == json.loads(msgspec.json.encode(dict(leaves(Settings()))))
