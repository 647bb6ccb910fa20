"""Makes `tests/data/lm_golden_*`: what the official PyTorch implementation does, step by step.

Run with an interpreter that has the `moshi` package (0.2.13) and nothing of this project:

    python tests/goldens/lm_goldens.py

For each model: `config.json`, `model.safetensors` (packed layout, bfloat16 so that it is
small; the official model computes in float32 from the same rounded weights) and
`trace.npz`: `user [T, n_q - dep_q]`, `text [T]` and `audio [T, dep_q]` as drawn in each
step, and `out [T - max_delay, 1 + dep_q]` as `LMGen.step` returned it, all greedy.
"""

import json
from pathlib import Path

import numpy as np
import torch
from moshi.models.lm import LMGen, LMModel
from safetensors.torch import save_file

DATA = Path(__file__).parent.parent / "data"

# Moshi in small: the same variants as the 7B model.
MOSHI = {
    "dim": 48,
    "num_heads": 4,
    "num_layers": 3,
    "hidden_scale": 2,
    "n_q": 8,
    "dep_q": 4,
    "card": 32,
    "text_card": 40,
    "delays": [0, 0, 1, 1, 1, 0, 1, 1, 1],
    "context": 12,
    "causal": True,
    "norm": "rms_norm_f32",
    "gating": "silu",
    "positional_embedding": "rope",
    "max_period": 10000,
    "layer_scale": None,
    "existing_text_padding_id": 3,
    "depformer_dim": 24,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 48,
    "depformer_multi_linear": True,
    "depformer_weights_per_step": True,
    "depformer_pos_emb": "none",
}
# Every variant that the first one lacks: weights shared by a schedule, narrow embeddings,
# fewer key heads, halves rotated, per-codebook norms, a longer delay, scaled residuals.
VARIANT = MOSHI | {
    "dim": 32,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4,
    "n_q": 6,
    "dep_q": 4,
    "text_card": 36,
    "text_card_out": 30,
    "delays": [0, 0, 2, 2, 2, 0, 2],
    "context": 9,
    "norm": "rms_norm",
    "positional_embedding": "rope_concat",
    "kv_repeat": 2,
    "max_period": 20000,
    "layer_scale": 0.5,
    "depformer_num_heads": 4,
    "depformer_num_layers": 1,
    "depformer_dim_feedforward": None,
    "depformer_norm": "layer_norm",
    "depformer_pos_emb": "sin",
    "depformer_low_rank_embeddings": 8,
    "depformer_weights_per_step_schedule": [0, 1, 2, 2],
}


def seeded(config: dict, seed: int) -> LMModel:
    """A model whose attention is peaked and whose answers vary: the official initialisation has neither."""
    torch.manual_seed(seed)
    model = LMModel(**config, device="cpu", dtype=torch.float32).eval()
    for name, weight in model.named_parameters():
        if "norm" in name or "layer_scale" in name:
            fresh = (1 if name.endswith(("alpha", "weight")) else 0) + 0.2 * torch.randn_like(weight)
            fresh = fresh * 0.5 if "layer_scale" in name else fresh
        else:
            gain = 2.0 if "in_proj" in name or "linears" in name or "text_linear" in name else 1.0
            fresh = gain * torch.randn_like(weight) / weight.shape[-1] ** 0.5
        weight.data = fresh.bfloat16().float()
    return model


def packed(model: LMModel) -> dict[str, torch.Tensor]:
    """The state dict as older versions of the package wrote it."""
    merged: dict[str, list[torch.Tensor]] = {}
    for name, weight in model.state_dict().items():
        for kind, old in (("in_projs", "in_proj_weight"), ("out_projs", "out_proj.weight")):
            if f".{kind}." in name:
                merged.setdefault(name.split(f".{kind}.")[0] + "." + old, []).append(weight)
                break
        else:
            merged[name] = [weight]
    return {name: torch.cat(weights).bfloat16().contiguous() for name, weights in merged.items()}


def trace(model: LMModel, steps: int, seed: int) -> dict[str, np.ndarray]:
    """The model's tokens for random codes."""
    users = model.n_q - model.dep_q
    return traced(model, np.random.default_rng(seed).integers(0, model.card, (steps, users)))


@torch.no_grad()
def traced(model: LMModel, user: np.ndarray) -> dict[str, np.ndarray]:
    """The model's tokens for the codes `user [T, n_q - dep_q]`."""
    text, audio, out = [], [], []
    margins: list[float] = []
    gen = LMGen(
        model,
        use_sampling=False,
        on_text_hook=lambda token: text.append(token.clone()),
        on_audio_hook=lambda tokens: audio.append(tokens.clone()),
    )
    forward = model.forward_depformer

    def margin(logits: torch.Tensor) -> None:
        best = logits.flatten().topk(2).values
        margins.append(float(best[0] - best[1]))

    def watched(*args: object) -> torch.Tensor:
        logits = forward(*args)
        margin(logits)
        return logits

    model.forward_depformer = watched
    gen.on_text_logits_hook = margin
    with gen.streaming(1):
        for frame in user:
            result = gen.step(torch.from_numpy(frame.astype(np.int64))[None, :, None])
            if result is not None:
                out.append(result[0, :, 0].clone())
    # A tie could fall either way and would make a golden of rounding.
    assert min(margins) > 1e-4, min(margins)
    print("smallest margin", min(margins), "text tokens seen", len({int(t) for t in text}))
    return {
        "user": user.astype(np.int16),
        "text": torch.cat(text).numpy().astype(np.int16),
        "audio": torch.cat(audio).numpy().astype(np.int16),
        "out": torch.stack(out).numpy().astype(np.int16),
    }


def main() -> None:
    torch.use_deterministic_algorithms(mode=True)
    for name, config, seed in (("moshi", MOSHI, 1), ("variant", VARIANT, 2)):
        folder = DATA / f"lm_golden_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        model = seeded(config, seed)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file(packed(model), folder / "model.safetensors")
        np.savez_compressed(folder / "trace.npz", **trace(model, 7 * config["context"] + 5, seed))


if __name__ == "__main__":
    main()
