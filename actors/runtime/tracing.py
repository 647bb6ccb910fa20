"""Traces: one frame in N leaves a log event with what it waited for and what each model took.

A traced frame carries a span for each model it has passed. What it waited for a model is all of the
time since the model before was done with it that was not computing: in a channel, for the
thread, and for the hand-over. Waits and batches therefore always add up to the whole.

`packet-voice trace` reads these events.
"""

from itertools import pairwise
from typing import Final

import structlog

from pipeline.values import AgentFrame, Span

STAGES: Final = ("encode", "step", "decode")

log = structlog.get_logger()


class Tracer:
    """Traces every `every`-th frame of a session; 0 traces none."""

    def __init__(self, every: int) -> None:
        self._every = every

    def begin(self, index: int) -> tuple[Span, ...] | None:
        """The spans that frame `index` of a session starts with: (), or None where it is not traced."""
        return () if self._every and (index + 1) % self._every == 0 else None

    def end(self, frame: AgentFrame, session: str, sent_s: float) -> None:
        """Log the parts of a traced frame that has been written; do nothing for any other."""
        header = frame.header
        if header.spans is None:
            return
        stages: dict[str, float] = {}
        begun_s = [header.received_s, *(span.done_s for span in header.spans)]
        for name, (since_s, done_s), span in zip(STAGES, pairwise(begun_s), header.spans, strict=True):
            stages[f"{name}_queue_ms"] = _ms(done_s - since_s - span.batch_s)
            stages[f"{name}_ms"] = _ms(span.batch_s)
        total_s = sent_s - header.received_s
        log.info(
            "frame",
            session=session,
            frame=header.index,
            **stages,
            egress_ms=_ms(sent_s - begun_s[-1]),
            added_ms=_ms(total_s - header.model_s),
            total_ms=_ms(total_s),
        )


def _ms(seconds: float) -> float:
    """Milliseconds, never below 0: batches are measured on another clock."""
    return round(1000 * max(seconds, 0.0), 3)
