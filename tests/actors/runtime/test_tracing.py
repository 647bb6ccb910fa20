"""A trace accounts for all of a frame's time, and only every N-th frame is traced."""

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.tracing import STAGES, Tracer
from pipeline.values import AgentFrame, FrameHeader, Span

seconds = st.floats(0, 10, allow_subnormal=False)


def traced(frame, sent_s, tracer=None):
    """What the log says of a frame that was sent."""
    with structlog.testing.capture_logs() as logs:
        (tracer or Tracer(1)).end(frame, "a session", sent_s)
    return logs


def answer(received_s, spans, model_s=0.0):
    header = FrameHeader(0, 7, 0.0, received_s, model_s, spans=spans)
    return AgentFrame(header, (), np.zeros(1920, np.float32))


@pytest.mark.parametrize("every", [1, 3, 25])
def test_one_frame_in_every_n_is_traced(every):
    """One in `every`, from the first `every` on, whatever the session."""
    begun = [Tracer(every).begin(index) for index in range(100)]
    assert [index for index, spans in enumerate(begun) if spans == ()] == list(range(every - 1, 100, every))
    assert all(spans in ((), None) for spans in begun)


def test_without_tracing_no_event_is_logged():
    """0 traces no frame, and a frame without spans is not logged."""
    assert all(Tracer(0).begin(index) is None for index in range(100))
    assert traced(answer(1.0, None), 2.0) == []


@given(seconds, st.lists(st.tuples(seconds, seconds), min_size=3, max_size=3), seconds)
def test_the_parts_add_up(received_s, stages, egress_s):
    """Waits, batches and egress are the whole time from packet received to packet sent."""
    now_s, spans = received_s, []
    for queue_s, batch_s in stages:
        now_s += queue_s + batch_s
        spans.append(Span(now_s, batch_s))
    (line,) = traced(answer(received_s, tuple(spans)), now_s + egress_s)
    parts = [line[f"{stage}{what}_ms"] for stage in STAGES for what in ("_queue", "")]
    assert parts == pytest.approx([1000 * s for stage in stages for s in stage], abs=2e-3)
    assert sum(parts) + line["egress_ms"] == pytest.approx(line["total_ms"], abs=1e-2)
    assert (line["event"], line["session"], line["frame"]) == ("frame", "a session", 7)


def test_added_time_is_the_whole_minus_the_models():
    """`added_ms` excludes the models' time, as in /health."""
    spans = (Span(1.010, 0.008), Span(1.030, 0.015), Span(1.040, 0.007))
    (line,) = traced(answer(1.0, spans, model_s=0.036), 1.042)
    assert (line["total_ms"], line["added_ms"], line["egress_ms"]) == (42.0, 6.0, 2.0)
    assert (line["step_queue_ms"], line["step_ms"]) == (5.0, 15.0)


def test_clocks_that_disagree_make_no_negative_time():
    """Batches are measured on another clock, which may be slightly ahead."""
    (line,) = traced(answer(1.0, (Span(1.0, 0.001), Span(1.0, 0.001), Span(1.0, 0.001))), 1.0)
    assert all(line[name] >= 0 for name in line if name.endswith("_ms"))
