import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.client.arithmetic_agent import GREETING

from pipeline.audio.pacing import FRAME_NS
from pipeline.client.report import LatencyMs, LatencyTracker

MS_NS = 1_000_000


def conversation(latencies_ms, prebuffer_ms=80):
    """A tracker of frames that were each answered after its latency; None is never answered."""
    tracker = LatencyTracker(prebuffer_ms)
    for index in range(len(latencies_ms)):
        tracker.record_sent(80.0 * index, 80 * MS_NS * index)
    for index, latency_ms in enumerate(latencies_ms):
        if latency_ms is not None:
            tracker.record_received(80.0 * index, (80 * index + latency_ms) * MS_NS)
    return tracker


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_latency_is_receipt_minus_capture(latencies_ms):
    """Percentiles (nearest rank) are those of receipt less capture, frame by frame."""
    latency = conversation(latencies_ms).report(1000, "").latency_ms
    expected = np.percentile(latencies_ms, (50, 95, 99, 100), method="inverted_cdf")
    assert np.allclose((latency.p50, latency.p95, latency.p99, latency.max), expected, atol=0.001)


def test_without_an_answer_there_is_no_latency():
    """Percentiles are None, not zeros that would look like good ones."""
    assert conversation([None, None]).report(1000, "").latency_ms == LatencyMs()


def test_underruns_are_gaps_in_playback():
    """After 20 ms and a prebuffer of 80 ms, an answer later than 100 ms is a gap, and so is a missing one."""
    report = conversation([20, 100, 101, None, 90, 500, 20]).report(1000, "")
    assert report.underruns == 3
    assert not report.in_order


def test_expected_frames_are_those_sent_less_delay_and_drops():
    """Frames sent, less those answered, dropped, or still inside the model's delay of two."""
    tracker = conversation([None, None, 20, 20, None, None, None])
    tracker.model = GREETING.model
    assert tracker.frames_expected == 3
    tracker.dropped["audio"] += 1
    assert tracker.frames_expected == 2


def test_an_unfinished_utterance_is_part_of_the_text():
    """Finished utterances are lines; an unfinished one is the last line."""
    tracker = LatencyTracker(80)
    for text, final in [("a", False), ("a b", True), ("c", False), ("c d", False)]:
        tracker.record_text(text, final=final)
    assert tracker.report(1006, "").text == "a b\nc d"
    tracker.record_text("c d e", final=True)
    assert tracker.report(1006, "").text == "a b\nc d e"


def test_a_pause_is_no_gap():
    """Neither of the connection nor of a session that was put back; the frames in between were not sent."""
    for pause in (LatencyTracker.record_disconnect, LatencyTracker.record_continued):
        tracker = LatencyTracker(80)
        for index in range(4):
            tracker.record_sent(index, index * FRAME_NS)
            tracker.record_received(index, index * FRAME_NS + 1)
        pause(tracker)
        for index in range(4, 8):
            at_ns = (index + 50) * FRAME_NS
            tracker.record_sent(index, at_ns)
            tracker.record_received(index, at_ns + 1)
        assert tracker.report(1000, "").underruns == 0
