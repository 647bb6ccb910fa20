"""What a service manager reads is what was meant, whatever is in it; what was chosen is found again."""

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.install import launchd, paths, systemd
from pipeline.install.service_file import Choice, Service, named_variables

PRINTABLE = st.text(st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" "), max_size=20)
VARIABLES = st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), PRINTABLE, max_size=3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def understood(text: str) -> list[str]:
    """The words of a line as systemd reads them. Source: systemd.syntax(7), systemd.unit(5)."""
    words, word, quoted, at = [], "", False, 0
    while at < len(text):
        two = text[at : at + 2]
        if two in ("%%", "$$"):
            word, at = word + two[0], at + 2
        elif quoted and two in ('\\"', "\\\\"):
            word, at = word + two[1], at + 2
        elif text[at] == '"':
            quoted, at = not quoted, at + 1
            word = word if quoted else f"{word}\0"  # an empty word is one too
        elif text[at] == " " and not quoted:
            words, word, at = [*words, word.rstrip("\0")], "", at + 1
        else:
            assert text[at] not in "%$" or not text[at].isascii(), "a specifier, or a variable"
            word, at = word + text[at], at + 1
    return [*words, word.rstrip("\0")]


@given(config=PRINTABLE.filter(bool), override=PRINTABLE)
def test_a_unit_says_the_very_words_that_were_chosen(config: str, override: str) -> None:
    """No word of the command is split, joined, expanded or lost."""
    service = Service.of(Choice(config, (override,)), Path("/folder"))
    (line,) = (line for line in systemd.spell(service).splitlines() if line.startswith("ExecStart="))
    assert understood(line.removeprefix("ExecStart=")) == list(service.command)
    assert service.command[-4:] == ("--config", config, "--set", override)


@given(VARIABLES)
def test_a_property_list_says_them_too(variables: dict[str, str]) -> None:
    """Command, folder and variables come back as they were; what fails is run again, what ends well not."""
    service = Service.of(Choice("config.json", ("server.port=9000",), variables), Path("/folder"))
    told = plistlib.loads(launchd.spell(service, Path("/log")))
    assert tuple(told["ProgramArguments"]) == service.command
    assert told["WorkingDirectory"] == "/folder"
    assert told["EnvironmentVariables"] == variables
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert told["StandardErrorPath"] == "/log"


@pytest.mark.skipif(shutil.which("plutil") is None, reason="plutil is on macOS alone")
def test_a_property_list_is_one_that_macos_takes(tmp_path: Path) -> None:
    """`plutil -lint` has nothing against it."""
    file = tmp_path / "agent.plist"
    file.write_bytes(launchd.spell(Service.of(Choice(), tmp_path), tmp_path / "log"))
    assert subprocess.run(["plutil", "-lint", file], check=False).returncode == 0


def test_what_a_file_cannot_hold_is_refused() -> None:
    """A line break in a value would be another setting of the unit."""
    with pytest.raises(ConfigError, match="cannot hold"):
        Service.of(Choice("config.json", (), {"TOKEN": "a\nExecStartPre=/bin/evil"}), Path("/folder"))


def test_nothing_is_imported_from_where_the_service_works() -> None:
    """Its folder holds what the user wrote, and not modules."""
    assert Service.of(Choice(), Path("/folder")).command[:2] == (sys.executable, "-P")


def test_a_choice_is_found_again(home: Path) -> None:
    """By the next installation, and readable to its owner alone: a variable may be a token."""
    assert Choice.read() is None
    choice = Choice("hf://org/repo", ("lanes.max=2",), {"HF_TOKEN": "secret"})
    choice.write()
    assert Choice.read() == choice
    file = paths.config_folder() / "service.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(Service.of(choice, home))
    file.write_text('{"confg": "typo"}')
    with pytest.raises(ConfigError, match="confg"):
        Choice.read()


def test_a_variable_is_named_or_spelt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not set here, or is no name, is a mistake of the user's."""
    monkeypatch.setenv("HF_HOME", "/models")
    assert named_variables(["HF_HOME", "LM_REPO=org/a=b"]) == {"HF_HOME": "/models", "LM_REPO": "org/a=b"}
    for wrong in ("NOT_SET_ANYWHERE", "1=2", "=x", ""):
        with pytest.raises(ConfigError, match="--env"):
            named_variables([wrong])


def test_a_user_s_own_configuration_goes_before_the_embedded_one(home: Path) -> None:
    """Once it is there, it is what a command takes that is not told."""
    assert paths.usual_config() == paths.embedded()
    own = home / ".config/packet-voice/config.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert paths.usual_config() == own


def test_a_relative_xdg_folder_counts_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its specification says, and as the Makefile does."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert paths.config_folder() == home / ".config/packet-voice"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert paths.config_folder() == Path("/elsewhere/packet-voice")
