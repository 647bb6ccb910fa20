"""Training windows of the codec: users with room acoustics and noise, and the agent unchanged."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from pipeline.train.acoustics.rooms import in_a_room, noisy
from pipeline.train.recordings.gathered import SOUNDS_PER_FRAME, Recordings
from pipeline.units import FRAME_SAMPLES

_SILENT_SHARE: Final = 0.08
_BABBLERS: Final = 3


@dataclass(frozen=True, slots=True)
class Shares:
    """Of windows: those of the agent, and those that are decoded through the first codebooks alone."""

    agent: float
    few: float


WHOLE: Final = Shares(agent=0.4, few=0.6)
ENCODING: Final = Shares(agent=0.125, few=0.0)  # the agent only to preserve its codes
SPEAKING: Final = Shares(agent=0.9, few=1.0)  # for a new voice of the agent
DECODING: Final = Shares(agent=0.8, few=1.0)  # as the decoder is used when the model is


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` and `targets [B, S]`; `phonemes [B, T, 4]`; `levels [B]`; `agent [B, 1]` bool."""

    inputs: Tensor
    targets: Tensor
    phonemes: Tensor
    levels: Tensor
    agent: Tensor


class Windows:
    """Batches without end: users and the agent, each in a window of `frames`."""

    def __init__(
        self,
        users: Recordings,
        agent: Recordings,
        frames: int,
        batch: int,
        codebooks: tuple[int, int],
        *,
        shares: Shares = WHOLE,
    ) -> None:
        self.users, self.agent = users, agent
        self.frames, self.batch = frames, batch
        self.few, self.all = codebooks
        self.shares = shares

    def draw(self) -> Batch:
        """The next one."""
        device, samples = self.users.device, self.frames * FRAME_SAMPLES
        agents = round(self.batch * self.shares.agent)
        users = self.batch - agents
        which = self.users.draw(users)
        offset = self._offsets(self.users.lengths[which], step=1)
        clean = self.users.window(which, offset, samples)
        phonemes = self.users.phonemes(which, offset, self.frames)
        silent = torch.rand(users, device=device) < _SILENT_SHARE
        clean = in_a_room(torch.where(silent[:, None], 0.0, clean))
        phonemes = torch.where(silent[:, None, None], 0, phonemes)
        users_with_noise = noisy(clean, self._babble(users, samples))
        which_answers = self.agent.draw_rare(agents)
        start = self._offsets(self.agent.lengths[which_answers], step=FRAME_SAMPLES)
        spoken = self.agent.window(which_answers, start, samples)
        none = torch.full((agents, self.frames, SOUNDS_PER_FRAME), -1, device=device)
        few = torch.rand(self.batch, device=device) < self.shares.few
        return Batch(
            torch.cat([users_with_noise, spoken]),
            torch.cat([clean, spoken]),
            torch.cat([phonemes, none]),
            torch.where(few, self.few, self.all),
            torch.arange(self.batch, device=device)[:, None] >= users,
        )

    def _offsets(self, lengths: Tensor, step: int) -> Tensor:
        """Windows that hold at least some of the speech."""
        samples = self.frames * FRAME_SAMPLES
        low = -samples // 2
        span = (lengths - samples // 4 - low).clamp(min=step)
        return (low + (torch.rand(len(lengths), device=lengths.device) * span).long()).div(
            step, rounding_mode="floor"
        ) * step

    def _babble(self, count: int, samples: int) -> Tensor:
        total = torch.zeros(count, samples, device=self.users.device)
        for _ in range(_BABBLERS):
            which = self.users.draw(count)
            total = total + self.users.window(which, self._offsets(self.users.lengths[which], 1), samples)
        return total
