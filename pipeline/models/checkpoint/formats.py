"""Recognises published models by their config.json, their files' first bytes and tensor names.

Models that cannot run here are refused, in one sentence with a hint, before a weight is read. A
repository without an architecture in its config gets the one that it is known to have, if the
shapes of its tensors agree. The architecture itself: `lm_config`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UnsupportedModelError, WeightsError
from pipeline.models.checkpoint.lm_config import NOT_LM, LmConfig
from pipeline.models.checkpoint.safetensors_header import TensorHeader, read_header

Header = Mapping[str, TensorHeader]

# Moshi 7B of September 2024, whose repositories carry no config.json (package `moshi`, `loaders.py`).
MOSHI_V0_1: Final[Mapping[str, Any]] = {
    "dim": 4096,
    "num_heads": 32,
    "num_layers": 32,
    "hidden_scale": 4.125,
    "n_q": 16,
    "dep_q": 8,
    "card": 2048,
    "text_card": 32_000,
    "existing_text_padding_id": 3,
    "delays": [0, *[0, 1, 1, 1, 1, 1, 1, 1] * 2],
    "context": 3000,
    "max_period": 10_000.0,
    "positional_embedding": "rope",
    "gating": "silu",
    "norm": "rms_norm_f32",
    "depformer_dim": 1024,
    "depformer_num_heads": 16,
    "depformer_num_layers": 6,
    "depformer_dim_feedforward": 4224,
    "depformer_max_period": 10_000.0,
    "depformer_gating": "silu",
    "depformer_layer_scale": None,
    "depformer_pos_emb": "none",
    "depformer_multi_linear": True,
    "depformer_weights_per_step": True,
}
# Its config.json has a type and a version, and no architecture.
PERSONAPLEX: Final[Mapping[str, Any]] = {**MOSHI_V0_1, "model_type": "personaplex", "dep_q": 16}
PERSONA_FAMILY: Final = "personaplex"  # the only published models that were trained for a voice and a role

_TAKE: Final = (
    "take a checkpoint for PyTorch or MLX, as in kyutai/moshiko-mlx-q8 or kyutai/moshiko-pytorch-bf16"
)
_ONLY_RECOGNISES: Final = f"a speech recognition model, which produces no speech; {_TAKE}"
_ONLY_SYNTHESIZES: Final = f"a text-to-speech model, which takes no speech; {_TAKE}"
_ANY_CODE: Final = f"which could run any code on this machine; {_TAKE} (safetensors)"
_MAGICS: Final = (
    (b"GGUF", f"a GGUF file, as candle and llama.cpp read; {_TAKE}"),
    (b"PK\x03\x04", f"a PyTorch archive, {_ANY_CODE}"),
    (b"\x80", f"a Python pickle, {_ANY_CODE}"),
)
_SAFETENSORS_STARTS: Final = b"{"  # after eight bytes with the length of the header
_FOREIGN_NAMES: Final = (
    (r"depformer\.\d+\..+", f"in the layout of candle; {_TAKE}"),
    (r"depth_decoder\..+", f"Moshi in the layout of transformers; {_TAKE}, which are the same weights"),
    (r".+_scb", "8-bit weights of bitsandbytes; take those quantized for MLX, as in kyutai/moshiko-mlx-q8"),
    (r"extra_heads\..+", _ONLY_RECOGNISES),
    (r".+\.norm_cross\..+", _ONLY_SYNTHESIZES),
)
# Key of the config, pattern of the tensors that determine it, and whether their number does or the
# rows of the only one. Quantization does not change rows.
_KEYS_BY_SHAPE: Final = (
    ("dim", r"transformer\.layers\.0\.gating\.linear_out\.weight", False),
    ("num_layers", r"transformer\.layers\.\d+\.gating\.linear_out\.weight", True),
    ("text_card", r"text_linear\.weight", False),
    ("n_q", r"(audio_embs|emb)\.\d+\.weight", True),
    ("dep_q", r"(linears\.\d+|depformer\.slices\.\d+\.linear_out)\.weight", True),
    ("card", r"(linears\.0|depformer\.slices\.0\.linear_out)\.weight", False),
    ("depformer_dim", r"(depformer_in\.0|depformer\.slices\.0\.linear_in)\.weight", False),
    (
        "depformer_num_layers",
        r"depformer\.(slices\.0\.transformer\.)?layers\.\d+\.norm1\.(alpha|weight)",
        True,
    ),
)


def refuse(raw: Mapping[str, Any], name: str) -> None:
    """Refuse the config.json of a model that is not speech to speech; `name` is the user's name for it.

    Raises:
        UnsupportedModelError: with a hint at what would run.
    """
    kind = raw.get("model_type")
    conditioners = raw.get("conditioners")
    conditions = conditioners.values() if isinstance(conditioners, dict) else ()
    by_voice = any(isinstance(each, dict) and each.get("type") == "tensor" for each in conditions)
    if kind == "stt" or raw.get("stt_config") or raw.get("dep_q") == 0:
        raise UnsupportedModelError(name, _ONLY_RECOGNISES)
    if kind == "tts" or raw.get("tts_config") or raw.get("cross_attention") or by_voice:
        raise UnsupportedModelError(name, _ONLY_SYNTHESIZES)
    if kind == "mimi":
        raise UnsupportedModelError(name, "the codec alone; name it as mimi_name beside a language model")
    if "architectures" in raw or "transformers_version" in raw:
        raise UnsupportedModelError(name, f"a config.json for transformers; {_TAKE}")


def read(path: Path) -> dict[str, TensorHeader]:
    """The header of a checkpoint, unless it is recognised as one that cannot run here.

    Raises:
        UnsupportedModelError: the file or layout of another program, or another kind of model.
        WeightsError: there is no such file, or it is not a whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            start, header_start = file.read(8), file.read(1)
    except OSError as error:
        raise WeightsError(str(path), error.strerror or "cannot be read") from error
    for magic, what in _MAGICS:
        if start.startswith(magic) and header_start != _SAFETENSORS_STARTS:
            raise UnsupportedModelError(str(path), what)
    header = read_header(path)
    for pattern, what in _FOREIGN_NAMES:
        compiled = re.compile(pattern)
        if any(compiled.fullmatch(name) for name in header):
            raise UnsupportedModelError(str(path), what)
    return header


def lacks_architecture(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json has no key of the architecture."""
    return not set(raw) - NOT_LM - {"model_type"}


def built_in(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`raw`, which lacks one, with the architecture that the checkpoint at `path` is known to have.

    Raises:
        WeightsError: the checkpoint's shapes are not that architecture's; names each key with the
            value expected and the value found.
    """
    found = keys_by_shape(read(path))
    many = raw.get("model_type") == "personaplex" or found.get("dep_q") == PERSONAPLEX["dep_q"]
    known = PERSONAPLEX if many else MOSHI_V0_1
    wrong = [
        f"{key} (expected {known[key]}, found {found.get(key, 'none')})"
        for key, *_ in _KEYS_BY_SHAPE
        if found.get(key) != known[key]
    ]
    if wrong:
        name = "PersonaPlex 7B" if many else "Moshi 7B v0.1"
        problem = f"has no architecture in a config.json, and is not {name}: {', '.join(wrong)}"
        raise WeightsError(str(path), problem)
    return {**known, **{key: value for key, value in raw.items() if value is not None}}


def keys_by_shape(header: Header) -> dict[str, int]:
    """The keys of a config that the shapes in `header` determine, in any layout, quantized or not."""
    keys = {}
    for key, pattern, count in _KEYS_BY_SHAPE:
        compiled = re.compile(pattern)
        shapes = [entry.shape for name, entry in header.items() if compiled.fullmatch(name)]
        if shapes and (count or shapes[0]):
            keys[key] = len(shapes) if count else shapes[0][0]
    return keys


def family_of(config: LmConfig) -> str:
    """The family of models with this architecture."""
    if config.model_type == "moshi" and config.conditioners:
        return "hibiki"
    if config.kv_repeat > 1 and config.depformer_norm is not None and not config.conditioners:
        return "hibiki-zero"
    return config.model_type
