"""Heartbeats and silence: no reply is ever answered, and nothing sleeps past its deadline."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.liveness import ANSWER_SPACING_S, Liveness


def ends(count=2):
    return [Liveness(every_s=5.0, timeout_s=15.0, now_s=0.0) for _ in range(count)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 1)),
            st.tuples(st.just("deliver"), st.integers(0, 1)),
            st.tuples(st.just("leak"), st.integers(0, 1)),
            st.tuples(st.just("wait"), st.sampled_from([0.01, 0.7, 1.0, 6.0])),
        ),
        max_size=60,
    )
)
def test_no_reply_is_ever_answered(script):
    """Between two ends a reply ends the exchange, with any delays, crossings and dropped heartbeats."""
    sides = ends()
    wires = [deque(), deque()]  # wires[i]: what is on its way to side i
    now_s = 0.0

    def deliver(to):
        what = wires[to].popleft()
        if sides[to].should_answer(now_s):
            assert what == "request"
            wires[1 - to].append("reply")

    for verb, argument in script:
        if verb == "send":
            sides[argument].record_sent(now_s)
            wires[1 - argument].append("request")
        elif verb == "wait":
            now_s += argument
        elif wires[argument]:
            if verb == "deliver":
                deliver(argument)
            else:
                wires[argument].popleft()
    left = len(wires[0]) + len(wires[1])
    deliveries = 0
    while wires[0] or wires[1]:
        now_s += 10.0  # never held back by the spacing of replies
        deliver(0 if wires[0] else 1)
        deliveries += 1
    assert deliveries <= 2 * left


def test_a_request_is_answered():
    """A heartbeat that arrives while no request of ours is open is answered, and so is the next one."""
    (end,) = ends(1)
    assert end.should_answer(0.0)
    assert end.should_answer(5.0)


def test_a_reply_closes_our_request():
    """The heartbeat that follows our own is its reply; the one after that is a request again."""
    (end,) = ends(1)
    end.record_sent(5.0)
    assert not end.should_answer(5.1)
    assert end.should_answer(5.2)


@pytest.mark.parametrize("delay_s", [0.0, 0.1, ANSWER_SPACING_S * 0.99])
def test_a_peer_that_answers_replies_gets_no_echo(delay_s):
    """Its echo of our reply comes back soon, and is not answered again."""
    (end,) = ends(1)
    assert end.should_answer(0.0)
    assert not end.should_answer(delay_s)


@given(st.integers(1, 300))
def test_answers_are_spaced_whatever_the_peer_sends(per_second):
    """However many heartbeats come in ten seconds, at most eleven are answered."""
    (end,) = ends(1)
    answered = sum(end.should_answer(i / per_second) for i in range(10 * per_second))
    assert 1 <= answered <= 11


# Seconds that are no binary fractions, for which `a - b >= c` and `a >= b + c` may differ.
seconds = st.floats(0.001, 1e6, allow_nan=False)


@given(now_s=seconds, every_s=seconds, timeout_s=seconds, sent_after_s=seconds, received_after_s=seconds)
def test_at_its_deadline_something_is_due(now_s, every_s, timeout_s, sent_after_s, received_after_s):
    """Sleeping until the deadline is enough: a waiter never wakes to find nothing to do."""
    end = Liveness(every_s=every_s, timeout_s=timeout_s, now_s=now_s)
    for _ in range(2):
        deadline_s = end.next_deadline_s()
        assert end.is_due(deadline_s) or end.is_timed_out(deadline_s)
        assert not end.is_due(now_s)
        assert not end.is_timed_out(now_s)
        now_s += max(sent_after_s, received_after_s)
        end.record_sent(now_s)
        end.record_received(now_s)


def test_silence_is_measured_from_the_last_packet():
    """Any packet starts the silence anew."""
    (end,) = ends(1)
    end.record_received(12.0)
    assert end.silence_s(14.5) == 2.5
    assert not end.is_timed_out(26.9)
    assert end.is_timed_out(27.0)
