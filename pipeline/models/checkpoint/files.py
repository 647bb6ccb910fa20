"""Every file that a config names, or leaves to custom, is found and given its absolute path.

A name in a config is looked for beside the config: in its folder, or in its repository.
`hf://org/repo[@revision]/file` and `file://path` lead elsewhere, as in the official loader.
What is not beside the config is looked for in the repositories that the environment names:

* `LM_REPO` — for a config without language model weights of its own; also their tokenizer.
* `MIMI_REPO` — for a config without codec weights of its own; where it is not set, `LM_REPO`
  if that one is asked at all.
* `MIMI_LOCAL` — a codec's weights file that wins over everything.

A config that makes its own weights (`untrained.seed`) needs no repository and asks none.
How a repository is reached is not known here: `Place`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from pipeline.config import HUB_SCHEME, Config, HubAddress, read_object
from pipeline.errors import ConfigError, WeightsError

FILE_SCHEME: Final = "file://"
INDEX_SUFFIX: Final = ".index.json"
# What Kyutai's repositories call their files where a config does not say.
_MOSHI_NAMES: Final = ("model.safetensors", "model.safetensors.index.json")
_MIMI_NAMES: Final = ("tokenizer-e351c8d8-checkpoint125.safetensors",)
_TOKENIZER_NAMES: Final = ("tokenizer_spm_32k_3.model",)
USUAL_NAMES: Final = {
    "moshi_name": _MOSHI_NAMES[0],
    "mimi_name": _MIMI_NAMES[0],
    "tokenizer_name": _TOKENIZER_NAMES[0],
}
# Recognised, so that what refuses them is asked, and not passed over as "no weights".
_FOREIGN: Final = (".gguf", ".bin", ".pt", ".pth", ".th", ".ckpt")


class Place(Protocol):
    """Where files lie: a folder, or a repository."""

    def __contains__(self, name: str) -> bool:
        """Whether the file is there."""
        ...

    @property
    def names(self) -> frozenset[str]:
        """The files that are there."""
        ...

    def path(self, name: str) -> Path:
        """The file on this machine; a `WeightsError` where it cannot be had."""
        ...

    def absent(self, what: str) -> WeightsError:
        """The error for a file that should be there and is not."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on this machine. Names may lead deeper, or anywhere if they are absolute."""

    root: Path

    def __contains__(self, name: str) -> bool:
        return (self.root / name).is_file()

    def __str__(self) -> str:
        return str(self.root)

    @property
    def names(self) -> frozenset[str]:
        """Files directly in it."""
        return frozenset(path.name for path in self.root.glob("*") if path.is_file())

    def path(self, name: str) -> Path:
        """The file's absolute path."""
        if name not in self:
            raise self.absent(name)
        return (self.root / name).absolute()

    def absent(self, what: str) -> WeightsError:
        """No such file here."""
        return WeightsError(str(self.root / what), "no such file")


def shard_names(index: Path) -> tuple[str, ...]:
    """The weight files that an index (`*.index.json`) lists, each once.

    Raises:
        WeightsError: it is not an index of files beside it.
    """
    try:
        shards = read_object(index).get("weight_map")
    except ConfigError as error:
        raise WeightsError(str(index), error.problem) from None
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise WeightsError(str(index), "not an index: `weight_map` must give each tensor a file beside it")
    return tuple(dict.fromkeys(names))


def shard_paths(path: Path) -> tuple[Path, ...]:
    """The files that hold the tensors of `path`: those that an index lists, or `path` itself.

    Raises:
        WeightsError: it is named like an index and is none.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return (path,)
    return tuple(path.with_name(name) for name in shard_names(path))


def locate(
    config: Config, own: Place, environment: Mapping[str, str], open_repository: Callable[[HubAddress], Place]
) -> Config:
    """`config` with the absolute path of every file it needs; only a tokenizer nobody names may be missing.

    own: where the config lies.
    Where weights are to be made from a seed, names of files that are not there stay as they are.

    Raises:
        ConfigError: a name, or a variable of the environment, is not understood.
        WeightsError: a file is nowhere, or cannot be fetched.
    """
    search = _Search(config, own, environment, open_repository)
    lm_place = search.settle("moshi_name", _lm_name, search.repositories("LM_REPO"), hint="LM_REPO")
    beside_lm = [lm_place] if lm_place is not None else []
    for key, customary in (("tokenizer_name", _one_of(_TOKENIZER_NAMES)), ("lora_name", _one_of(()))):
        search.settle(key, customary, beside_lm)
    search.settle_mimi(beside_lm)
    return replace(config, model=search.model)


_Customary: TypeAlias = Callable[[Place], str | None]


def _one_of(names: Sequence[str]) -> _Customary:
    return lambda place: next((name for name in names if name in place), None)


def _lm_name(place: Place) -> str | None:
    """The customary name of a language model's weights, or else the only file that can be meant."""
    name = _one_of(_MOSHI_NAMES)(place)
    if name is not None:
        return name
    others = [name for name in sorted(place.names) if "/" not in name and name not in _MIMI_NAMES]
    found = [n for n in others if n.endswith(".safetensors")] or [n for n in others if n.endswith(_FOREIGN)]
    if len(found) > 1:
        raise ConfigError("moshi_name", f"not given, and {place} holds several: {', '.join(found)}")
    return found[0] if found else None


class _Search:
    """One config's files, found one after another; `model` is the config so far."""

    def __init__(
        self,
        config: Config,
        own: Place,
        environment: Mapping[str, str],
        open_repository: Callable[[HubAddress], Place],
    ) -> None:
        self.model: dict[str, Any] = dict(config.model)
        self._own = own
        self._environment = environment
        self._open_repository = open_repository
        self._seeded = config.settings.untrained.seed is not None

    def repositories(self, *variables: str) -> Iterator[Place]:
        """The repositories that the environment names, opened only when it comes to them."""
        for variable in variables:
            name = self._environment.get(variable)
            if name and not self._seeded:
                address = HubAddress.parse(name if name.startswith(HUB_SCHEME) else HUB_SCHEME + name)
                if address.file:
                    raise ConfigError(variable, f"{name} names a file; name the repository")
                yield self._open_repository(address)

    def settle(
        self, key: str, customary: _Customary, places: Iterable[Place], *, hint: str = ""
    ) -> Place | None:
        """Find the file of `key`: the place it was found in, if that is not the config's own.

        `hint`: the variable of the environment that could have helped; only keys that have
        one are needed by every config.
        """
        named = self.model.get(key)
        if named is not None and not isinstance(named, str):
            raise ConfigError(key, "expected a string")
        if named and named.startswith((HUB_SCHEME, FILE_SCHEME)):
            self.model[key] = str(self._elsewhere(key, named))
            return None
        # Beside the config a name is meant as it stands; elsewhere the same thing may have another.
        name = customary(self._own) if not named else named if named in self._own else None
        if name:
            self.model[key] = str(_whole(self._own, name))
            return None
        for place in places:
            name = named if named and named in place else customary(place)
            if name:
                self.model[key] = str(_whole(place, name))
                return place
        if (named or hint) and not (hint and self._seeded):
            raise self._nowhere(key, named, hint)
        return None

    def settle_mimi(self, beside_lm: Sequence[Place]) -> None:
        """Find the codec's weights and, in the same place, its config."""
        local = self._environment.get("MIMI_LOCAL")
        if local:
            if not Path(local).is_file():
                raise ConfigError("MIMI_LOCAL", f"{local} is not a file")
            self.model["mimi_name"] = str(Path(local).absolute())

        def places() -> Iterator[Place]:
            yield from self.repositories("MIMI_REPO")
            yield from beside_lm

        def customary(place: Place) -> str | None:
            # A repository of a codec alone (kyutai/mimi) calls it what others call the language model.
            alone = () if place in (self._own, *beside_lm) else ("model.safetensors",)
            return _one_of((*_MIMI_NAMES, *alone))(place)

        mimi_place = self.settle("mimi_name", customary, places(), hint="MIMI_REPO")
        beside_mimi = [mimi_place] if mimi_place is not None else []
        self.settle("mimi_config_name", _one_of(()), beside_mimi)

    def _elsewhere(self, key: str, named: str) -> Path:
        if named.startswith(FILE_SCHEME):
            path = Path(named.removeprefix(FILE_SCHEME)).expanduser().absolute()
            return _whole(Folder(path.parent), path.name)
        address = HubAddress.parse(named)
        if not address.file:
            raise ConfigError(key, f"{named} names a repository; name a file in it, {named}/FILE")
        return _whole(self._open_repository(address), address.file)

    def _nowhere(self, key: str, named: str | None, hint: str) -> WeightsError:
        error = self._own.absent(named or USUAL_NAMES[key])
        problem = f"{error.problem} ({key})"
        if hint and not self._environment.get(hint):
            problem += f"; {hint} may name a repository that has it"
        return type(error)(error.path, problem)


def _whole(place: Place, name: str) -> Path:
    """`name` in `place`, and the shards that it is the index of."""
    path = place.path(name)
    if name.endswith(INDEX_SUFFIX):
        for shard in shard_names(path):
            place.path(str(Path(name).with_name(shard)))
    return path
