"""The bank on the device: windows of speech with their phonemes, gathered a batch at a time."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipeline.train.recordings.bank import FULL_SCALE, NATURAL, SOUND_SAMPLES, Shard
from pipeline.train.synthesizers.spoken import SILENCE
from pipeline.units import FRAME_SAMPLES

SOUNDS_PER_FRAME: Final = FRAME_SAMPLES // SOUND_SAMPLES
_NATURAL_SHARE: Final = 0.8
_UNKNOWN: Final = 255  # a phoneme that is not in the table


def phoneme_table(shards: Sequence[Shard]) -> list[str]:
    """All phonemes of the shards, silence first."""
    return [SILENCE, *sorted({phoneme for shard in shards for phoneme in shard.phonemes} - {SILENCE})]


def _rarity(texts: Sequence[str]) -> list[float]:
    """How rare the rarest word of each text is: 1 divided by the number of texts that have it."""
    words = [set(text.split()) for text in texts]
    counts = Counter(word for each in words for word in each)
    return [max((1 / counts[word] for word in each), default=1.0) for each in words]


class Recordings:
    """Utterances of several shards: `pcm` int16 and `sounds` in rows, on one device.

    Phonemes that `table` does not list count as unknown.
    """

    def __init__(self, shards: Sequence[Shard], table: Sequence[str], device: torch.device) -> None:
        numbers = {phoneme: number for number, phoneme in enumerate(table)}
        pcm, sounds, starts, sound_starts, lengths = [], [], [], [], []
        samples_before = sounds_before = 0
        for shard in shards:
            local = np.array([numbers.get(phoneme, _UNKNOWN) for phoneme in shard.phonemes], np.uint8)
            pcm.append(torch.from_numpy(np.array(shard.pcm)))
            sounds.append(torch.from_numpy(local[shard.sounds]))
            starts += [samples_before + one.start for one in shard.utterances]
            lengths += [one.samples for one in shard.utterances]
            sound_starts += (sounds_before + shard.sound_starts).tolist()
            samples_before += len(shard.pcm)
            sounds_before += len(shard.sounds)
        self.pcm = torch.cat(pcm).to(device)
        self.sounds = torch.cat(sounds).to(device)
        self._starts = starts
        self.starts = torch.tensor(starts, device=device)
        self.sound_starts = torch.tensor(sound_starts, device=device)
        self.lengths = torch.tensor(lengths, device=device)
        self._texts = [one.text for shard in shards for one in shard.utterances]
        self.device = device
        natural = sum(len(shard.utterances) for shard in shards if shard.name.startswith(NATURAL))
        is_natural = torch.tensor(
            [shard.name.startswith(NATURAL) for shard in shards for _ in shard.utterances], device=device
        )
        both = 0 < natural < len(starts)
        self._which = [is_natural.nonzero()[:, 0], (~is_natural).nonzero()[:, 0]] if both else []

    def __len__(self) -> int:
        return len(self.starts)

    def draw(self, count: int) -> Tensor:
        """`[count]` utterances at random; of natural voices most, if there are both kinds."""
        if not self._which:
            return torch.randint(len(self), (count,), device=self.device)
        drawn = [one[torch.randint(len(one), (count,), device=self.device)] for one in self._which]
        return torch.where(torch.rand(count, device=self.device) < _NATURAL_SHARE, *drawn)

    def draw_rare(self, count: int) -> Tensor:
        """`[count]` utterances at random, so that a word is drawn often even if few texts have it."""
        return torch.multinomial(self._rarity, count, replacement=True).to(self.device)

    @cached_property
    def _rarity(self) -> Tensor:
        """Of each utterance; only the agent's are drawn by it."""
        return torch.tensor(_rarity(self._texts))

    def stretch(self, which: int, begin: int, end: int) -> Tensor:
        """Samples `[begin, end)` of one utterance."""
        start = self._starts[which]
        return self.pcm[start + begin : start + end].float() / FULL_SCALE

    def window(self, which: Tensor, offset: Tensor, samples: int) -> Tensor:
        """`[B, S]`: from `offset [B]` samples into the utterances `which [B]`, silence around them."""
        at = offset[:, None] + torch.arange(samples, device=self.device)
        inside = (at >= 0) & (at < self.lengths[which, None])
        index = (self.starts[which, None] + at).clamp(0, len(self.pcm) - 1)
        return torch.where(inside, self.pcm[index].float() / FULL_SCALE, 0.0)

    def phonemes(self, which: Tensor, offset: Tensor, frames: int) -> Tensor:
        """`[B, T, 4]`: what sounds in each 20 ms of each frame of the same window; −1 if unknown."""
        middles = (
            torch.arange(frames * SOUNDS_PER_FRAME, device=self.device) * SOUND_SAMPLES + SOUND_SAMPLES // 2
        )
        at = offset[:, None] + middles
        inside = (at >= 0) & (at < self.lengths[which, None])
        index = (self.sound_starts[which, None] + at.div(SOUND_SAMPLES, rounding_mode="floor")).clamp(
            0, len(self.sounds) - 1
        )
        found = torch.where(inside, self.sounds[index].long(), 0)
        found = torch.where(found == _UNKNOWN, -1, found)
        return found.unflatten(1, (frames, SOUNDS_PER_FRAME))
