"""Makes `tests/data/families/personaplex_prompts/`: what NVIDIA's code does with a voice and a role.

Run with an interpreter that has PyTorch, and a checkout of github.com/NVIDIA/personaplex (3428dfd):

    python tests/goldens/prompt_goldens.py PATH/TO/personaplex/moshi

`model.safetensors` is in the published layout (packed, bfloat16, sixteen depth slices; computed in float32
from the rounded weights), with the published numbers of codebooks and codes, because a prompt's silence and
sine are codes of that vocabulary. `voice.pt` is a voice as `LMGen` saves it. `prompts.npz` has, for each run
NAME of `RUNS`, greedy:

* `NAME_user [T, 8]`: the user's codes, one row a frame;
* `NAME_out [T, 17]`: what `LMGen.step` returned for them, which is frame P − 1 first: text, the agent's
  eight codebooks, and eight more that predict the user;
* `voice [V, 8]` and `role [N]`: the voice's codes, the role's text tokens.

NVIDIA's ring of keys forgets its oldest entry a step early, so its context is set one higher than the
config says.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import moshi.models.lm as official
import numpy as np
import torch
from lm_goldens import packed, seeded
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "data" / "families" / "personaplex_prompts"
CONTEXT = 40
SIZES = {
    "dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "hidden_scale": 4.125,
    "n_q": 16,
    "dep_q": 16,
    "card": 2048,
    "text_card": 48,
    "existing_text_padding_id": 3,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "context": CONTEXT,
    "max_period": 10000,
    "causal": True,
    "layer_scale": None,
    "gating": "silu",
    "norm": "rms_norm_f32",
    "positional_embedding": "rope",
    "depformer_dim": 8,
    "depformer_num_heads": 2,
    "depformer_num_layers": 1,
    "depformer_dim_feedforward": 33,
    "depformer_multi_linear": True,
    "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}

VOICE_FRAMES, CONVERSATION_FRAMES, SEED = 7, 3 * CONTEXT, 11
RUNS = ("plain", "role", "voice", "voice_role", "file", "file_role")
SILENT_FRAMES = 6


class Watched:
    """`official.sample_token`, noting the smallest margin: a tie would make a golden of rounding."""

    def __init__(self) -> None:
        self.margin = float("inf")
        self._draw = official.sample_token

    def __call__(self, logits: torch.Tensor, *arguments: object) -> torch.Tensor:
        best = logits.flatten().topk(2).values
        self.margin = min(self.margin, float(best[0] - best[1]))
        return self._draw(logits, *arguments)


def generator(model: official.LMModel, **options: object) -> official.LMGen:
    gen = official.LMGen(
        model,
        device="cpu",
        use_sampling=False,
        audio_silence_frame_cnt=SILENT_FRAMES,
        sample_rate=24000,
        **options,
    )
    gen.streaming_forever(1)
    return gen


def codes(frames: np.ndarray) -> Iterable[torch.Tensor]:
    """Frames `[T, K]` as the generator takes them, `[1, K, 1]` each."""
    return (torch.from_numpy(frame.astype(np.int64))[None, :, None] for frame in frames)


def run(
    gen: official.LMGen, voice: np.ndarray | None, role: list[int] | None, user: np.ndarray
) -> np.ndarray:
    """Prompt as `step_system_prompts` does, the codec left out, then answer `user`."""
    gen.reset_streaming()
    if gen.voice_prompt_embeddings is not None:
        gen._step_voice_prompt(None)
    saved: list[torch.Tensor] = []
    for frame in codes(voice) if voice is not None else ():
        gen._step_voice_prompt_frame(frame, saved)
    if gen.save_voice_prompt_embeddings:
        cache = gen._streaming_state.cache.clone()
        pair = {"embeddings": torch.stack(saved).bfloat16(), "cache": cache}
        torch.save(pair, FOLDER / "voice.pt")
    gen._step_audio_silence()
    gen.text_prompt_tokens = role or []
    gen._step_text_prompt()
    gen._step_audio_silence()
    out = [gen.step(frame) for frame in codes(user)]
    return torch.cat(out)[:, :, 0].numpy().astype(np.int16)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    official.sample_token = watched = Watched()
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "config.json").write_text(json.dumps(SIZES | {"model_type": "personaplex"}, indent=1) + "\n")
    model = seeded(SIZES | {"context": CONTEXT + 1}, SEED)
    save_file(packed(model), FOLDER / "model.safetensors")
    random = np.random.default_rng(SEED)
    voice = random.integers(0, SIZES["card"], (VOICE_FRAMES, 8))
    role = random.integers(4, SIZES["text_card"], 9).tolist()
    user = {name: random.integers(0, SIZES["card"], (CONVERSATION_FRAMES, 8)) for name in RUNS}

    unprompted = generator(model)
    out = [each for frame in codes(user["plain"]) if (each := unprompted.step(frame)) is not None]
    results = {"plain_out": torch.cat(out)[:, :, 0].numpy().astype(np.int16)}
    results["role_out"] = run(generator(model), None, role, user["role"])
    run(generator(model, save_voice_prompt_embeddings=True), voice, None, user["voice"])  # writes voice.pt
    results["voice_out"] = run(generator(model), voice, None, user["voice"])
    results["voice_role_out"] = run(generator(model), voice, role, user["voice_role"])
    from_file = generator(model)
    from_file.load_voice_prompt_embeddings(str(FOLDER / "voice.pt"))
    # What is published is bfloat16 throughout; a server that computes in float32 converts the rows.
    from_file.voice_prompt_embeddings = from_file.voice_prompt_embeddings.float()
    results["file_out"] = run(from_file, None, None, user["file"])
    results["file_role_out"] = run(from_file, None, role, user["file_role"])
    assert watched.margin > 1e-4, watched.margin
    print("smallest margin", watched.margin)
    np.savez_compressed(
        FOLDER / "prompts.npz",
        voice=voice.astype(np.int16),
        role=np.array(role, np.int16),
        **{f"{name}_user": each.astype(np.int16) for name, each in user.items()},
        **results,
    )


if __name__ == "__main__":
    main()
