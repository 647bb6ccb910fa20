"""The service files keep every argument exactly, and the options of the service are saved."""

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
from pipeline.install.service_file import Service, ServiceOptions, parse_variables

PRINTABLE = st.text(st.characters(categories=["L", "M", "N", "P", "S"], include_characters=" "), max_size=20)
VARIABLES = st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), PRINTABLE, max_size=3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def split_words(text: str) -> list[str]:
    """Split a line into words as systemd does. Source: systemd.syntax(7), systemd.unit(5)."""
    words, word, quoted, at = [], "", False, 0
    while at < len(text):
        two = text[at : at + 2]
        if two in ("%%", "$$"):
            word, at = word + two[0], at + 2
        elif quoted and two in ('\\"', "\\\\"):
            word, at = word + two[1], at + 2
        elif text[at] == '"':
            quoted, at = not quoted, at + 1
            word = word if quoted else f"{word}\0"  # an empty quoted word counts
        elif text[at] == " " and not quoted:
            words, word, at = [*words, word.rstrip("\0")], "", at + 1
        else:
            assert text[at] not in "%$" or not text[at].isascii(), "a specifier, or a variable"
            word, at = word + text[at], at + 1
    return [*words, word.rstrip("\0")]


@given(config=PRINTABLE.filter(bool), override=PRINTABLE)
def test_a_unit_file_keeps_every_argument_exactly(config: str, override: str) -> None:
    """systemd does not split, join, expand or drop an argument of the command."""
    service = Service.of(ServiceOptions(config, (override,)), Path("/folder"))
    (line,) = (line for line in systemd.render_unit(service).splitlines() if line.startswith("ExecStart="))
    assert split_words(line.removeprefix("ExecStart=")) == list(service.command)
    assert service.command[-4:] == ("--config", config, "--set", override)


@given(VARIABLES)
def test_a_property_list_keeps_command_folder_and_variables(variables: dict[str, str]) -> None:
    """launchd also restarts the service after a failure, and not after a clean exit."""
    service = Service.of(ServiceOptions("config.json", ("server.port=9000",), variables), Path("/folder"))
    parsed = plistlib.loads(launchd.render_plist(service, Path("/log")))
    assert tuple(parsed["ProgramArguments"]) == service.command
    assert parsed["WorkingDirectory"] == "/folder"
    assert parsed["EnvironmentVariables"] == variables
    assert parsed["KeepAlive"] == {"SuccessfulExit": False}
    assert parsed["StandardErrorPath"] == "/log"


@pytest.mark.skipif(shutil.which("plutil") is None, reason="plutil exists on macOS only")
def test_a_property_list_passes_plutil(tmp_path: Path) -> None:
    """`plutil -lint` accepts it."""
    file = tmp_path / "agent.plist"
    file.write_bytes(launchd.render_plist(Service.of(ServiceOptions(), tmp_path), tmp_path / "log"))
    assert subprocess.run(["plutil", "-lint", file], check=False).returncode == 0


def test_a_value_with_a_line_break_is_refused() -> None:
    """In a unit file it would start another setting."""
    with pytest.raises(ConfigError, match="cannot hold"):
        Service.of(ServiceOptions("config.json", (), {"TOKEN": "a\nExecStartPre=/bin/evil"}), Path("/folder"))


def test_the_service_does_not_import_from_its_working_folder() -> None:
    """The interpreter runs with -P."""
    assert Service.of(ServiceOptions(), Path("/folder")).command[:2] == (sys.executable, "-P")


def test_the_options_are_saved_for_the_owner_only(home: Path) -> None:
    """The next installation reads them; the file is private because a variable may hold a token."""
    assert ServiceOptions.read() is None
    options = ServiceOptions("hf://org/repo", ("lanes.max=2",), {"HF_TOKEN": "secret"})
    options.write()
    assert ServiceOptions.read() == options
    file = paths.config_folder() / "service.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(Service.of(options, home))
    file.write_text('{"confg": "typo"}')
    with pytest.raises(ConfigError, match="confg"):
        ServiceOptions.read()


def test_a_variable_is_given_by_name_or_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable or an invalid name is a configuration error."""
    monkeypatch.setenv("HF_HOME", "/models")
    assert parse_variables(["HF_HOME", "LM_REPO=org/a=b"]) == {"HF_HOME": "/models", "LM_REPO": "org/a=b"}
    for wrong in ("NOT_SET_ANYWHERE", "1=2", "=x", ""):
        with pytest.raises(ConfigError, match="--env"):
            parse_variables([wrong])


def test_the_user_configuration_takes_precedence_over_the_embedded_one(home: Path) -> None:
    """It is the default of `--config` as soon as it exists."""
    assert paths.default_config() == paths.embedded()
    own = home / ".config/packet-voice/config.json"
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert paths.default_config() == own


def test_a_relative_xdg_folder_counts_as_unset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the specification requires, and as the Makefile does."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert paths.config_folder() == home / ".config/packet-voice"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert paths.config_folder() == Path("/elsewhere/packet-voice")
