"""Rewrites a packed checkpoint of a language model in the other published layouts."""

import re

import mlx.core as mx

from pipeline.models.checkpoint.lm_config import LmConfig

Weights = dict[str, mx.array]


def as_split(packed: Weights, config: LmConfig) -> Weights:
    """One projection per set of weights, as current versions of the official package write them."""
    sets = {"transformer": 1, "depformer": max(config.weight_sets) + 1}
    split: Weights = {}
    for name, weight in packed.items():
        found = re.fullmatch(r"(\w+)(\..*\.self_attn)\.(in|out)_proj[._]weight", name)
        if found is None:
            split[name] = weight
            continue
        module, path, side = found.groups()
        for index, part in enumerate(mx.split(weight, sets[module])):
            split[f"{module}{path}.{side}_projs.{index}.weight"] = part
    return split


def as_mlx(packed: Weights, config: LmConfig) -> Weights:
    """One slice per codebook; what codebooks share is written once for each of them."""
    mlx: Weights = {}
    for name, weight in as_split(packed, config).items():
        if name.startswith(("depformer", "linears")):
            continue
        new = re.sub(r"^emb\.", "audio_embs.", name)
        new = re.sub(r"(in|out)_projs\.0", r"\1_proj", new).replace(".alpha", ".weight")
        mlx[new] = weight.reshape(-1) if name.endswith(".alpha") else weight
    for codebook, which in enumerate(config.weight_sets):
        for name, weight in as_split(packed, config).items():
            new = _in_slice(name, codebook, which)
            if new is not None:
                value = weight.reshape(-1) if name.endswith(".alpha") else weight
                mlx[f"depformer.slices.{codebook}.{new}"] = value
    return mlx


def _in_slice(name: str, codebook: int, which: int) -> str | None:
    embedding = "depformer_text_emb" if codebook == 0 else f"depformer_emb.{codebook - 1}"
    for theirs, ours in (
        (f"depformer_in.{which}", "linear_in"),
        (f"linears.{codebook}", "linear_out"),
        (f"depformer_norms.{codebook}", "norm"),
        (embedding, "emb"),
    ):
        if name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    layer = re.fullmatch(r"depformer\.(layers\..+)", name)
    if layer is None:
        return None
    path = "transformer." + layer[1].replace(".alpha", ".weight")
    numbered = re.search(r"(_projs|gating)\.(\d+)\.", path)
    if numbered is not None and int(numbered[2]) != which:
        return None
    return re.sub(r"_projs\.\d+", "_proj", re.sub(r"gating\.\d+\.", "gating.", path))
