"""Prompts that were computed once, kept so that the next session with the same one starts at once.

A prompt is computed in a lane that its session has not opened yet, slice by slice, so that other lanes' steps
run between the slices. What is kept is the row's keys and values and the last context: everything that a
session's own sampling does not decide. The cache is bounded in bytes, which the memory check counts; the
prompt that was not used for the longest time is dropped first.

Neighbours: `pipeline.models.prompt` knows which tokens stand where; `stepper` opens lanes with the result.
"""

from collections import OrderedDict
from dataclasses import dataclass

import mlx.core as mx

from pipeline.models.layers.transformer import RingKVCache
from pipeline.models.prompt import Ints


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """What a conversation continues from: the last context `[1, D]`, the tokens that follow, the length."""

    context: mx.array
    ahead: Ints
    positions: int


@dataclass(frozen=True, slots=True)
class PromptSnapshot:
    """A row's state after a prompt: keys and values per layer, `[H, P, Dh]`, and how it ends."""

    keys: tuple[mx.array, ...]
    values: tuple[mx.array, ...]
    end: PromptEnd

    @classmethod
    def take(
        cls, state: RingKVCache, row: int, positions: int, context: mx.array, ahead: Ints
    ) -> "PromptSnapshot":
        """Copy the first `positions` slots of `row`."""
        keys, values = (
            tuple(mx.contiguous(ring[row, :, :positions]) for ring in rings)
            for rings in (state.keys, state.values)
        )
        mx.eval(keys, values, context)
        return cls(keys, values, PromptEnd(context, ahead, positions))

    def restore(self, state: RingKVCache, row: int, *, pinned: int = 0) -> RingKVCache:
        """The state with `row` as it was; the other rows are unchanged, and nothing else may refer to them.

        `pinned`: how many of its positions stay in the ring for good.
        """
        begin = mx.array([row, 0, 0, 0])
        keys, values = (
            tuple(
                mx.slice_update(ring, kept[None], begin, (0, 1, 2, 3))
                for ring, kept in zip(rings, copies, strict=True)
            )
            for rings, copies in ((state.keys, self.keys), (state.values, self.values))
        )
        offsets = state.offsets.copy()
        offsets[row] = self.end.positions
        counts = state.pinned.copy()
        counts[row] = pinned
        return RingKVCache(keys, values, offsets, counts)

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return sum(array.nbytes for array in (*self.keys, *self.values, self.end.context))


class PromptCache:
    """Snapshots by the prompt's key, at most `max_bytes` of them; one that is larger is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._snapshots: OrderedDict[str, PromptSnapshot] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        """Whether there is a snapshot; asking does not count as a use."""
        return key in self._snapshots

    def __getitem__(self, key: str) -> PromptSnapshot:
        """The snapshot, which is the latest used from now on."""
        self._snapshots.move_to_end(key)
        return self._snapshots[key]

    def add(self, key: str, snapshot: PromptSnapshot) -> None:
        """Keep a snapshot, and drop those that were not used for longest, down to the bound."""
        if snapshot.size_bytes > self._max_bytes:
            return
        self._snapshots[key] = snapshot
        self._snapshots.move_to_end(key)
        while self.size_bytes > self._max_bytes:
            self._snapshots.popitem(last=False)

    @property
    def size_bytes(self) -> int:
        """Memory that the snapshots take."""
        return sum(snapshot.size_bytes for snapshot in self._snapshots.values())
