import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.client.arithmetic_agent import GREETING

from pipeline.client.report import LatencyMs, Ledger

MS_NS = 1_000_000


def conversation(latencies_ms, prebuffer_ms=80):
    """A ledger of frames each answered after its latency; None is never answered."""
    ledger = Ledger(prebuffer_ms)
    for index in range(len(latencies_ms)):
        ledger.sent(80.0 * index, 80 * MS_NS * index)
    for index, latency_ms in enumerate(latencies_ms):
        if latency_ms is not None:
            ledger.answered(80.0 * index, (80 * index + latency_ms) * MS_NS)
    return ledger


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_latency_is_receipt_minus_capture(latencies_ms):
    """Percentiles are those of receipt less capture, frame by frame."""
    latency = conversation(latencies_ms).report(1000, "").latency_ms
    expected = np.percentile(latencies_ms, (50, 95, 99, 100))
    assert np.allclose((latency.p50, latency.p95, latency.p99, latency.max), expected, atol=0.001)


def test_nothing_answered_has_no_latency():
    """Without an answer there are no percentiles, and no zeros that look like good ones."""
    assert conversation([None, None]).report(1000, "").latency_ms == LatencyMs()


def test_underruns_are_what_a_listener_hears():
    """After 20 ms and a prebuffer of 80 ms, an answer later than 100 ms is a gap, and so is a missing one."""
    report = conversation([20, 100, 101, None, 90, 500, 20]).report(1000, "")
    assert report.underruns == 3
    assert not report.in_order


def test_what_is_owed_is_what_was_sent_less_delay_and_drops():
    """Frames sent, less those answered, dropped, or still inside the model's delay of two."""
    ledger = conversation([None, None, 20, 20, None, None, None])
    ledger.model = GREETING.model
    assert ledger.frames_owed == 3
    ledger.dropped["audio"] += 1
    assert ledger.frames_owed == 2


def test_an_utterance_left_open_is_part_of_the_text():
    """Closed utterances are lines; the last one counts as it stands."""
    ledger = Ledger(80)
    for text, final in [("a", False), ("a b", True), ("c", False), ("c d", False)]:
        ledger.told(text, final=final)
    assert ledger.report(1006, "").text == "a b\nc d"
    ledger.told("c d e", final=True)
    assert ledger.report(1006, "").text == "a b\nc d e"
