"""Finds every file that a config names or implies, and gives the config its absolute path.

A name in a config is looked up next to the config: in its folder, or in its repository.
`hf://org/repo[@revision]/file` and `file://path` point elsewhere, as in the official loader. What
is not next to the config is looked up in the repositories that the environment names:

* `LM_REPO` — for a config without language model weights of its own; also their tokenizer.
* `MIMI_REPO` — for a config without codec weights of its own; if it is not set, `LM_REPO`, where
  that is used at all.
* `MIMI_LOCAL` — a codec's weights file, which takes precedence over everything.

A config whose weights are made from a seed (`untrained.seed`) uses no repository. How files of a
repository are fetched: the implementations of `FileSource`, `Folder` and `pipeline.hub`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from pipeline.config import HUB_SCHEME, Config, HubAddress, read_object
from pipeline.errors import ConfigError, WeightsError

FILE_SCHEME: Final = "file://"
INDEX_SUFFIX: Final = ".index.json"
# The names in Kyutai's repositories, for configs that name no file.
_MOSHI_NAMES: Final = ("model.safetensors", "model.safetensors.index.json")
_MIMI_NAMES: Final = ("tokenizer-e351c8d8-checkpoint125.safetensors",)
_TOKENIZER_NAMES: Final = ("tokenizer_spm_32k_3.model",)
_VOICES_NAMES: Final = ("voices.tgz",)  # in the repository of PersonaPlex
DEFAULT_NAMES: Final = {
    "moshi_name": _MOSHI_NAMES[0],
    "mimi_name": _MIMI_NAMES[0],
    "tokenizer_name": _TOKENIZER_NAMES[0],
}
# Recognised, so that they are refused by name instead of reported as missing weights.
_FOREIGN: Final = (".gguf", ".bin", ".pt", ".pth", ".th", ".ckpt")


class FileSource(Protocol):
    """A folder or a repository that contains files."""

    def __contains__(self, name: str) -> bool:
        """Whether it has the file."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """The names of its files."""
        ...

    def path(self, name: str) -> Path:
        """The file's path on this machine; a `WeightsError` if it cannot be fetched."""
        ...

    def absent(self, what: str) -> WeightsError:
        """The error for a missing file."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine. Names may be relative paths into it, or absolute paths."""

    root: Path

    def __contains__(self, name: str) -> bool:
        return (self.root / name).is_file()

    def __str__(self) -> str:
        return str(self.root)

    @property
    def names(self) -> frozenset[str]:
        """The files directly in it."""
        return frozenset(path.name for path in self.root.glob("*") if path.is_file())

    def path(self, name: str) -> Path:
        """The file's absolute path."""
        if name not in self:
            raise self.absent(name)
        return (self.root / name).absolute()

    def absent(self, what: str) -> WeightsError:
        """The error for a file that is not in this folder."""
        return WeightsError(str(self.root / what), "no such file")


def shard_names(index: Path) -> tuple[str, ...]:
    """The weight files that an index (`*.index.json`) lists, each once.

    Raises:
        WeightsError: it is not an index of files next to it.
    """
    try:
        shards = read_object(index).get("weight_map")
    except ConfigError as error:
        raise WeightsError(str(index), error.problem) from None
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise WeightsError(str(index), "not an index: `weight_map` must give each tensor a file next to it")
    return tuple(dict.fromkeys(names))


def shard_paths(path: Path) -> tuple[Path, ...]:
    """The files that hold the tensors of `path`: those that an index lists, or `path` itself.

    Raises:
        WeightsError: it is named like an index and is not one.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return (path,)
    return tuple(path.with_name(name) for name in shard_names(path))


def locate(
    config: Config,
    own: FileSource,
    environment: Mapping[str, str],
    open_repository: Callable[[HubAddress], FileSource],
) -> Config:
    """`config` with the absolute path of every file it needs; an unnamed tokenizer or archive may be missing.

    own: where the config is. If weights are to be made from a seed, names of missing files stay.

    Raises:
        ConfigError: a name, or a variable of the environment, is not valid.
        WeightsError: a file is missing everywhere, or cannot be fetched.
    """
    search = _Search(config, own, environment, open_repository)
    lm_source = search.find("moshi_name", _lm_name, search.repositories("LM_REPO"), hint="LM_REPO")
    with_lm = [lm_source] if lm_source is not None else []
    for key, default in (
        ("tokenizer_name", _one_of(_TOKENIZER_NAMES)),
        ("lora_name", _one_of(())),
        ("voices_name", _one_of(_VOICES_NAMES)),
    ):
        search.find(key, default, with_lm)
    search.find_mimi(with_lm)
    return replace(config, model=search.model)


_DefaultName: TypeAlias = Callable[[FileSource], str | None]


def _one_of(names: Sequence[str]) -> _DefaultName:
    return lambda source: next((name for name in names if name in source), None)


def _lm_name(source: FileSource) -> str | None:
    """The default name of a language model's weights, or else the only file that can be them."""
    name = _one_of(_MOSHI_NAMES)(source)
    if name is not None:
        return name
    others = [name for name in sorted(source.names) if "/" not in name and name not in _MIMI_NAMES]
    found = [n for n in others if n.endswith(".safetensors")] or [n for n in others if n.endswith(_FOREIGN)]
    if len(found) > 1:
        raise ConfigError("moshi_name", f"not given, and {source} holds several: {', '.join(found)}")
    return found[0] if found else None


class _Search:
    """The search for one config's files; `model` is the config with the paths found so far."""

    def __init__(
        self,
        config: Config,
        own: FileSource,
        environment: Mapping[str, str],
        open_repository: Callable[[HubAddress], FileSource],
    ) -> None:
        self.model: dict[str, Any] = dict(config.model)
        self._own = own
        self._environment = environment
        self._open_repository = open_repository
        self._seeded = config.settings.untrained.seed is not None

    def repositories(self, *variables: str) -> Iterator[FileSource]:
        """The repositories that the environment names, each opened only when it is used."""
        for variable in variables:
            name = self._environment.get(variable)
            if name and not self._seeded:
                address = HubAddress.parse(name if name.startswith(HUB_SCHEME) else HUB_SCHEME + name)
                if address.file:
                    raise ConfigError(variable, f"{name} names a file; name the repository")
                yield self._open_repository(address)

    def find(
        self, key: str, default: _DefaultName, sources: Iterable[FileSource], *, hint: str = ""
    ) -> FileSource | None:
        """Find the file of `key`; returns the source it was found in, if that is not the config's own.

        `hint`: the variable of the environment that may name a source; only keys with a hint are
        required.
        """
        named = self.model.get(key)
        if named is not None and not isinstance(named, str):
            raise ConfigError(key, "expected a string")
        if named and named.startswith((HUB_SCHEME, FILE_SCHEME)):
            self.model[key] = str(self._elsewhere(key, named))
            return None
        # Next to the config the name must match; another source may have the default name instead.
        name = default(self._own) if not named else named if named in self._own else None
        if name:
            self.model[key] = str(_fetched(self._own, name))
            return None
        for source in sources:
            name = named if named and named in source else default(source)
            if name:
                self.model[key] = str(_fetched(source, name))
                return source
        if (named or hint) and not (hint and self._seeded):
            raise self._missing(key, named, hint)
        return None

    def find_mimi(self, with_lm: Sequence[FileSource]) -> None:
        """Find the codec's weights and, in the same source, its config."""
        local = self._environment.get("MIMI_LOCAL")
        if local:
            if not Path(local).is_file():
                raise ConfigError("MIMI_LOCAL", f"{local} is not a file")
            self.model["mimi_name"] = str(Path(local).absolute())

        def sources() -> Iterator[FileSource]:
            yield from self.repositories("MIMI_REPO")
            yield from with_lm

        def default(source: FileSource) -> str | None:
            # A repository of a codec alone (kyutai/mimi) uses the default name of a language model.
            alone = () if source in (self._own, *with_lm) else ("model.safetensors",)
            return _one_of((*_MIMI_NAMES, *alone))(source)

        mimi_source = self.find("mimi_name", default, sources(), hint="MIMI_REPO")
        with_mimi = [mimi_source] if mimi_source is not None else []
        self.find("mimi_config_name", _one_of(()), with_mimi)

    def _elsewhere(self, key: str, named: str) -> Path:
        if named.startswith(FILE_SCHEME):
            try:
                path = Path(named.removeprefix(FILE_SCHEME)).expanduser().absolute()
            except RuntimeError:
                raise ConfigError(key, f"{named}: there is no such home folder") from None
            return _fetched(Folder(path.parent), path.name)
        address = HubAddress.parse(named)
        if not address.file:
            raise ConfigError(key, f"{named} names a repository; name a file in it, {named}/FILE")
        return _fetched(self._open_repository(address), address.file)

    def _missing(self, key: str, named: str | None, hint: str) -> WeightsError:
        error = self._own.absent(named or DEFAULT_NAMES[key])
        problem = f"{error.problem} ({key})"
        if hint and not self._environment.get(hint):
            problem += f"; {hint} may name a repository that has it"
        return type(error)(error.path, problem)


def _fetched(source: FileSource, name: str) -> Path:
    """The path of `name` in `source`; if it is an index, after fetching its shards."""
    path = source.path(name)
    if name.endswith(INDEX_SUFFIX):
        for shard in shard_names(path):
            source.path(str(Path(name).with_name(shard)))
    return path
