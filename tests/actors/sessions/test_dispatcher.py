"""Laws of the line's last actor."""

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


class Listener:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.heard: list = []

    def deliver(self, frame: AgentFrame) -> None:
        self.heard.append(frame.index)

    def lane_closed(self, text) -> None:
        self.heard.append(text)


async def test_each_lane_reaches_its_holder_until_it_comes_out_closed():
    """Frames go to whoever holds the lane; its end goes there last, and frees the lane."""
    inbox: Channel[UserFrame] = Channel("inbox", 100, lane_frames=8)
    out: Channel[AgentFrame] = Channel("out", 100, lane_frames=8)
    admission = Admission(inbox, lanes=2, queue=0)
    admission.open()
    dispatcher = Dispatcher(out, admission)
    listeners = [Listener(), Listener()]
    for listener in listeners:
        dispatcher.attach(admission.request().open_lane(SamplingParams()), listener)
    last = (TextFinal("bye"),)
    for lane, index, batch_s in ((0, 0, BUDGET_S / 2), (1, 0, BUDGET_S * 2), (0, 1, BUDGET_S)):
        header = FrameHeader(lane, index, 0.0, trio.current_time(), batch_s, batch_s)
        out.put_nowait(AgentFrame(header, (), None))
    for event in (LaneOpened(0, SamplingParams()), LaneClosed(0, last)):
        out.put_nowait(event)
    out.close()
    await dispatcher.run()
    assert [listener.heard for listener in listeners] == [[0, 1, last], [0]]
    assert (dispatcher.frames, dispatcher.over_budget) == (3, 1)
    assert admission.request().lane == 0
