"""The three layouts in which Moshi language models are published, as rules for `loading`.

Parameters are named as in the state dict of a current official `LMModel`, whose attention
projections are split by weight set ("split"). Older files have them packed into one tensor
("packed"). The MLX repositories keep the depformer as one slice per codebook, so that weights
which codebooks share are stored several times ("mlx").
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from pipeline.models.checkpoint.lm_config import LmConfig
from pipeline.models.checkpoint.loading import Rule, find_layout

Layout = Literal["packed", "split", "mlx"]
_LAYOUTS: Final[Mapping[Layout, str]] = {
    "mlx": r"depformer\.slices\..+",
    "packed": r".+\.self_attn\.in_proj_weight",
}


def detect_layout(names: Iterable[str]) -> Layout:
    """The layout, recognised by tensors that only it has."""
    return find_layout(names, _LAYOUTS, default="split")


def lm_rules(config: LmConfig, layout: Layout) -> list[Rule]:
    """The rules that load `layout` into an `LmModel`."""
    if layout == "mlx":
        return _mlx_rules(config)
    rules = unused_rules(config, layout) + _norm_rules(config) + _gating_rules(config)
    return rules + (_packed_rules(config) if layout == "packed" else [])


def unused_rules(config: LmConfig, layout: Layout) -> list[Rule]:
    """The rules that recognise and skip the weights of unused codebooks."""
    # One rule per codebook, because every rule must match: none of these weights may be missing.
    rules = []
    for codebook in range(config.dep_q, config.dep_q + config.unused_slices):
        patterns = [rf"linears\.{codebook}\..+", rf"depformer_emb\.{codebook - 1}\..+"]
        if config.depformer_multi_linear:
            patterns.append(rf"depformer_in\.{codebook}\..+")
        if config.depformer_norm is not None:
            patterns.append(rf"depformer_norms\.{codebook}\..+")
        if config.depformer_weights_per_step:
            patterns.append(rf"depformer\.layers\.\d+\.gating\.{codebook}\..+")
            if layout == "split":
                patterns.append(rf"depformer\.layers\.\d+\.self_attn\.(in|out)_projs\.{codebook}\..+")
        rules += [Rule(pattern, None) for pattern in patterns]
    return rules


def _norm_rules(config: LmConfig) -> list[Rule]:
    # The official RMS norm stores its weight as [1, 1, D].
    rules = []
    if config.norm.startswith("rms"):
        norms = r"(out_norm|(?:transformer|depformer)\.layers\.\d+\.norm[12])\.alpha"
        rules.append(Rule(norms, r"\1.alpha", leading_ones=2))
    if config.depformer_norm is not None and config.depformer_norm.startswith("rms"):
        rules.append(Rule(r"(depformer_norms\.\d+)\.alpha", r"\1.alpha", leading_ones=2))
    return rules


def _gating_rules(config: LmConfig) -> list[Rule]:
    # Files with a single set of weights do not number it.
    rules = []
    if config.transformer.gating != "none":
        rules.append(Rule(r"(transformer\.layers\.\d+\.gating)\.(linear_\w+\.weight)", r"\1.0.\2"))
    if config.depformer.gating != "none" and not config.depformer_weights_per_step:
        rules.append(Rule(r"(depformer\.layers\.\d+\.gating)\.(linear_\w+\.weight)", r"\1.0.\2"))
    return rules


def _packed_rules(config: LmConfig) -> list[Rule]:
    needed = max(config.weight_sets) + 1
    sets = needed + (config.unused_slices if config.depformer_weights_per_step else 0)
    rules = []
    for module, parts, kept in (("transformer", 1, 1), ("depformer", sets, needed)):
        attention = rf"({module}\.layers\.\d+\.self_attn)"
        rules += [
            Rule(attention + r"\.in_proj_weight", r"\1.in_projs.{part}.weight", parts=parts, kept=kept),
            Rule(attention + r"\.out_proj\.weight", r"\1.out_projs.{part}.weight", parts=parts, kept=kept),
        ]
    return rules


def _mlx_rules(config: LmConfig) -> list[Rule]:
    layers = r"(transformer\.layers\.\d+)\."
    rules = [
        Rule(r"audio_embs\.(.+)", r"emb.\1"),
        Rule(layers + r"self_attn\.(in|out)_proj\.weight", r"\1.self_attn.\2_projs.0.weight"),
    ]
    if config.norm.startswith("rms"):
        rules += [
            Rule(r"out_norm\.weight", "out_norm.alpha"),
            Rule(layers + r"(norm[12])\.weight", r"\1.\2.alpha"),
        ]
    if config.transformer.gating != "none":
        rules.append(Rule(layers + r"gating\.(linear_\w+\.weight)", r"\1.gating.0.\2"))
    for codebook, weight_set in enumerate(config.weight_sets):
        rules += _slice_rules(config, codebook, weight_set)
    for codebook in range(config.dep_q, config.dep_q + config.unused_slices):
        rules.append(Rule(rf"depformer\.slices\.{codebook}\..+", None))
    return rules


def _slice_rules(config: LmConfig, codebook: int, weight_set: int) -> list[Rule]:
    # One rule per tensor, because every rule must match: no copy of a shared weight may be missing.
    embedding = "depformer_text_emb" if codebook == 0 else f"depformer_emb.{codebook - 1}"
    projection = weight_set if config.depformer_multi_linear else 0
    layer = {
        "self_attn.in_proj.weight": f"self_attn.in_projs.{weight_set}.weight",
        "self_attn.out_proj.weight": f"self_attn.out_projs.{weight_set}.weight",
    }
    for norm in ("norm1", "norm2"):
        if config.norm.startswith("rms"):
            layer[f"{norm}.weight"] = f"{norm}.alpha"
        else:
            layer |= {f"{norm}.weight": f"{norm}.weight", f"{norm}.bias": f"{norm}.bias"}
    if config.depformer.gating != "none":
        for linear in ("linear_in", "linear_out"):
            layer[f"gating.{linear}.weight"] = f"gating.{weight_set}.{linear}.weight"
    one = f"depformer.slices.{codebook}."
    rules = []
    if config.depformer_norm is not None:
        scale = "alpha" if config.depformer_norm.startswith("rms") else "weight"
        rules = [
            Rule(re.escape(f"{one}norm.weight"), f"depformer_norms.{codebook}.{scale}"),
            Rule(re.escape(f"{one}norm.bias"), f"depformer_norms.{codebook}.bias"),
        ][: 1 if scale == "alpha" else 2]
    return [
        *rules,
        Rule(re.escape(one) + r"linear_out\.(weight|bias)", rf"linears.{codebook}.\1"),
        Rule(re.escape(one) + r"emb\.(.+)", rf"{embedding}.\1"),
        Rule(re.escape(one + "linear_in.weight"), f"depformer_in.{projection}.weight", copies=True),
        *(
            Rule(
                re.escape(f"{one}transformer.layers.{index}.{theirs}"),
                f"depformer.layers.{index}.{ours}",
                copies=True,
            )
            for index in range(config.depformer.num_layers)
            for theirs, ours in layer.items()
        ),
    ]
