"""What one config.json describes: two models, a tokenizer, and the files that hold them.

`open_bundle` finds the files; `Bundle.check` compares their headers with the config before a
weight is read; `load_mimi` and `load_lm` read them. Where a config has a seed in place of
weights (`untrained.seed`), ordinary checkpoint files are made from it in the user's cache.
"""

import fcntl
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec

from pipeline import backend
from pipeline.config import Config
from pipeline.errors import ConfigError, UnsupportedModelError, WeightsError
from pipeline.install import paths
from pipeline.kernels.library import Library
from pipeline.models import random_init
from pipeline.models.checkpoint import formats
from pipeline.models.checkpoint.files import DEFAULT_NAMES, shard_paths
from pipeline.models.checkpoint.generation_config import Generation, parse_generation
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.lm_key_map import detect_layout
from pipeline.models.checkpoint.loading import COPIES
from pipeline.models.checkpoint.lora import Lora, parse_lora
from pipeline.models.checkpoint.mimi_config import MimiConfig, parse_mimi_config
from pipeline.models.checkpoint.mimi_key_map import detect_mimi_layout
from pipeline.models.checkpoint.safetensors_header import read_header
from pipeline.models.lm import LmModel
from pipeline.models.mimi import Mimi
from pipeline.models.native import MappedReader, attach_lm, attach_mimi
from pipeline.models.sharding import Shard, ShardRank
from pipeline.system.inputs import parse_json, read_text


@dataclass(frozen=True)
class Bundle:
    """A checkpoint: what it is and where its files are. `tokenizer` is None if it has none.

    `cfg_coef`: the coefficient of classifier-free guidance; 1 is none. `voices`: the archive of its voices.
    `kernels`: the native kernels to compute with; None for MLX alone.
    """

    name: str
    lm: LmConfig
    mimi: MimiConfig
    lm_path: Path
    mimi_path: Path
    tokenizer: Path | None
    trained: bool
    recommended_sampling: Mapping[str, Any]
    lora: Lora | None = None
    cfg_coef: float = 1.0
    voices: Path | None = None
    kernels: Library | None = None

    @property
    def family(self) -> str:
        """The family of models with this architecture, such as moshi or hibiki."""
        return formats.family_of(self.lm)

    @cached_property
    def lm_layout(self) -> str:
        """The layout in which the language model's tensors are named."""
        return detect_layout(formats.read(self.lm_path))

    @cached_property
    def mimi_layout(self) -> str:
        """The layout in which the codec's tensors are named."""
        return detect_mimi_layout(formats.read(self.mimi_path))

    def load_mimi(self) -> Mimi:
        """Load the codec, in the calling thread.

        Raises:
            WeightsError: the file does not match the config.
        """
        mimi = Mimi(self.mimi, self.lm.mimi_codebooks)
        mimi.load_weights(self.mimi_path)  # float32 on every device: fewer bits give other codes
        if self.kernels is not None:
            attach_mimi(mimi, self.kernels)
        return mimi

    def load_lm(self, shard_rank: ShardRank | None = None) -> LmModel:
        """Load the language model, or the shard of one rank, in the calling thread.

        Raises:
            WeightsError: the file does not match the config.
        """
        return load_lm(
            self.lm,
            self.lm_path,
            cfg_coef=self.cfg_coef,
            lora=self.lora,
            shard_rank=shard_rank,
            kernels=self.kernels,
        )

    def check(self, shard: Shard | None = None) -> None:
        """Compare all files with the config, by name and shape, reading headers only.

        Raises:
            ConfigError: the model cannot be split as `shard` says.
            WeightsError: a file is missing or malformed; `TensorMismatchError` names every tensor.
        """
        if shard is not None:
            shard.check(self.lm)
            if self.lora is not None:
                raise UnsupportedModelError(
                    str(self.lora.path),
                    "an adapter can be fused only into whole weights, not into shards; run one process",
                )
        Mimi(self.mimi, self.lm.mimi_codebooks).check_weights(self.mimi_path)
        assignments = LmModel(self.lm).check_weights(self.lm_path, self.lora)
        if shard is not None and backend.prepare().keeps_quantized:
            shard.check_quantized(self.lm, assignments, str(self.lm_path))

    def describe(self) -> dict[str, Any]:
        """Files, tensors, parameters and dtype, ready for JSON."""
        return {
            "name": self.name,
            "trained": self.trained,
            "family": self.family,
            "lm": {
                "dtype": backend.prepare().compute_dtype,
                "file": self.lm_path.name,
                "parameters": self.lm_parameters,
                **_sizes(self.lm_path),
            },
            "mimi": {
                "file": self.mimi_path.name,
                "codebooks": self.lm.mimi_codebooks,
                **_sizes(self.mimi_path),
            },
            "tokenizer": self.tokenizer.name if self.tokenizer else None,
        }

    @property
    def lm_parameters(self) -> int:
        """Number of parameters of the language model; nothing is allocated for it."""
        return sum(math.prod(shape) for _, shape in random_init.lm_tensors(self.lm))


def load_lm(
    config: LmConfig,
    path: Path,
    *,
    cfg_coef: float = 1.0,
    lora: Lora | None = None,
    shard_rank: ShardRank | None = None,
    kernels: Library | None = None,
) -> LmModel:
    """Load a language model in the dtype of this machine's device, quantized only where that is fast.

    `shard_rank`: the rank whose shard to load; None loads the whole model. `kernels`: native kernels, which
    keep matrices as they are stored; ranks that share a model compute without.

    Raises:
        WeightsError: the file does not match the config.
    """
    machine = backend.prepare()
    model = LmModel(config, cfg_coef)
    dtype: mx.Dtype = getattr(mx, machine.compute_dtype)
    native = kernels if shard_rank is None else None
    model.load_weights(
        path,
        dtype,
        lora=lora,
        keep_quantized=machine.keeps_quantized,
        keep_stored=native is not None,
        reader=COPIES if native is None else MappedReader(native),
        shard_rank=shard_rank,
    )
    if native is not None:
        attach_lm(model, native)
        model.check_files()
    return model


def _sizes(path: Path) -> dict[str, int]:
    size_bytes = sum(file.stat().st_size for file in shard_paths(path))
    return {"tensors": len(read_header(path)), "bytes": size_bytes}


def _read_mimi_config(folder: Path, name: object) -> dict[str, Any]:
    if name is None:
        return {}
    path = folder / str(name)
    try:
        raw = parse_json(read_text(path))
    except OSError as error:
        raise ConfigError("mimi_config_name", f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError("mimi_config_name", f"{path} is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError("mimi_config_name", f"{path} does not hold a JSON object")
    return raw


def _weights(
    folder: Path, name: str, seed: int | None, make: Callable[[Path], None], key: str
) -> tuple[Path, bool]:
    """The weights file, made from `seed` if it is missing, and whether its weights are trained."""
    path = folder / name
    if path.is_file() or seed is None:
        return path, True
    made = paths.cache_folder() / "untrained" / key / name
    if not _is_whole(made):
        try:
            made.parent.mkdir(parents=True, exist_ok=True)
            with made.with_suffix(".lock").open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)  # another rank, or another server, may be writing it
                if not _is_whole(made):
                    made.unlink(missing_ok=True)
                    make(made)
        except OSError as error:
            raise WeightsError(str(made), f"cannot be written ({error.strerror})") from None
    return made, False


def _is_whole(path: Path) -> bool:
    """Whether there is a checkpoint, and none of it is missing."""
    try:
        read_header(path)
    except WeightsError:
        return False
    return True


def open_bundle(config: Config) -> Bundle:
    """Parse the models' configuration in `config` and find their files.

    Raises:
        ConfigError: a key of the model's configuration is unknown, mistyped or unsupported.
        UnsupportedModelError: the configuration is of a model that is not speech to speech.
        WeightsError: weights cannot be written, or a named tokenizer is missing, or the
            configuration has no architecture and that of the weights is not known.
    """
    raw = config.model
    formats.refuse(raw, str(config.path))
    if formats.lacks_architecture(raw):
        raw = formats.built_in(raw, config.folder / str(raw.get("moshi_name") or DEFAULT_NAMES["moshi_name"]))
    lm = parse_lm_config(raw)
    generation = parse_generation(raw)
    mimi = parse_mimi_config(_read_mimi_config(config.folder, raw.get("mimi_config_name")))
    if lm.dep_q == lm.n_q:
        raise ConfigError("dep_q", f"{lm.dep_q}, all of n_q: this model takes no audio from the user")
    if lm.mimi_codebooks > mimi.quantizer.n_q:
        raise ConfigError("dep_q", f"{lm.mimi_codebooks} codebooks are needed, Mimi has {mimi.quantizer.n_q}")
    if lm.card != mimi.quantizer.bins:
        raise ConfigError("card", f"{lm.card}, but Mimi's codebooks have {mimi.quantizer.bins} entries")
    seed = config.settings.untrained.seed
    described = json.dumps([random_init.VERSION, seed, msgspec.to_builtins(lm), msgspec.to_builtins(mimi)])
    key = hashlib.sha256(described.encode()).hexdigest()[:16]

    def make_lm(path: Path) -> None:
        random_init.write_checkpoint(path, random_init.lm_tensors(lm), seed or 0)

    def make_mimi(path: Path) -> None:
        random_init.write_checkpoint(path, random_init.mimi_tensors(mimi), seed or 0)

    lm_path, lm_trained = _weights(
        config.folder, str(raw.get("moshi_name") or DEFAULT_NAMES["moshi_name"]), seed, make_lm, key
    )
    mimi_path, mimi_trained = _weights(
        config.folder, str(raw.get("mimi_name") or DEFAULT_NAMES["mimi_name"]), seed, make_mimi, key
    )
    named = raw.get("tokenizer_name")
    tokenizer = config.folder / str(named or DEFAULT_NAMES["tokenizer_name"])
    if named and not tokenizer.is_file():
        raise WeightsError(str(tokenizer), "no such file (tokenizer_name)")
    return Bundle(
        name=config.name,
        # Weights made from a seed have no unused slices.
        lm=lm if lm_trained else msgspec.structs.replace(lm, unused_slices=0),
        mimi=mimi,
        lm_path=lm_path,
        mimi_path=mimi_path,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        trained=lm_trained and mimi_trained,
        recommended_sampling=generation.recommended(),
        lora=parse_lora(raw, config.folder),
        cfg_coef=_cfg_coef(lm, generation, config.settings.sampling.cfg_coef),
        voices=_voices(config.folder, raw.get("voices_name")),
        kernels=_kernels(config),
    )


def _kernels(config: Config) -> Library | None:
    found = backend.kernels() if config.settings.kernels == "auto" else None
    return found if isinstance(found, Library) else None


def _voices(folder: Path, named: object) -> Path | None:
    if named is None:
        return None
    if not (folder / str(named)).is_file():
        raise WeightsError(str(folder / str(named)), "no such file (voices_name)")
    return folder / str(named)


def _cfg_coef(lm: LmConfig, generation: Generation, override: float | None) -> float:
    key = "lm_gen_config.cfg_coef" if override is None else "pipeline.sampling.cfg_coef"
    cfg_coef = generation.cfg_coef if override is None else override
    if cfg_coef != 1 and not lm.summed:
        raise ConfigError(key, f"{cfg_coef:g}, but this model has no conditions for guidance")
    return cfg_coef
