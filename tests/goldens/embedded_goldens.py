"""Makes `tests/data/embedded.npz`: the official package's answer to a question, with the embedded weights.

Run with an interpreter that has PyTorch and `moshi` 0.2.13, after `configs/tiny` has changed:

    python tests/goldens/embedded_goldens.py

`tests/data/question.wav` is processed frame by frame: `user [T, 8]` are its codes, `text [T]` and
`audio [T, 4]` what is drawn in each step, `out [T - 1, 5]` what `LMGen.step` gives, all greedy,
and `pcm [T - 1, 1920]` int16 in 1/32768 the voice that answers.
"""

import json
import wave
from pathlib import Path

import numpy as np
import torch
from lm_goldens import traced
from moshi.models.loaders import get_mimi, get_moshi_lm

TESTS = Path(__file__).parents[1]
FOLDER = TESTS.parent / "configs" / "tiny"
FRAME_SAMPLES = 1920
NOT_SIZES = ("model_type", "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lm_gen_config")


def question() -> torch.Tensor:
    """`[1, 1, T · 1920]`."""
    with wave.open(str(TESTS / "data" / "question.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    whole = len(pcm) // FRAME_SAMPLES * FRAME_SAMPLES
    return torch.from_numpy(pcm[:whole])[None, None]


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    config = json.loads((FOLDER / "config.json").read_text())
    codec = json.loads((FOLDER / config["mimi_config_name"]).read_text())
    mimi = get_mimi(FOLDER / config["mimi_name"], codec, num_codebooks=config["n_q"] - config["dep_q"])
    with mimi.streaming(1):
        user = [mimi.encode(frame)[0, :, 0] for frame in question().split(FRAME_SAMPLES, dim=-1)]
    sizes = {name: value for name, value in config.items() if name not in (*NOT_SIZES, "pipeline")}
    model = get_moshi_lm(FOLDER / config["moshi_name"], sizes, dtype=torch.float32)
    golden = traced(model, torch.stack(user).numpy())
    spoken = torch.from_numpy(golden["out"][:, 1:].astype(np.int64))  # [T - 1, 4]
    mimi.set_num_codebooks(config["dep_q"])
    with mimi.streaming(1):
        pcm = torch.cat([mimi.decode(frame[None, :, None]) for frame in spoken], dim=1)[0]
    np.savez_compressed(
        TESTS / "data" / "embedded.npz", **golden, pcm=np.round(pcm.numpy() * 32768).astype(np.int16)
    )


if __name__ == "__main__":
    main()
