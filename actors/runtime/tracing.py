"""One frame in so many leaves a line in the log: how long it waited and was computed, from socket to socket.

A frame that is traced carries a span for each model behind it. What it waited for a model is all
of the time since the model before was done with it that was not computing: in a channel, for the
thread, and for the hand-over. Waits and batches therefore add up to the whole, always.

`python -m pipeline trace` reads these lines.
"""

from itertools import pairwise
from typing import Final

import structlog

from pipeline.values import AgentFrame, Span

STAGES: Final = ("encode", "step", "decode")

log = structlog.get_logger()


class Tracer:
    """Picks every `every`-th frame of a session; 0 picks none."""

    def __init__(self, every: int) -> None:
        self._every = every

    def begin(self, index: int) -> tuple[Span, ...] | None:
        """What frame `index` of a session starts with: no spans yet, or None where it is not traced."""
        return () if self._every and (index + 1) % self._every == 0 else None

    def end(self, frame: AgentFrame, session: str, sent_s: float) -> None:
        """The frame has been written: log its way, if it was traced."""
        if frame.spans is None:
            return
        stages: dict[str, float] = {}
        begun_s = [frame.received_s, *(span.done_s for span in frame.spans)]
        for name, (since_s, done_s), span in zip(STAGES, pairwise(begun_s), frame.spans, strict=True):
            stages[f"{name}_queue_ms"] = _ms(done_s - since_s - span.batch_s)
            stages[f"{name}_ms"] = _ms(span.batch_s)
        total_s = sent_s - frame.received_s
        log.info(
            "frame",
            session=session,
            frame=frame.index,
            **stages,
            egress_ms=_ms(sent_s - begun_s[-1]),
            added_ms=_ms(total_s - frame.model_s),
            total_ms=_ms(total_s),
        )


def _ms(seconds: float) -> float:
    """Never below 0: batches are measured on another clock."""
    return round(1000 * max(seconds, 0.0), 3)
