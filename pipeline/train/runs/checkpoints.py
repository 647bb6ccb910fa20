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
VOICE: Final = "voice"  # decoder and encoder of a new voice of the agent
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
        step = path.stem if path.stem == LANGUAGE else CODEC
        raise RunError(f"{path} is missing: python -m pipeline.train.{step} makes it")
    saved = torch.load(path, map_location=device, weights_only=True)["parts"]
    for name, part in parts.items():
        part.load_state_dict(saved[name])


def latest(folder: Path, *names: str) -> Path:
    """The checkpoint of the first of these steps that has been run, or else of the last."""
    paths = [folder / f"{name}.pt" for name in names]
    return next((path for path in paths if path.is_file()), paths[-1])


def codec_of(folder: Path, sizes: MimiSizes, device: torch.device, *, agent: bool = False) -> MimiNetwork:
    """The codec of a run, ready to compute: the decoder and the encoder that were trained longest.

    `agent`: as the agent's codes are made, by the encoder that the decoder was trained with.

    Raises:
        RunError: there is none.
    """
    model = MimiNetwork(sizes).to(device)
    take(latest(folder, DECODER, VOICE, CODEC), {"model": model}, device)
    if not agent and any((folder / f"{name}.pt").is_file() for name in (ENCODER, VOICE)):
        users = MimiNetwork(sizes).to(device)  # the encoder of a voice is the agent's alone
        take(latest(folder, ENCODER, CODEC), {"model": users}, device)
        for name in ("encoder", "encoder_transformer", "downsample", "quantizer"):
            getattr(model, name).load_state_dict(getattr(users, name).state_dict())
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


def codes_folder(folder: Path, user: MimiNetwork, agent: MimiNetwork) -> Path:
    """Where a run keeps the sessions that these two encoders encoded."""
    return folder / f"codes-{fingerprint(user)}-{fingerprint(agent)}"
