"""What README and docs name exists: paths, links, commands, make targets, endpoints, configuration keys."""

import ast
import importlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

from pipeline import errors
from pipeline.cli.main import GROUPS
from pipeline.config import Settings
from pipeline.errors import EXIT_BROKEN_INVARIANT

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PATH = re.compile(r"(?<![\w/.-])(?:pipeline|actors|web|configs|tests|docs)/[\w./-]*\w/?")
MODULE = re.compile(r"python -m ((?:pipeline|actors|web|benchmarks)[\w.]*)")
COMMAND = re.compile(r"(?:python -m pipeline |(?:`|^ *)packet-voice )([a-z][a-z-]*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TARGET = re.compile(r"\bmake ((?:[a-z][a-z-]+ ?)+)(?=[`\n,;)]|$)", re.MULTILINE)
ENDPOINT = re.compile(r"`(/(?:health|weights|metrics|profile|api|ws)[\w/-]*)`")
OVERRIDE = re.compile(r"--set ([a-z][\w.]*)=")
SECTIONS = [
    name for name in Settings.__struct_fields__ if isinstance(getattr(Settings(), name), msgspec.Struct)
]
KEY = re.compile(rf"(?<!health )`((?:{'|'.join(SECTIONS)})\.(?!(?:pem|crt|log|json|py)`)[a-z_]+)`")
# The signs in the tables of docs/how-to/troubleshooting.md, by where to look for them.
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


def test_pages_of_every_folder_are_checked() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "architecture.md", "protocol.md", "configuration.md", "decisions.md"} <= names


@pytest.mark.parametrize(("page", "path"), sorted(set(mentions(PATH))))
def test_every_path_exists(page: str, path: str) -> None:
    assert (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize(("page", "module"), sorted(set(mentions(MODULE))))
def test_every_module_that_is_run_exists(page: str, module: str) -> None:
    assert importlib.util.find_spec(module) is not None, f"{page} names python -m {module}"


@pytest.mark.parametrize(("page", "command"), sorted(set(mentions(COMMAND))))
def test_every_command_exists(page: str, command: str) -> None:
    assert any(command in commands for commands in GROUPS.values()), f"{page} names packet-voice {command}"


def test_the_reference_of_commands_lists_every_command() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\|[\w ]*\| `([a-z-]+)` \|", page, re.MULTILINE)
    assert listed == [name for commands in GROUPS.values() for name in commands]


@pytest.mark.parametrize(
    "command", [name for commands in GROUPS.values() for name in commands if name != "run"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/reference/commands.md sends its reader to it."""
    module = importlib.import_module(f"pipeline.cli.{command.replace('-', '_')}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_map_of_the_code_names_real_definitions() -> None:
    """Each file of the table in docs/contributing.md defines what the table says it does."""
    page = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]+\| `([^`]+)` \| `([\w.]+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 5
    for path, name in rows:
        text = (ROOT / path).read_text(encoding="utf-8")
        for part in name.split("."):
            assert re.search(rf"\b(?:class|def|function) {part}\b", text), f"{path} has no {part}"


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    """Files and headings of this project; addresses elsewhere are not opened."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not fragment or fragment in anchors(target), link


def test_every_page_that_code_names_exists() -> None:
    """Comments, messages, configurations and build files refer to pages by their path."""
    kinds = {".py", ".js", ".html", ".yaml", ".cfg", ".toml", ".json"}
    files = [ROOT / name for name in ("Makefile", "pyproject.toml", "configs/docker/Dockerfile")]
    for room in (
        "pipeline",
        "actors",
        "web/static",
        "web/routes",
        "web/server",
        "web/security",
        "configs",
        "tests",
    ):
        files += [path for path in (ROOT / room).rglob("*") if path.suffix in kinds]
    for file in files:
        for page in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", file.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), f"{file.relative_to(ROOT)} names {page}"


def test_every_dependency_is_explained() -> None:
    """Each package of pyproject.toml, extras included, is named in docs/explanation/dependencies.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    page = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8").lower()
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].removesuffix("-cu12").lower()
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page), f"{name} is not explained"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in LINK.findall(index)}
    assert {page for page in PAGES if page.name != "README.md"} <= linked


@pytest.mark.parametrize(("page", "endpoint"), sorted(set(mentions(ENDPOINT))))
def test_every_endpoint_exists(page: str, endpoint: str) -> None:
    """Some string of the web code begins with it."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "web").rglob("*.py")]
    assert any(f'"{endpoint}' in text for text in sources), f"{page} names {endpoint}"


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
def code_strings() -> tuple[frozenset[str], frozenset[str]]:
    """The first argument of every logger call in the code, and every string constant."""
    levels = {"debug", "info", "warning", "error", "exception", "critical"}
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
    """Some logger call has an event of that name."""
    assert sign in code_strings()[0]


@pytest.mark.parametrize("sign", signs("answer"))
def test_every_error_code_of_troubleshooting_exists(sign: str) -> None:
    """It is a string constant of the code."""
    assert sign in code_strings()[1]


@pytest.mark.parametrize("sign", signs("metric"))
def test_every_metric_of_troubleshooting_is_documented(sign: str) -> None:
    """With its label, in the table of docs/reference/metrics.md, which matches what is served."""
    name, _, label = sign.partition("{")
    row = re.search(rf"^\| `{name}[`{{].*$", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE)
    assert row is not None
    for value in re.findall(r'"([^"]+)"', label):
        assert f"`{value}`" in row[0]


@pytest.mark.parametrize("sign", signs("exit code"))
def test_every_exit_code_of_troubleshooting_exists(sign: str) -> None:
    """Some error class has it."""
    failures = [getattr(each, "exit_code", None) for each in vars(errors).values()]
    assert int(sign) in {*failures, EXIT_BROKEN_INVARIANT}


@pytest.mark.parametrize("sign", signs("page"))
def test_every_page_message_of_troubleshooting_exists(sign: str) -> None:
    """It is in the texts of the voice page, as quoted."""
    texts = [*(ROOT / "web/static/voice").rglob("*.js"), ROOT / "web/static/voice/index.html"]
    assert any(sign in path.read_text(encoding="utf-8") for path in texts)


@pytest.mark.parametrize("sign", signs("stderr"))
def test_every_printed_message_of_troubleshooting_exists(sign: str) -> None:
    """It is in a string of the code or in HAProxy's configuration."""
    balancer = (ROOT / "configs/haproxy.cfg").read_text(encoding="utf-8")
    assert any(sign in text for text in (*code_strings()[1], balancer))
