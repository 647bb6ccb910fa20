"""What README and docs name exists: paths, commands, make targets, endpoints and configuration keys."""

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from pipeline import errors
from pipeline.config import Settings
from pipeline.run import BROKEN

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PATH = re.compile(r"(?<![\w/.-])(?:pipeline|actors|web|configs|tests|docs)/[\w./-]*\w/?")
COMMAND = re.compile(r"python -m ((?:pipeline|actors|web)[\w.]*)")
TARGET = re.compile(r"\bmake ((?:[a-z][a-z-]+ ?)+)(?=[`\n,;)]|$)", re.MULTILINE)
ENDPOINT = re.compile(r"`(/(?:health|weights|metrics|profile|api|ws)[\w/-]*)`")
OVERRIDE = re.compile(r"--set ([\w.]+)=")
SECTIONS = [
    name for name in Settings.__struct_fields__ if isinstance(getattr(Settings(), name), msgspec.Struct)
]
KEY = re.compile(rf"(?<!health )`((?:{'|'.join(SECTIONS)})\.(?!(?:pem|crt|log|json|py)`)[a-z_]+)`")
# What docs/how-to/troubleshooting.md sends its reader to look for, by where it stands.
SIGN = re.compile(
    r"(?:\b(log|metric|answer|health|exit code) `([^`]+)`|\b(page|stderr)(?: of HAProxy)? “([^”]+)”)"
)


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
        (ROOT / "docs/reference/configuration.md").read_text(),
        re.MULTILINE,
    )
    documented = {key: json.loads(default) for key, default in rows}
    assert documented == json.loads(msgspec.json.encode(dict(leaves(Settings()))))


@pytest.mark.parametrize(("page", "key"), sorted(set(mentions(KEY))))
def test_every_key_that_is_named_exists(page: str, key: str) -> None:
    assert key in dict(leaves(Settings())), f"{page} names {key}"


def signs(*kinds: str) -> list[str]:
    page = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
    symptoms = page.partition("\n## ")[2]
    found = {match[2] or match[4] for match in SIGN.finditer(symptoms) if (match[1] or match[3]) in kinds}
    assert found, f"no {kinds} in docs/how-to/troubleshooting.md"
    return sorted(found)


@cache
def said() -> tuple[frozenset[str], frozenset[str]]:
    """What the code gives to loggers first, and every string in it."""
    levels = {"debug", "info", "warning", "error", "exception", "critical", "tell"}
    events, strings = set(), set()
    for room in ("pipeline", "actors", "web"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Call(
                        ast.Attribute(attr=name) | ast.Name(id=name), [ast.Constant(str(text)), *_]
                    ):
                        if name in levels:
                            events.add(text)
                    case ast.Constant(str(text)):
                        strings.add(text)
    return frozenset(events), frozenset(strings)


@pytest.mark.parametrize("sign", signs("log"))
def test_every_event_of_troubleshooting_is_logged(sign: str) -> None:
    """Some line of the code gives an event of that name to a logger."""
    assert sign in said()[0]


@pytest.mark.parametrize("sign", signs("answer"))
def test_every_code_of_troubleshooting_is_given(sign: str) -> None:
    """It stands in the code as a whole string."""
    assert sign in said()[1]


@pytest.mark.parametrize("sign", signs("metric"))
def test_every_metric_of_troubleshooting_is_documented(sign: str) -> None:
    """In the table of docs/how-to/operations.md, which is held to what is served; with the value of its label."""
    name, _, label = sign.partition("{")
    row = re.search(rf"^\| `{name}[`{{].*$", (ROOT / "docs/how-to/operations.md").read_text(), re.MULTILINE)
    assert row is not None
    for value in re.findall(r'"([^"]+)"', label):
        assert f"`{value}`" in row[0]


@pytest.mark.parametrize("sign", signs("exit code"))
def test_every_exit_code_of_troubleshooting_is_one(sign: str) -> None:
    """Some failure has it."""
    failures = [getattr(each, "exit_code", None) for each in vars(errors).values()]
    assert int(sign) in {*failures, BROKEN}


@pytest.mark.parametrize("sign", signs("page"))
def test_every_sentence_of_troubleshooting_stands_on_the_page(sign: str) -> None:
    """As it is quoted, in the texts of the page."""
    texts = [*(ROOT / "web/static/voice").rglob("*.js"), ROOT / "web/static/voice/index.html"]
    assert any(sign in path.read_text(encoding="utf-8") for path in texts)


@pytest.mark.parametrize("sign", signs("stderr"))
def test_every_sentence_of_troubleshooting_is_printed(sign: str) -> None:
    """By the code, or by the balancer's configuration."""
    balancer = (ROOT / "configs/haproxy.cfg").read_text(encoding="utf-8")
    assert any(sign in text for text in (*said()[1], balancer))
