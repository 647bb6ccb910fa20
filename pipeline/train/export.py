"""`python -m pipeline.train.export`: a run's networks as a checkpoint folder that the server runs.

    python -m pipeline.train.export --corpus build/train/corpus --run build/train/run --to build/train/tiny

Names, shapes and files are those Kyutai publishes; weights are stored as float16, except for the
codebooks, whose rounding could change codes. The outputs of the stored weights are written beside
the run, for `python -m pipeline.train.verify` to compare with the server's.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.system.outputs import OutputFile, write_whole
from pipeline.train.conversation.vocabulary import FILE, PADDING
from pipeline.train.networks.architecture import add_recipe_argument, mimi_sizes, moshi_sizes
from pipeline.train.networks.mimi import MimiNetwork
from pipeline.train.networks.moshi import MoshiNetwork, delayed
from pipeline.train.recordings.bank import read_shards
from pipeline.train.runs.checkpoints import codec_of, language_of
from pipeline.train.runs.command import run
from pipeline.units import FRAME_SAMPLES
from pipeline.values import Pcm

GOLDEN: Final = "golden.npz"
_GOLDEN_FRAMES: Final = 40


def _stored(name: str, tensor: Tensor) -> Tensor:
    whole = "quantizer." in name
    return tensor.detach().cpu().to(torch.float32 if whole else torch.float16).contiguous()


def _rounded(model: nn.Module) -> None:
    """Let the network compute with what will be stored of it."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(_stored(name, tensor).to(tensor.dtype))


@torch.no_grad()
def golden(mimi: MimiNetwork, moshi: MoshiNetwork, speech: Pcm) -> dict[str, Any]:
    """A recording, its codes and sound; a session's codes and all logits of them."""
    _rounded(mimi)
    _rounded(moshi)
    samples = _GOLDEN_FRAMES * FRAME_SAMPLES
    pcm = torch.from_numpy(np.pad(speech, (0, samples))[:samples])[None, None]
    codes = mimi.encode(pcm)
    session = _session(codes, moshi)
    grid = delayed(session, moshi.sizes)
    context = moshi.context(grid.inputs)
    targets = grid.targets[:, : moshi.sizes.dep_q].transpose(1, 2).flatten(0, 1)
    # Where a delay leaves no target, the depth transformer's input is the initial token.
    initial = torch.tensor([moshi.sizes.text_card] + [moshi.sizes.card] * (moshi.sizes.dep_q - 1))
    audio = moshi.audio_logits(context.flatten(0, 1), torch.where(targets < 0, initial, targets))
    return {
        "pcm": pcm[0, 0].numpy(),
        "codes": codes[0].numpy().astype(np.int32),
        "sound": mimi.decode(codes[:, : moshi.sizes.dep_q])[0, 0].numpy(),
        "session": session.numpy().astype(np.int32),
        "text_logits": moshi.text_linear(context)[0].numpy(),
        "audio_logits": audio.unflatten(0, (1, -1))[0].numpy(),
    }


def _session(codes: Tensor, moshi: MoshiNetwork) -> Tensor:
    """`[1, 1 + n_q, T]`: the agent's codes are the user's; any would do."""
    text = torch.full_like(codes[:, :1], PADDING)
    text[0, 0, ::5] = torch.arange(len(text[0, 0, ::5])) % moshi.sizes.text_card
    return torch.cat([text, codes[:, : moshi.sizes.dep_q], codes[:, : moshi.sizes.user_q]], 1)


def export(arguments: argparse.Namespace) -> None:
    """Write the folder, and what its numbers compute."""
    mimi = codec_of(arguments.run, mimi_sizes(arguments.recipe), torch.device("cpu"))
    moshi = language_of(arguments.run, moshi_sizes(arguments.recipe), torch.device("cpu"))
    speech = read_shards(arguments.corpus, "held-out-all")[0].recording(0)
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "mimi_config.json"):
        write_whole(arguments.to / name, (arguments.recipe / name).read_bytes())
    write_whole(arguments.to / FILE, (arguments.corpus / FILE).read_bytes())
    for model, name in ((mimi, "mimi.safetensors"), (moshi, "model.safetensors")):
        tensors = {key: _stored(key, tensor) for key, tensor in model.published().items()}
        with OutputFile(arguments.to / name) as output:
            save_file(tensors, output.path)
            output.commit()
        print(f"{arguments.to / name}: {(arguments.to / name).stat().st_size / 1e6:.1f} MB")
    with OutputFile(arguments.run / GOLDEN) as output:
        with output.path.open("wb") as file:
            np.savez(file, **golden(mimi, moshi, speech))
        output.commit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.export", description="Write a checkpoint folder."
    )
    parser.add_argument("--corpus", metavar="DIR", type=Path, required=True)
    parser.add_argument("--run", metavar="DIR", type=Path, required=True, help="where the checkpoints are")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder to write")
    add_recipe_argument(parser)
    return run(partial(export, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
