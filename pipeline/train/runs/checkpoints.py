"""What a later step needs of an earlier one: networks out of a run's checkpoints."""

import hashlib
from pathlib import Path
from typing import Final

import torch
from torch import nn

from pipeline.errors import StartupError
from pipeline.train.networks.architecture import MimiSizes, MoshiSizes
from pipeline.train.networks.mimi import MimiNetwork
from pipeline.train.networks.moshi import MoshiNetwork

CODEC: Final = "codec"
DECODER: Final = "decoder"
ENCODER: Final = "encoder"
LANGUAGE: Final = "language"


class RunError(StartupError):
    """An earlier step of the recipe has not been run; the message names it."""

    exit_code = 2


def take(path: Path, parts: dict[str, nn.Module], device: torch.device) -> None:
    """Fill `parts` from the checkpoint at `path`.

    Raises:
        RunError: it is not there.
    """
    if not path.is_file():
        step = CODEC if path.stem in (DECODER, ENCODER) else path.stem
        raise RunError(f"{path} is missing: python -m pipeline.train.{step} makes it")
    saved = torch.load(path, map_location=device, weights_only=True)["parts"]
    for name, part in parts.items():
        part.load_state_dict(saved[name])


def codec_of(folder: Path, sizes: MimiSizes, device: torch.device, *, agent: bool = False) -> MimiNetwork:
    """The codec of a run, ready to compute: the decoder and the encoder that were trained longest.

    `agent`: as the agent's codes are made, by the encoder that the decoder was trained with.

    Raises:
        RunError: there is none.
    """
    model = MimiNetwork(sizes).to(device)
    decoder, encoder = folder / f"{DECODER}.pt", folder / f"{ENCODER}.pt"
    take(decoder if decoder.is_file() else folder / f"{CODEC}.pt", {"model": model}, device)
    if encoder.is_file() and not agent:
        later = MimiNetwork(sizes).to(device)
        take(encoder, {"model": later}, device)
        for name in ("encoder", "encoder_transformer", "downsample", "quantizer"):
            getattr(model, name).load_state_dict(getattr(later, name).state_dict())
    model.train(mode=False)
    return model


def language_of(folder: Path, sizes: MoshiSizes, device: torch.device) -> MoshiNetwork:
    """The language model of a run.

    Raises:
        RunError: there is none.
    """
    model = MoshiNetwork(sizes).to(device)
    take(folder / f"{LANGUAGE}.pt", {"model": model}, device)
    model.train(mode=False)
    return model


def fingerprint(model: MimiNetwork) -> str:
    """Of everything that decides what a sound is encoded to."""
    digest = hashlib.sha256()
    for part in (model.encoder, model.encoder_transformer, model.downsample, model.quantizer):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
