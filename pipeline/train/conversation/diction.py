"""Replaces the agent's words by recordings of the same words, of the same length, from other sentences.

Every sentence has one recording, so a model could recognize it from the audio of its first half and
recall the rest. With words from other sentences, the audio reveals no more than the words.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.train.conversation.vocabulary import PADDING

Ints = npt.NDArray[np.int64]

_LONGEST = 24  # frames of a word, with the silence after it


def words_in(text: Ints, speaking: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, Ints]:
    """`text` and `speaking [B, T]` → of every word its row, first frame, frames and token."""
    row, start = np.nonzero((text != PADDING) & speaking)
    steps = text.shape[1]
    silent = np.where(speaking, steps, np.arange(steps))
    ends = np.minimum.accumulate(silent[:, ::-1], axis=1)[:, ::-1][row, start]  # of its answer
    following = np.append(start[1:], steps)
    same_row = np.append(row[1:] == row[:-1], False)
    ends = np.where(same_row, np.minimum(ends, following), ends)
    return row, start, np.minimum(ends - start, _LONGEST), text[row, start]


class Diction:
    """Every word of some sessions: `text`, `agent [B, K, T]` codes and `speaking`, as they are encoded."""

    def __init__(self, text: Tensor, agent: Tensor, speaking: Tensor) -> None:
        row, start, frames, token = words_in(text.cpu().numpy().astype(np.int64), speaking.cpu().numpy())
        kind = token * (_LONGEST + 1) + frames
        order = np.argsort(kind, kind="stable")
        self._kinds, self._rows, self._starts = kind[order], row[order], start[order]
        self._agent = agent

    def respoken(self, text: Tensor, agent: Tensor, speaking: Tensor) -> Tensor:
        """`agent [B, K, T]`, every word of which comes out of a sentence drawn at random."""
        row, start, frames, token = words_in(text.cpu().numpy().astype(np.int64), speaking.cpu().numpy())
        kind = token * (_LONGEST + 1) + frames
        low = np.searchsorted(self._kinds, kind, side="left")
        count = np.searchsorted(self._kinds, kind, side="right") - low
        drawn = low + (torch.rand(len(kind)).numpy() * count).astype(np.int64)
        known = np.flatnonzero(count)  # cut off by an interruption, a word may be like no other
        replaced = agent.clone()
        for frame in range(_LONGEST):
            here = known[frames[known] > frame]
            from_row, from_start = self._rows[drawn[here]], self._starts[drawn[here]]
            pieces = self._agent[from_row, :, from_start + frame]
            replaced[row[here], :, start[here] + frame] = pieces.to(replaced.dtype)
        return replaced
