"""How long frames take, and which of them are underruns."""

import numpy as np
import pytest
import trio

from actors.runtime.channel import Channel
from actors.runtime.tracing import Tracer
from actors.sessions.admission import Admission
from actors.sessions.dispatcher import Dispatcher
from actors.sessions.latency import Latencies
from actors.sessions.session import Session
from pipeline.audio.framing import payload_of
from pipeline.protocol.events import AudioReceived
from pipeline.units import FRAME_SAMPLES
from pipeline.values import AgentFrame, SamplingParams, UserFrame

SILENCE = bytes(payload_of(np.zeros(FRAME_SAMPLES, np.float32)))


@pytest.mark.parametrize(("away_s", "answered_s", "underruns"), [(0.04, 0.06, 0), (0.3, 0.1, 1)])
async def test_underruns_are_counted_as_if_the_session_had_not_been_away(
    mock_clock, away_s, answered_s, underruns
):
    """A frame after the wait is an underrun if its own answer is late, however long the wait was."""
    channel = Channel[UserFrame]("user_frames", 18, lane_frames=8)
    admission = Admission(channel, lanes=1, queue=0)
    admission.open()
    session = Session(
        admission.request(),
        channel,
        SamplingParams(),
        Latencies(),
        tracer=Tracer(0),
        max_lag_s=0.4,
        recorder=None,
    )
    session.open(Dispatcher(Channel("agent_frames", 18, lane_frames=2), admission))

    def speak(index: int, answered_s: float) -> None:
        session.receive_audio(AudioReceived(index, 80.0 * index, SILENCE), trio.current_time())
        (frame,) = channel.take_batch_nowait().frames
        mock_clock.jump(answered_s)
        session.record_sent(AgentFrame(frame.header, (), None))
        mock_clock.jump(0.08 - answered_s if answered_s < 0.08 else 0)

    for index in range(5):
        speak(index, 0.02)
    mock_clock.jump(away_s)
    session.continue_after_wait()
    speak(5, answered_s)
    assert session.counters().underruns == underruns
