"""Writes `tests/data/mimi_golden/`: a small seeded Mimi, and what the official package makes of it.

Run with an interpreter that has PyTorch and `moshi` 0.2.13; the tests only read what this wrote:

    python tests/goldens/mimi_goldens.py

* `mimi_config.json`: its sizes, in the keys of the official loader.
* `model.safetensors`: float16, and the official model was given exactly these rounded numbers.
* `golden.npz`: `user_pcm` int8 in 1/128, one channel; `codes [K, T]`, streamed frame by frame;
  `agent_pcm` int16 in 1/32768, those codes decoded frame by frame.

The attention window is 8 positions and a frame is 2, so 24 frames go round the ring six times.
"""

import json
from pathlib import Path

import numpy as np
import torch
from moshi.models.loaders import get_mimi
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "data" / "mimi_golden"
FRAME_SAMPLES = 1920
FRAMES = 24
CODEBOOKS = 6
CONFIG = {
    "sample_rate": 24000,
    "channels": 1,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 32,
        "causal": True,
        "n_filters": 2,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
        "true_skip": True,
    },
    "quantizer": {
        "dimension": 16,
        "n_q": CODEBOOKS,
        "bins": 32,
        "input_dimension": 32,
        "output_dimension": 32,
    },
    "transformer": {
        "d_model": 32,
        "num_heads": 4,
        "num_layers": 2,
        "causal": True,
        "layer_scale": 0.01,
        "context": 8,
        "conv_layout": True,
        "max_period": 10000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 64,
        "input_dimension": 32,
        "output_dimensions": [32],
    },
}


def speech_like() -> np.ndarray:
    """A gliding, pulsing, slightly noisy voice of varied loudness, int8."""
    samples = FRAMES * FRAME_SAMPLES
    t = np.arange(samples) / 24000
    pitch_hz = 120 + 40 * np.sin(2 * np.pi * 1.3 * t)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / 24000
    voice = sum(np.sin(k * phase + k) / k for k in range(1, 12))
    loudness = 0.05 + 0.95 * np.abs(np.sin(2 * np.pi * 0.9 * t)) ** 2
    noise = np.random.default_rng(7).standard_normal(samples)
    wave = loudness * (voice / 2.5 + 0.05 * noise)
    return np.clip(np.round(100 * wave / np.abs(wave).max()), -128, 127).astype(np.int8)


def scale_of(name: str, parameter: torch.Tensor) -> tuple[float, float]:
    """Mean and spread of what a parameter is filled with."""
    if name.endswith(("layer_scale_1.scale", "layer_scale_2.scale")):
        return 0.7, 0.2
    if ".norm" in name:
        return (1.0 if name.endswith("weight") else 0.0), 0.2
    if name.endswith("bias"):
        return 0.0, 0.05
    if "upsample" in name:
        return 0.0, 0.7
    if ".convtr." in name:  # each output sums two kernel positions of every input channel
        return 0.0, 1.4 / (2 * parameter.shape[0]) ** 0.5
    return 0.0, 1.4 / parameter[0].numel() ** 0.5


@torch.no_grad()
def liven(mimi: torch.nn.Module, pcm: torch.Tensor) -> None:
    """Give an untrained Mimi weights whose every part shows in the codes and in the waveform."""
    generator = torch.Generator().manual_seed(11)

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for name, parameter in mimi.named_parameters():
        mean, spread = scale_of(name, parameter)
        parameter.copy_(mean + spread * normal(parameter.shape))
    latent = mimi._encode_to_unquantized_latent(pcm)
    for rvq in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        projected = rvq.input_proj(latent)[0]  # [d, T]
        middle, spread = projected.mean(dim=1), projected.std(dim=1).mean().item()
        for level, layer in enumerate(rvq.vq.layers):
            book = layer._codebook
            usage = 0.2 + 4 * torch.rand(book.cluster_usage.shape, generator=generator)
            usage[3] = 0.0  # an unused centroid: the divisor is clamped
            centroids = spread * 0.7**level * normal(book.embedding_sum.shape)
            centroids += middle if level == 0 else 0.0
            book.cluster_usage.copy_(usage)
            book.embedding_sum.copy_(centroids * usage.clamp(min=1e-5)[:, None])
            book._initialized.fill_(1)
    loudest = mimi.decode(mimi.encode(pcm)).abs().max()
    last = mimi.decoder.model[-1].conv.conv
    last.weight.mul_(0.6 / loudest)
    last.bias.mul_(0.6 / loudest)
    for tensor in mimi.state_dict().values():
        tensor.copy_(tensor.half())
    for module in mimi.modules():
        if hasattr(module, "embedding_sum"):
            module._embedding = None  # cached before the rounding


@torch.no_grad()
def main() -> None:
    torch.manual_seed(5)
    torch.set_num_threads(1)
    user_pcm = speech_like()
    pcm = torch.from_numpy(user_pcm.astype(np.float32) / 128)[None, None]  # [1, 1, S]
    mimi = get_mimi(None, CONFIG, num_codebooks=CODEBOOKS)
    liven(mimi, pcm)
    with mimi.streaming(1):
        codes = torch.cat([mimi.encode(frame) for frame in pcm.split(FRAME_SAMPLES, dim=-1)], dim=-1)
    with mimi.streaming(1):
        agent_pcm = torch.cat([mimi.decode(frame) for frame in codes.split(1, dim=-1)], dim=-1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "mimi_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    save_file({k: v.half().contiguous() for k, v in mimi.state_dict().items()}, FOLDER / "model.safetensors")
    np.savez_compressed(
        FOLDER / "golden.npz",
        user_pcm=user_pcm,
        codes=codes[0].numpy().astype(np.int32),
        agent_pcm=np.round(agent_pcm[0, 0].numpy() * 32768).astype(np.int16),
    )
    print("codes in use per codebook:", [len(set(level)) for level in codes[0].tolist()])
    print("loudest sample:", agent_pcm.abs().max().item())


if __name__ == "__main__":
    main()
