"""Makes `tests/data/families/*`: what the official implementation does with each published family, in small.

Run with an interpreter that has the `moshi` package (0.2.13) and nothing of this project:

    python tests/goldens/family_goldens.py

For each family: `config.json` as its repositories have it, sizes apart; `model.safetensors`
(packed layout, bfloat16 so that it is small; the official model computes in float32 from
the same rounded weights) and `trace.npz` as `lm_goldens.py` describes it, all greedy.
`hibiki_2b` has a second trace, `guided.npz`, with classifier-free guidance of 3;
`lora` has an adapter for the weights of `lm_golden_moshi`, and what both say together.
"""

import json
from pathlib import Path

import moshi.models.lm as official
import numpy as np
import torch
from lm_goldens import MOSHI as PLAIN
from lm_goldens import packed, seeded
from moshi.conditioners import ConditionAttributes
from moshi.models import LMGen, LMModel, loaders
from safetensors.torch import save_file

DATA = Path(__file__).parent.parent / "data"
FOLDER = DATA / "families"

MOSHI = {
    "dim": 32,
    "num_heads": 4,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "n_q": 8,
    "dep_q": 4,
    "card": 24,
    "text_card": 36,
    "existing_text_padding_id": 3,
    "delays": [0, 0, 1, 1, 1, 0, 1, 1, 1],
    "context": 9,
    "max_period": 10000,
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 16,
    "depformer_num_heads": 2,
    "depformer_num_layers": 2,
    "depformer_dim_feedforward": 66,
    "depformer_multi_linear": True,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}
HIBIKI_1B = MOSHI | {
    "delays": [0, 0, 2, 2, 2, 0, 2, 2, 2],
    "max_period": 100000,
    "model_type": "hibiki",
    "conditioners": {
        "description": {
            "type": "lut",
            "lut": {
                "n_bins": 31,
                "dim": 16,
                "tokenizer": "noop",
                "possible_values": ["very_bad", "bad", "neutral", "good", "very_good"],
            },
        }
    },
    "fuser": {
        "cross_attention_pos_emb": False,
        "cross_attention_pos_emb_scale": 1,
        "sum": ["description"],
        "prepend": [],
        "cross": [],
    },
    "cross_attention": False,
    "lm_gen_config": {"temp": 0.8, "temp_text": 0.4, "top_k": 250, "top_k_text": 25},
}
HIBIKI_2B = HIBIKI_1B | {
    "n_q": 12,
    "dep_q": 6,
    "delays": [0, *[0, 2, 2, 2, 2, 2] * 2],
    "depformer_num_layers": 1,
    "depformer_low_rank_embeddings": 8,
    "depformer_weights_per_step_schedule": [0, 1, 2, 3, 3, 3],
}
HIBIKI_ZERO = MOSHI | {
    "n_q": 12,
    "dep_q": 6,
    "delays": [0, *[0, 2, 2, 2, 2, 2] * 2],
    "kv_repeat": 2,
    "depformer_kv_repeat": 1,
    "hidden_scale": 6,
    "max_period": 20000.0,
    "positional_embedding": "rope_concat",
    "depformer_num_layers": 1,
    "depformer_dim_feedforward": None,
    "depformer_norm": "layer_norm",
    "depformer_weights_per_step_schedule": [0, 1, 2, 3, 3, 3],
    "demux_second_stream": False,
    "text_card_out": None,
    "conditioners": {},
    "cross_attention": False,
}
PERSONAPLEX = MOSHI | {"model_type": "personaplex", "dep_q": 8, "depformer_num_layers": 1}

NOT_LM = {"model_type", "lm_gen_config"}
GUIDANCE = 3.0


def loaded(config: dict, path: Path) -> LMModel:
    """The checkpoint at `path` as the official loader has it."""
    info = loaders.CheckpointInfo(
        path,
        path,
        path,
        # The official loader modifies its config argument.
        json.loads(json.dumps({key: value for key, value in config.items() if key not in NOT_LM})),
        model_type=config.get("model_type", "moshi"),
    )
    return info.get_moshi(device="cpu", dtype=torch.float32)


def conditions(model: LMModel, guided: bool) -> dict | None:
    """The conditions of the official commands: one row, and with guidance one more of the null conditions."""
    if not model.condition_provider:
        return None
    values = ["very_good", "very_bad"] if guided else ["very_good"]
    asked = [ConditionAttributes(text={"description": value}, tensor={}) for value in values]
    return model.condition_provider.prepare_and_provide(asked)


@torch.no_grad()
def trace(model: LMModel, steps: int, seed: int, cfg_coef: float = 1.0) -> dict[str, np.ndarray]:
    text, audio, out = [], [], []
    margins: list[float] = []
    draw = official.sample_token

    def watched(logits: torch.Tensor, *args: object) -> torch.Tensor:
        best = logits.flatten().topk(2).values
        margins.append(float(best[0] - best[1]))
        return draw(logits, *args)

    official.sample_token = watched
    gen = LMGen(
        model,
        use_sampling=False,
        cfg_coef=cfg_coef,
        condition_tensors=conditions(model, guided=cfg_coef != 1),
        on_text_hook=lambda token: text.append(token.clone()),
        on_audio_hook=lambda tokens: audio.append(tokens.clone()),
    )
    user = np.random.default_rng(seed).integers(0, model.card, (steps, model.n_q - model.dep_q))
    with gen.streaming(1):
        for frame in user:
            result = gen.step(torch.from_numpy(frame)[None, :, None])
            if result is not None:
                out.append(result[0, :, 0].clone())
    official.sample_token = draw
    # A tie could fall either way and would make a golden of rounding.
    assert min(margins) > 1e-4, min(margins)
    text_ids = {int(t) for t in text}
    print("  smallest margin", min(margins), "text tokens seen", len(text_ids), "end of text", 2 in text_ids)
    return {
        "user": user.astype(np.int16),
        "text": torch.cat(text).numpy().astype(np.int16),
        "audio": torch.cat(audio).numpy().astype(np.int16),
        "out": torch.stack(out).numpy().astype(np.int16),
    }


def random_weights(config: dict, seed: int) -> dict[str, torch.Tensor]:
    """A packed checkpoint of `config`, its conditions included."""
    kwargs = json.loads(json.dumps({key: value for key, value in config.items() if key not in NOT_LM}))
    if kwargs.get("conditioners"):
        kwargs["condition_provider"] = loaders.get_conditioner_provider(config["dim"], "cpu", kwargs)
        kwargs["fuser"] = loaders.get_condition_fuser(kwargs)
    for key in ("conditioners", "demux_second_stream"):
        kwargs.pop(key, None)
    return packed(seeded(kwargs, seed))


def family(name: str, config: dict, seed: int) -> None:
    print(name)
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    path = folder / "model.safetensors"
    save_file(random_weights(config, seed), path)
    model = loaded(config, path)
    if name == "personaplex":
        model.dep_q = config["n_q"] // 2  # the depformer stops once the agent's own voice is whole
    steps = 6 * config["context"] + 5
    np.savez_compressed(folder / "trace.npz", **trace(model, steps, seed))
    if name == "hibiki_2b":
        np.savez_compressed(folder / "guided.npz", **trace(model, steps, seed, GUIDANCE))


def adapter(seed: int) -> None:
    print("lora")
    folder = FOLDER / "lora"
    folder.mkdir(parents=True, exist_ok=True)
    base = DATA / "lm_golden_moshi" / "model.safetensors"
    config = PLAIN | {"lora": True, "lora_rank": 3, "lora_scaling": 2.0, "lora_name": "lora.safetensors"}
    model = loaders.get_moshi_lm(base, PLAIN, dtype=torch.float32)
    model = loaders.get_lora_moshi(model, None, 3, 2.0, dtype=torch.float32, fuse_lora=False)
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: (0.5 * torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
        .bfloat16()
        .contiguous()
        for name, weight in model.state_dict().items()
        if ".lora_" in name
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(pairs, folder / "lora.safetensors")
    kwargs = {key: value for key, value in config.items() if key != "lora_name"}
    path = folder / "lora.safetensors"
    model = loaders.get_moshi_lm(base, kwargs, dtype=torch.float32, lora_weights=path, fuse_lora=True)
    np.savez_compressed(folder / "trace.npz", **trace(model, 5 * config["context"] + 5, seed))


def main() -> None:
    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)
    family("hibiki_1b", HIBIKI_1B, 8)
    family("hibiki_2b", HIBIKI_2B, 4)
    family("hibiki_zero", HIBIKI_ZERO, 5)
    family("personaplex", PERSONAPLEX, 6)
    adapter(7)


if __name__ == "__main__":
    main()
