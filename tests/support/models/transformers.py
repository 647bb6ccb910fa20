"""The forms of transformer that Kyutai's configurations have, in one size."""

from dataclasses import replace

from pipeline.models.layers.transformer import TransformerConfig


def forms_of(rope: TransformerConfig) -> list[TransformerConfig]:
    """`rope` with each position embedding, norm, gating and number of key heads."""
    return [
        rope,
        replace(rope, norm="rms_norm_f32", gating="silu", kv_repeat=2, layer_scale=0.3),
        replace(rope, positional_embedding="rope_concat", norm="layer_norm_f32"),
        replace(rope, positional_embedding="sin_rope", norm="rms_norm"),
        replace(rope, positional_embedding="sin", gating="silu"),
        replace(rope, positional_embedding="none", kv_repeat=4),
    ]
