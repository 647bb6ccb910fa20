"""How much audio a client has received and not played, beyond what it may lag."""

import math

from pipeline.units import FRAME_MS


class PlayoutLag:
    """Frames that one client will play too late, by its own reports.

    A slow reader hides about 2 s in the buffers of its socket before a write blocks; its reports of
    the frame that it played last reveal them.

    Args:
        max_lag_s: audio that may be on its way to the loudspeaker.
    """

    def __init__(self, max_lag_s: float) -> None:
        self.frames = 0  # beyond the bound, less those that were skipped since the last report
        self._max_lag_frames = max_lag_s * 1000 / FRAME_MS
        self._sent_frames = 0

    def reset(self) -> None:
        """A new connection begins, on which nothing has been sent."""
        self.frames = self._sent_frames = 0

    def record_sent(self) -> None:
        """One frame has been written to the client."""
        self._sent_frames += 1

    def update(self, last_played_frame: int) -> None:
        """The client has played this frame of the connection, counted from 0, and those before it."""
        unplayed = self._sent_frames - (last_played_frame + 1)
        self.frames = max(0, math.ceil(unplayed - self._max_lag_frames))

    def take_skip(self) -> bool:
        """Whether to skip the next frame; the lag is one frame shorter then."""
        if not self.frames:
            return False
        self.frames -= 1
        return True
