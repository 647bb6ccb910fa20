"""Utterances made different each time they are used: a little faster or slower, higher or lower.

A few thousand recordings are soon known by heart. Source: Ko et al. 2015, "Audio augmentation for
speech recognition", which resamples; here the tempo of half of them is also changed by itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from pipeline.train.recordings.bank import Shard, Utterance, stored
from pipeline.train.synthesizers.synthesis import with_tract
from pipeline.train.synthesizers.time_scale import time_scaled
from pipeline.values import Pcm

_TRACTS: Final = (0.9, 1.12)
_TEMPOS: Final = (0.82, 1.22)
_TEMPO_SHARE: Final = 0.5


def perturbed_recording(rng: np.random.Generator, pcm: Pcm) -> Pcm:
    """`[S]` → another length, with other formants and another pitch."""
    pcm = with_tract(pcm, float(rng.uniform(*_TRACTS)))
    if rng.random() >= _TEMPO_SHARE:
        return pcm
    samples = round(len(pcm) / rng.uniform(*_TEMPOS))
    return time_scaled(pcm, np.linspace(0, len(pcm), samples, endpoint=False))


def perturbed(shards: Sequence[Shard], rng: np.random.Generator, count: int) -> list[Shard]:
    """`count` utterances of the shards, drawn and changed, as many of each as it has; phonemes unknown."""
    total = sum(len(shard.utterances) for shard in shards)
    drawn = np.sort(rng.choice(total, min(count, total), replace=False))
    changed: list[Shard] = []
    first = 0
    for shard in shards:
        here = drawn[(drawn >= first) & (drawn < first + len(shard.utterances))] - first
        first += len(shard.utterances)
        if len(here):
            changed.append(_changed(shard, rng, here.tolist()))
    return changed


def _changed(shard: Shard, rng: np.random.Generator, which: Sequence[int]) -> Shard:
    pieces: list[Pcm] = []
    utterances: list[Utterance] = []
    start = 0
    for index in which:
        one, pcm = shard.utterances[index], perturbed_recording(rng, shard.recording(index))
        ratio = len(pcm) / one.samples
        starts = tuple(min(round(at * ratio), len(pcm) - 1) for at in one.word_starts)
        utterances.append(replace(one, word_starts=starts, start=start, samples=len(pcm)))
        pieces.append(pcm)
        start += len(pcm)
    sounds = np.array([one.sounds for one in utterances], np.int64)
    return Shard(
        shard.name,
        tuple(utterances),
        shard.phonemes[:1],
        stored(np.concatenate(pieces)),
        np.zeros(int(sounds.sum()), np.uint8),
        np.concatenate([[0], np.cumsum(sounds)[:-1]]),
    )
