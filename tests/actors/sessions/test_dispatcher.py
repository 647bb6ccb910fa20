"""The dispatcher, the last actor of the engine."""

import trio

from actors.runtime.channel import Channel
from actors.sessions.admission import Admission
from actors.sessions.dispatcher import BUDGET_S, Dispatcher
from pipeline.values import (
    AgentFrame,
    FrameHeader,
    LaneClosed,
    LaneOpened,
    SamplingParams,
    TextFinal,
    UserFrame,
)


class Sink:
    """Keeps what is delivered."""

    def __init__(self) -> None:
        self.received: list = []

    def deliver(self, frame: AgentFrame) -> None:
        self.received.append(frame.index)

    def lane_closed(self, text) -> None:
        self.received.append(text)


async def test_frames_go_to_the_lanes_holder_until_the_lane_comes_out_closed():
    """The closing is delivered last, and frees the lane."""
    inbox: Channel[UserFrame] = Channel("inbox", 100, lane_frames=8)
    out: Channel[AgentFrame] = Channel("out", 100, lane_frames=8)
    admission = Admission(inbox, lanes=2, queue=0)
    admission.open()
    dispatcher = Dispatcher(out, admission)
    sinks = [Sink(), Sink()]
    for sink in sinks:
        dispatcher.attach(admission.request().open_lane(SamplingParams()), sink)
    last = (TextFinal("bye"),)
    for lane, index, batch_s in ((0, 0, BUDGET_S / 2), (1, 0, BUDGET_S * 2), (0, 1, BUDGET_S)):
        header = FrameHeader(lane, index, 0.0, trio.current_time(), batch_s, batch_s)
        out.put_nowait(AgentFrame(header, (), None))
    for event in (LaneOpened(0, SamplingParams()), LaneClosed(0, last)):
        out.put_nowait(event)
    out.close()
    await dispatcher.run()
    assert [sink.received for sink in sinks] == [[0, 1, last], [0]]
    assert (dispatcher.frames, dispatcher.over_budget) == (3, 1)
    assert admission.request().lane == 0
