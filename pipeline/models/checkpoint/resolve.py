"""A config opened, wherever it lies: its files are on this machine, and worth having.

Of what lies on a hub, config and headers come first; from them alone the model is refused
or accepted, before gigabytes are fetched. Which files a config needs: `pipeline.models.checkpoint.files`;
how they arrive: `pipeline.hub`.
"""

import os
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import HUB_SCHEME, Config, HubAddress, Source, make_config, read_config, read_object
from pipeline.errors import WeightsError
from pipeline.hub import Repository
from pipeline.models.checkpoint.files import Folder, Place, locate
from pipeline.models.checkpoint.formats import refuse, says_nothing
from pipeline.models.checkpoint.lm_config import parse_lm_config

_CONFIG_NAME = "config.json"
_NO_CONFIG = Path(_CONFIG_NAME)  # of a repository without one
_SMALL = (".json", ".model")  # configs, indices and tokenizers: not worth having in part


@dataclass(frozen=True, slots=True)
class _Headers:
    """A repository in `folder`, its weight files only begun."""

    repository: Repository
    folder: Path

    def __contains__(self, name: str) -> bool:
        return name in self.repository

    def __str__(self) -> str:
        return str(self.repository)

    @property
    def names(self) -> frozenset[str]:
        return self.repository.names

    def path(self, name: str) -> Path:
        beside = self.folder / name
        if not beside.exists():
            small = name.endswith(_SMALL)
            found = self.repository.path(name) if small else self.repository.head(name, self.folder)
            if found != beside:  # the cache has it; an index looks for its shards beside it
                beside.parent.mkdir(parents=True, exist_ok=True)
                beside.symlink_to(found)
        return beside

    def absent(self, what: str) -> WeightsError:
        return self.repository.absent(what)


def _judge(config: Config, name: str) -> None:
    """Refuse what needs no file to be refused."""
    refuse(config.model, name)
    if not says_nothing(config.model):
        parse_lm_config(config.model)


class _Opening:
    """One config on its way here, and the repositories it needs, each asked once."""

    def __init__(self, source: Source, overrides: Sequence[str], stubs: Path) -> None:
        self.repositories: dict[HubAddress, Repository] = {}
        self._source = source
        self._stubs = stubs
        if isinstance(source, Path):
            self._config = read_config(source, overrides)
            _judge(self._config, str(self._config.path))
            return
        raw, file, name = {}, _NO_CONFIG, str(source).removeprefix(HUB_SCHEME)
        repository = self._whole(source)
        if _CONFIG_NAME in repository:
            file = repository.path(_CONFIG_NAME)
            raw = read_object(file)
        self._config = make_config(raw, file, overrides, name)
        _judge(self._config, str(source))

    def headers(self) -> Config:
        """The config with files of which only the headers may be here."""
        return self._located(self._begun)

    def whole(self) -> Config:
        """The config with files that are all here."""
        return self._located(self._whole)

    def _located(self, open_repository: Callable[[HubAddress], Place]) -> Config:
        source = self._source
        own = Folder(self._config.folder) if isinstance(source, Path) else open_repository(source)
        located = locate(self._config, own, os.environ, open_repository)
        if self._config.path == _NO_CONFIG:
            located = replace(located, path=Path(located.model["moshi_name"]).with_name(_CONFIG_NAME))
        return located

    def _whole(self, address: HubAddress) -> Repository:
        key = HubAddress(address.repo, address.revision)
        if key not in self.repositories:
            repository = Repository(key)
            if not repository.online:
                print(f"{key}: the hub is not reached; using the copy fetched earlier", file=sys.stderr)
            self.repositories[key] = repository
        return self.repositories[key]

    def _begun(self, address: HubAddress) -> Place:
        repository = self._whole(address)
        return _Headers(repository, self._stubs / urllib.parse.quote(str(repository), safe=""))


@contextmanager
def _stubs() -> Iterator[Path]:
    """A folder for headers, for a while; an error about what is in it names the repository instead."""
    with tempfile.TemporaryDirectory(prefix="packet-voice-") as folder:
        try:
            yield Path(folder)
        except WeightsError as error:
            if not Path(error.path).is_relative_to(folder):
                raise
            stub = str(Path(error.path).relative_to(folder))
            raise WeightsError(urllib.parse.unquote(stub), error.problem) from error


@contextmanager
def open_headers(source: Source, overrides: Sequence[str] = ()) -> Iterator[Config]:
    """What `source` describes, for as long as the context lasts; no weight is fetched.

    Raises:
        ConfigError: the config, a name in it or the environment is wrong.
        WeightsError: a file is nowhere, or cannot be fetched.
    """
    with _stubs() as stubs:
        yield _Opening(source, overrides, stubs).headers()


def open_config(
    source: Source, overrides: Sequence[str] = (), *, check: Callable[[Config], object]
) -> Config:
    """What `source` describes, its files on this machine; `check` sees the headers before weights come.

    Raises:
        ConfigError: the config, a name in it or the environment is wrong.
        WeightsError: a file is nowhere, or cannot be fetched, or `check` refuses what it says of itself.
    """
    with _stubs() as stubs:
        opening = _Opening(source, overrides, stubs)
        config = opening.headers()
        if opening.repositories:
            check(config)
            config = opening.whole()
        return config
