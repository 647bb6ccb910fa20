"""Opens a config from a file, a folder or a hub repository, and brings its files to this machine.

From a hub, the config and the headers of weight files are fetched first, so that a model is
accepted or refused before gigabytes are fetched. Which files a config needs: `files`; how they
are fetched: `pipeline.hub`.
"""

import os
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import HUB_SCHEME, Config, HubAddress, Source, make_config, read_config, read_object
from pipeline.errors import HubError, WeightsError
from pipeline.models.checkpoint.files import FileSource, Folder, locate
from pipeline.models.checkpoint.formats import lacks_architecture, refuse
from pipeline.models.checkpoint.lm_config import parse_lm_config
from pipeline.system.command import print_notice

if TYPE_CHECKING:  # imported by `_open_repository` only when there is a repository
    from pipeline.hub import Repository

_CONFIG_NAME = "config.json"
_NO_CONFIG = Path(_CONFIG_NAME)  # for a repository without one
_SMALL = (".json", ".model", ".tgz")  # configs, indices, tokenizers and voices are fetched whole


@dataclass(frozen=True, slots=True)
class _Headers:
    """A repository whose weight files are present in `folder` by their headers only."""

    repository: "Repository"
    folder: Path

    def __contains__(self, name: str) -> bool:
        return name in self.repository

    def __str__(self) -> str:
        return str(self.repository)

    @property
    def names(self) -> frozenset[str]:
        return self.repository.names

    def path(self, name: str) -> Path:
        local = self.folder / name
        if not local.exists():
            small = name.endswith(_SMALL)
            found = self.repository.path(name) if small else self.repository.head(name, self.folder)
            if found != local:  # in the cache; an index needs its shards next to it
                local.parent.mkdir(parents=True, exist_ok=True)
                local.symlink_to(found)
        return local

    def absent(self, what: str) -> WeightsError:
        return self.repository.absent(what)


def _check_config(config: Config, name: str) -> None:
    """Refuse a model that its config alone shows to be unsupported."""
    refuse(config.model, name)
    if not lacks_architecture(config.model):
        parse_lm_config(config.model)


class _Opening:
    """One config while it is opened, and the repositories it needs, each queried once."""

    def __init__(self, source: Source, overrides: Sequence[str], stubs: "_Stubs") -> None:
        self.repositories: dict[HubAddress, Repository] = {}
        self._source = source
        self._stubs = stubs
        if isinstance(source, Path):
            self._config = read_config(source, overrides)
            _check_config(self._config, str(self._config.path))
            return
        raw, file, name = {}, _NO_CONFIG, str(source).removeprefix(HUB_SCHEME)
        repository = self._whole(source)
        if _CONFIG_NAME in repository:
            file = repository.path(_CONFIG_NAME)
            raw = read_object(file)
        self._config = make_config(raw, file, overrides, name)
        _check_config(self._config, str(source))

    def headers(self) -> Config:
        """The config, with weight files of which only the headers may be present."""
        return self._located(self._headers)

    def whole(self) -> Config:
        """The config, with all files present."""
        return self._located(self._whole)

    def _located(self, open_repository: Callable[[HubAddress], FileSource]) -> Config:
        source = self._source
        own = Folder(self._config.folder) if isinstance(source, Path) else open_repository(source)
        located = locate(self._config, own, os.environ, open_repository)
        if self._config.path == _NO_CONFIG:
            located = replace(located, path=Path(located.model["moshi_name"]).with_name(_CONFIG_NAME))
        return located

    def _whole(self, address: HubAddress) -> "Repository":
        key = HubAddress(address.repo, address.revision)
        if key not in self.repositories:
            repository = _open_repository(key)
            if not repository.online:
                print_notice(f"{key}: cannot reach the hub; using the cached copy")
            self.repositories[key] = repository
        return self.repositories[key]

    def _headers(self, address: HubAddress) -> FileSource:
        repository = self._whole(address)
        return _Headers(repository, self._stubs.folder / urllib.parse.quote(str(repository), safe=""))


def _open_repository(address: HubAddress) -> "Repository":
    """The repository; the hub's client, which reads the environment when it is imported, only for this.

    Raises:
        HubError: the client cannot be used, or the repository cannot be opened.
    """
    try:
        from pipeline.hub import Repository  # noqa: PLC0415 - see above
    except (ImportError, ValueError, OSError) as error:
        problem = f"the hub client does not start ({error}); check the variables HF_* of the environment"
        raise HubError(str(address), problem) from None
    return Repository(address)


class _Stubs:
    """A temporary folder for headers, made when the first repository needs it."""

    def __init__(self) -> None:
        self.made: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """The folder."""
        if self.made is None:
            try:
                self.made = tempfile.TemporaryDirectory(prefix="packet-voice-")
            except OSError as error:
                raise WeightsError("TMPDIR", f"no temporary folder can be made ({error.strerror})") from None
        return Path(self.made.name)


@contextmanager
def _stubs() -> Iterator[_Stubs]:
    """A temporary folder for headers; errors about files in it name the repository instead."""
    stubs = _Stubs()
    try:
        yield stubs
    except WeightsError as error:
        if stubs.made is None or not Path(error.path).is_relative_to(stubs.folder):
            raise
        stub = str(Path(error.path).relative_to(stubs.folder))
        raise WeightsError(urllib.parse.unquote(stub), error.problem) from error
    finally:
        if stubs.made is not None:
            stubs.made.cleanup()


@contextmanager
def open_headers(source: Source, overrides: Sequence[str] = ()) -> Iterator[Config]:
    """The config at `source`, with headers only, within the context; no weight is fetched.

    Raises:
        ConfigError: the config, a name in it or the environment is wrong.
        WeightsError: a file is missing, or cannot be fetched.
    """
    with _stubs() as stubs:
        yield _Opening(source, overrides, stubs).headers()


def open_config(
    source: Source, overrides: Sequence[str] = (), *, check: Callable[[Config], object]
) -> Config:
    """The config at `source` with its files on this machine; `check` sees headers before weights are fetched.

    Raises:
        ConfigError: the config, a name in it or the environment is wrong.
        WeightsError: a file is missing, or cannot be fetched, or `check` raises it.
    """
    with _stubs() as stubs:
        opening = _Opening(source, overrides, stubs)
        config = opening.headers()
        if opening.repositories:
            check(config)
            config = opening.whole()
        return config
