"""The speech of a session: recordings of users, and the agent's answers as sound and as codes.

Answers are encoded once, after silence, and their codes placed where they are spoken: at inference the
agent's codes do not come from an encoder, so they may begin in any frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.system.outputs import OutputFile
from pipeline.train.conversation.sessions import Session
from pipeline.train.networks.mimi import MimiNetwork
from pipeline.train.recordings.bank import Shard, Utterance
from pipeline.train.recordings.gathered import Recordings, phoneme_table
from pipeline.train.synthesizers.agent_speech import phrase_bounds
from pipeline.units import FRAME_SAMPLES, SAMPLE_RATE_HZ

_LEAD_FRAMES: Final = 12  # of silence before an answer that is encoded
_TOGETHER: Final = 32
_PAUSE_S: Final = (-0.5, 1.5)  # between two sentences of people who talk with each other
_CHATTER: Final = 0.6  # of those sentences, such as the agent would decline
_SILENCE_FRAMES: Final = 64  # after which the codes of silence no longer change

Codes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Speech:
    """The utterances of several shards, and their sound on the device."""

    utterances: list[Utterance]
    recordings: Recordings

    @classmethod
    def of(cls, shards: Sequence[Shard], device: torch.device) -> "Speech":
        """All of them."""
        utterances = [one for shard in shards for one in shard.utterances]
        return cls(utterances, Recordings(shards, phoneme_table(shards), device))


@dataclass(frozen=True)
class Agent:
    """The agent's sentences: sound and codes by sentence, and the codes of silence."""

    utterances: dict[str, Utterance]
    pcm: dict[str, Tensor]
    codes: dict[str, Codes]
    silence: Codes


def agent_of(
    shard: Shard, model: MimiNetwork, codebooks: int, device: torch.device, kept: Path | None = None
) -> Agent:
    """Encode every answer once, out of silence; the codes are `kept` in a file, and read from it again."""
    pcm = {
        one.text: torch.from_numpy(shard.recording(index)).to(device)
        for index, one in enumerate(shard.utterances)
    }
    if kept is not None and kept.is_file():
        with np.load(kept) as file:
            found = {name: file[name] for name in file.files}
    else:
        found = _encoded(list(pcm.values()), model, codebooks)
        if kept is not None:
            with OutputFile(kept) as output:
                with output.path.open("wb") as file:
                    np.savez(file, **found)
                output.commit()
    codes = with_shared_phrases(shard, {text: found[str(index)] for index, text in enumerate(pcm)})
    return Agent({one.text: one for one in shard.utterances}, pcm, codes, found["silence"])


def with_shared_phrases(shard: Shard, codes: Mapping[str, Codes]) -> dict[str, Codes]:
    """`codes` by sentence, with the same ones for a phrase in every sum in which it sounds the same.

    The codes of an encoder depend on what came before, so the same sound has other codes in each sentence:
    882 sums to learn, and not 124 phrases.
    """
    shared: dict[bytes, Codes] = {}
    made = {}
    for index, one in enumerate(shard.utterances):
        sound, own = shard.recording(index), codes[one.text]
        starts = (0, *one.word_starts[1:], one.samples)
        pieces = []
        for begin, end in pairwise(starts[word] for word in phrase_bounds(one.text)):
            frames = own[:, begin // FRAME_SAMPLES : end // FRAME_SAMPLES]
            pieces.append(shared.setdefault(sound[begin:end].tobytes(), frames))
        made[one.text] = np.concatenate(pieces, axis=1)
    return made


def _encoded(sounds: Sequence[Tensor], model: MimiNetwork, codebooks: int) -> dict[str, Any]:
    """Codes by the number of the sound, and those of "silence"; sounds of a length are encoded together."""
    device = sounds[0].device
    silence = torch.zeros(1, 1, _SILENCE_FRAMES * FRAME_SAMPLES, device=device)
    codes: dict[str, Any] = {
        "silence": model.encode(silence)[0, :codebooks, -1].cpu().numpy().astype(np.int16)
    }
    order = sorted(range(len(sounds)), key=lambda index: len(sounds[index]))
    for start in range(0, len(order), _TOGETHER):
        which = order[start : start + _TOGETHER]
        longest = len(sounds[which[-1]])
        batch = torch.zeros(len(which), 1, _LEAD_FRAMES * FRAME_SAMPLES + longest, device=device)
        for row, index in zip(batch, which, strict=True):
            lead = _LEAD_FRAMES * FRAME_SAMPLES
            row[0, lead : lead + len(sounds[index])] = sounds[index]
        encoded = model.encode(batch)[:, :codebooks, _LEAD_FRAMES:].cpu().numpy().astype(np.int16)
        for row, index in zip(encoded, which, strict=True):
            codes[str(index)] = row[:, : len(sounds[index]) // FRAME_SAMPLES]
    return codes


def tracks(
    sessions: Sequence[Session], speech: Speech, agent: Agent, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The users' audio, and the agent's as a loudspeaker plays it; `[B, N · 1920]` each."""
    samples = sessions[0].frames * FRAME_SAMPLES
    shape = (len(sessions), samples)
    device = speech.recordings.device
    users, played = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
    for user, loudspeaker, session in zip(users, played, sessions, strict=True):
        for segment in session.user_segments:
            piece = speech.recordings.stretch(segment.utterance, segment.begin, segment.end)
            _put(user, segment.at, piece)
        late = int(rng.integers(2, 5))  # frames from step to loudspeaker
        for answered in session.agent_answers:
            piece = agent.pcm[answered.answer][: answered.frames * FRAME_SAMPLES]
            _put(loudspeaker, (answered.frame + late) * FRAME_SAMPLES, piece)
    return users, played


def others_talk(
    speech: Speech, samples: int, rng: np.random.Generator
) -> tuple[Tensor, list[tuple[int, Utterance]]]:
    """`[S]`: some people talking with each other, who now and then interrupt each other or pause.

    And their sentences, each with the sample at which it ends.
    """
    track = torch.zeros(samples, device=speech.recordings.device)
    sentences: list[tuple[int, Utterance]] = []
    at = int(rng.uniform(0, _PAUSE_S[1]) * SAMPLE_RATE_HZ)
    chatter = [index for index, one in enumerate(speech.utterances) if one.kind == "unknown"]
    while at < samples:
        among = chatter if chatter and rng.random() < _CHATTER else range(len(speech.utterances))
        which = int(among[int(rng.integers(len(among)))])
        length = speech.utterances[which].samples
        _put(track, at, speech.recordings.stretch(which, 0, length))
        sentences.append((at + length, speech.utterances[which]))
        at = max(0, at + length + int(rng.uniform(*_PAUSE_S) * SAMPLE_RATE_HZ))
    return track, sentences


def _put(track: Tensor, at: int, piece: Tensor) -> None:
    piece = piece[: max(0, len(track) - at)]
    track[at : at + len(piece)] += piece


def agent_codes(session: Session, agent: Agent) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """`[K, N]`, and in which frames it speaks."""
    codes = np.repeat(agent.silence[:, None], session.frames, axis=1)
    speaking = np.zeros(session.frames, np.bool_)
    for answered in session.agent_answers:
        end = answered.frame + answered.frames
        codes[:, answered.frame : end] = agent.codes[answered.answer][:, : answered.frames]
        speaking[answered.frame : end] = True
    return codes, speaking
