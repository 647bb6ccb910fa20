"""List, add or remove the voices that a model can take on.

    packet-voice voices list --config hf://nvidia/personaplex-7b-v1
    packet-voice voices add anna recording.wav --consent --config hf://nvidia/personaplex-7b-v1
    packet-voice voices remove anna

A voice is made of a recording of 1 to 20 seconds of one person who speaks clearly. Use your own voice, or
one whose owner has agreed: a copied voice can deceive people. The voice stays on this machine, in a file that
only you can read.

Exit codes: 0; 2 usage, configuration or audio file error; 3 weights or voice error.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.audio.framing import Framer
from pipeline.audio.loudness import normalized
from pipeline.audio.sound_file import read_sound
from pipeline.cli.arguments import CommandParser, add_config_arguments
from pipeline.errors import AudioFileError, ConfigError
from pipeline.install.program_name import program
from pipeline.models.checkpoint.resolve import open_config
from pipeline.models.checkpoint.voice_store import VoiceInfo, VoiceStore
from pipeline.models.checkpoint.voices import read_published_voice, read_voice
from pipeline.models.prompt import CODEBOOKS
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.units import FRAME_MS, SAMPLE_RATE_HZ
from pipeline.values import GREEDY, Voice

LANE: Final = 0
MIN_S, MAX_S = 1, 20
VOICE_FILES: Final = (".wav", ".flac", ".ogg", ".pt", ".safetensors")


def voice_of_recording(stages: ModelStages, path: Path) -> Voice:
    """The voice of a recording: at the loudness that the model expects, as codes of its Mimi.

    Raises:
        AudioFileError: the file cannot be read, or is too short, too long or silent.
        ConfigError: the loudness cannot be measured here.
    """
    sound = read_sound(path)
    for notice in sound.notices:
        print(notice, file=sys.stderr)
    pcm = sound.pcm
    length_s = len(pcm) / SAMPLE_RATE_HZ
    if not MIN_S <= length_s <= MAX_S:
        raise AudioFileError(str(path), f"is {length_s:.1f} s long; a voice takes {MIN_S} to {MAX_S} s")
    framer = Framer()
    frames = np.concatenate([framer.push(normalized(pcm, str(path))), framer.flush()])
    encoder = stages.load_encoder()
    encoder.open(LANE, GREEDY)
    codes = [encoder.encode([LANE], frame[None])[0, :CODEBOOKS] for frame in frames]
    return Voice(codes=np.stack(codes).astype(np.int32))


def voice_of_file(stages: ModelStages, path: Path) -> Voice:
    """The voice in a file: as published (`.pt`), as kept by this program, or a recording.

    Raises:
        AudioFileError: the recording is not usable.
        VoiceError: the file is damaged.
    """
    match path.suffix:
        case ".pt":
            return read_published_voice(path)
        case ".safetensors":
            return read_voice(path)
    return voice_of_recording(stages, path)


def _listed(voices: Sequence[VoiceInfo]) -> str:
    return "\n".join(f"{voice.name:<24} {voice.origin}" for voice in voices) or "there are no voices"


def _stages(options: argparse.Namespace) -> ModelStages:
    return open_stages(open_config(options.config, [*options.set, "lanes.max=1"], check=open_stages))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("voices"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    lister = commands.add_parser("list", help="list the voices of a model and your own")
    add_config_arguments(lister)
    lister.add_argument("--json", action="store_true", help="print one JSON object")
    adder = commands.add_parser("add", help="make a voice of a recording")
    add_config_arguments(adder)
    adder.add_argument("name", help="letters, digits, - and _")
    adder.add_argument("recording", type=Path, metavar="WAV", help="1 to 20 s of one person who speaks")
    adder.add_argument(
        "--consent", action="store_true", help="confirm that the person agreed to have their voice copied"
    )
    remover = commands.add_parser("remove", help="delete a voice of your own")
    remover.add_argument("name")
    options = parser.parse_args(arguments)

    if options.command == "remove":
        VoiceStore(None).remove(options.name)
        return 0
    if options.command == "add" and not options.consent:
        raise ConfigError(
            "--consent",
            "missing: use your own voice, or one whose owner has agreed, and confirm it with --consent",
        )
    stages = _stages(options)
    if options.command == "list":
        voices = stages.personas.voices()
        if voices is None:
            raise ConfigError("--config", f"{stages.bundle.name} takes neither a voice nor a role")
        rows = [{"name": voice.name, "origin": voice.origin} for voice in voices]
        print(json.dumps({"voices": rows}) if options.json else _listed(voices))
        return 0
    voice = voice_of_recording(stages, options.recording)
    stages.personas.check(voice)
    path = stages.voices.add(options.name, voice)
    print(f"{options.name}: {voice.frames * FRAME_MS / 1000:g} s, in {path}")
    return 0
