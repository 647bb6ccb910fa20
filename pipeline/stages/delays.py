"""Delays: which codebook of which frame the language model sees in which step.

The only reference is the official `LMGen` (package `moshi`): codebook *q*
of the user's frame *k* is consumed in step *k* + `delay_q`, except that every codebook
is given its initial token up to and including the step `delay_q`, so that the very first
frame only primes. A step's own tokens stand one position later, and a whole agent frame
is complete `max_delay` steps after the step that began it.

    step           0    1    2    3         delays: text 0, agent 0 1, user 0 1
    text           i    t₀   t₁   t₂        i: initial token
    agent 0        i    a₀   a₁   a₂        t, a: what the step before produced
    agent 1        i    i    b₁   b₂        u, v: the user's frame of that number
    user 0         i    u₁   u₂   u₃
    user 1         i    i    v₁   v₂

The cache is a ring of `max_delay + 2` positions per lane, on the host: it holds integers, and
the model works without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.values import Codes

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class DelayPattern:
    """The delays of a model's codebooks and their initial tokens.

    `delays [1 + n_q]`: text first, then the `dep_q` agent codebooks, then the user's.
    """

    delays: tuple[int, ...]
    dep_q: int
    text_initial: int
    audio_initial: int

    @cached_property
    def max_delay(self) -> int:
        """Steps from a frame's first token to its last."""
        return max(self.delays)

    @cached_property
    def initial(self) -> Ints:
        """`[1 + n_q]`: the token before each codebook's first one."""
        return np.array([self.text_initial] + [self.audio_initial] * (len(self.delays) - 1), np.int32)


class DelayedTokenCache:
    """The delayed tokens of every lane, in constant memory however many steps pass."""

    def __init__(self, pattern: DelayPattern, rows: int) -> None:
        self.pattern = pattern
        self._delays = np.array(pattern.delays)
        self._agent = self._delays[: 1 + pattern.dep_q]
        self._user = self._delays[1 + pattern.dep_q :]
        columns = np.arange(len(self._delays))
        self._agent_columns, self._user_columns = columns[: 1 + pattern.dep_q], columns[1 + pattern.dep_q :]
        self._span = pattern.max_delay + 2
        self._tokens: Ints = np.zeros((rows, len(pattern.delays), self._span), np.int32)
        self.steps = np.zeros(rows, np.int64)

    def reset(self, row: int) -> None:
        """Set `row` to step 0. Its tokens are not cleared: none is read before it is written."""
        self.steps[row] = 0

    def begin_at(self, row: int, step: int, ahead: Ints) -> None:
        """Set `row` to `step`, with `ahead [max_delay, 1 + n_q]` at this position and those that follow."""
        self.steps[row] = step
        for offset, tokens in enumerate(ahead):
            self._tokens[row, :, (step + offset) % self._span] = tokens

    def put(self, row: int, codebook: int, token: int) -> None:
        """Set one token of the present position."""
        self._tokens[row, codebook, self.steps[row] % self._span] = token

    def read(self, rows: Sequence[int] | Ints, user: Ints) -> Ints:
        """Write the users' frames `[w, n_user]` and read the step's input `[w, 1 + n_q]`."""
        index = np.asarray(rows)
        step = self.steps[index, None]
        self._tokens[index[:, None], self._user_columns, (step + self._user) % self._span] = user
        current = self._tokens[index, :, step[:, 0] % self._span]
        return np.where(step <= self._delays, self.pattern.initial, current)

    def push(self, rows: Sequence[int] | Ints, text: Ints, audio: Ints) -> list[Codes | None]:
        """Write the tokens of the step (`[w]`, `[w, dep_q]`); return each row's completed agent frame.

        A frame is `codes [dep_q]`, or None during a lane's first `max_delay` steps.
        """
        index = np.asarray(rows)
        self.steps[index] += 1
        step = self.steps[index, None]
        produced = np.concatenate([text[:, None], audio], axis=1)
        self._tokens[index[:, None], self._agent_columns, step % self._span] = produced
        positions = (step - self.pattern.max_delay + self._agent) % self._span
        frames = self._tokens[index[:, None], self._agent_columns, positions][:, 1:]
        ready = self.steps[index] > self.pattern.max_delay
        return [codes if complete else None for codes, complete in zip(frames, ready, strict=True)]
