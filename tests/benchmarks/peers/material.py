"""The input of every contender: random checkpoints in a layout that all can read, audio, and codes.

Created once by the project's own writer, and kept. The layout is that of the official
repositories: PyTorch's names, attention weights packed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from benchmarks.peers.cases import SIZES, Stored

from pipeline.audio.sound_file import read_speech
from pipeline.models import random_init
from pipeline.models.checkpoint.lm_config import LmConfig, parse_lm_config
from pipeline.models.checkpoint.mimi_config import MimiConfig, parse_mimi_config
from pipeline.models.checkpoint.safetensors_header import Shape
from pipeline.models.quantization import quantize_checkpoint
from pipeline.units import FRAME_SAMPLES

SEED: Final = 20240917
MIMI: Final[MimiConfig] = parse_mimi_config({})
_ATTENTION: Final = re.compile(r"(.+\.self_attn)\.(in|out)_projs\.\d+\.weight")
_PACKED: Final = {"in": "in_proj_weight", "out": "out_proj.weight"}
_CODES_USED: Final = 256  # of each codebook; does not depend on the codebook size of the model


@dataclass(frozen=True, slots=True)
class Material:
    """Files of one size of language model. `lm`: its architecture."""

    config: Path
    lm_path: Path
    mimi_path: Path
    pcm: Path
    codes: Path
    lm: LmConfig

    def stored(self, stored: Stored) -> Path:
        """The config of the same weights in a checkpoint of another format, made if it is missing."""
        if stored == "float32":
            return self.config
        name = stored.replace(" ", "-")
        path = self.lm_path.with_name(f"{name}.safetensors")
        if not path.exists():
            if stored == "bfloat16":
                random_init.write_checkpoint(path, packed(random_init.lm_tensors(self.lm)), SEED, "BF16")
            else:
                quantize_checkpoint(self.lm_path, path, self.lm, int(stored.partition(" ")[0]))
        config = self.config.with_name(f"{name}.json")
        config.write_text(
            json.dumps(json.loads(self.config.read_text()) | {"moshi_name": path.name}, indent=1)
        )
        return config


def packed(tensors: Iterator[tuple[str, Shape]]) -> Iterator[tuple[str, Shape]]:
    """The tensors of a model with the attention weights of all its steps in one, as published."""
    rows: dict[str, int] = {}
    columns: dict[str, int] = {}
    for name, shape in tensors:
        match = _ATTENTION.fullmatch(name)
        if match is None:
            yield name, shape
            continue
        packed_name = f"{match[1]}.{_PACKED[match[2]]}"
        rows[packed_name] = rows.get(packed_name, 0) + shape[0]
        columns[packed_name] = shape[1]
    for name, count in rows.items():
        yield name, (count, columns[name])


def product_shapes(lm: LmConfig) -> list[Shape]:
    """The matrices `[out, in]` that a step multiplies with, each once: of an embedding only a row is read."""
    return [
        shape
        for name, shape in random_init.lm_tensors(lm)
        if len(shape) == 2 and "emb" not in name.partition(".")[0]
    ]


def make(folder: Path, size: str, speech: Path) -> Material:
    """The files of `size` in `folder`; missing ones are created."""
    raw = dict(SIZES[size])
    lm = parse_lm_config(raw)
    material = Material(
        config=folder / size / "config.json",
        lm_path=folder / size / "model.safetensors",
        mimi_path=folder / size / "mimi.safetensors",
        pcm=folder / "pcm.npy",
        codes=folder / "codes.npy",
        lm=lm,
    )
    material.config.parent.mkdir(parents=True, exist_ok=True)
    names = {"moshi_name": material.lm_path.name, "mimi_name": material.mimi_path.name}
    material.config.write_text(json.dumps(raw | names, indent=1))
    if not material.lm_path.exists():
        random_init.write_checkpoint(material.lm_path, packed(random_init.lm_tensors(lm)), SEED)
    codec = folder / "mimi.safetensors"
    if not codec.exists():
        random_init.write_checkpoint(codec, packed(random_init.mimi_tensors(MIMI)), SEED)
    if not material.mimi_path.exists():
        material.mimi_path.hardlink_to(codec)
    pcm = read_speech(speech)
    np.save(material.pcm, pcm[: len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES))
    codes = np.random.default_rng(SEED).integers(0, _CODES_USED, (64, MIMI.quantizer.n_q))
    np.save(material.codes, codes.astype(np.int32))
    return material
