"""Audio that a client may send ahead of real time, and the silence in which its answer is given.

A model advances with the audio that comes in. Some clients send a whole question at once, and nothing
while they wait for the answer: here it is passed on in real time, with silence behind it where the dialect
asks for that. Audio that comes in real time passes at once, and so does what was held up on its way.

Neighbours: `actors.ingress` puts audio in; `session` takes it.
"""

from collections import deque
from typing import Final

import trio

from actors.sessions.session import Session
from pipeline.protocol.dialect import Dialect
from pipeline.protocol.events import AudioReceived
from pipeline.units import FRAME_MS, FRAME_SAMPLES

FRAME_S: Final = FRAME_MS / 1000
CREDIT_S: Final = 4 * FRAME_S  # ahead of real time at the beginning of a turn
SILENCE_AFTER_S: Final = 4 * FRAME_S  # without audio
FRAME_BYTES: Final = 4 * FRAME_SAMPLES  # of float32
_SILENCE: Final = bytes(FRAME_BYTES)


class InputBuffer:
    """The audio of one connection on its way to its session."""

    def __init__(self, dialect: Dialect, session: Session) -> None:
        self._dialect = dialect
        self._session = session
        self._waiting: deque[bytes] = deque()
        self._capacity = int(dialect.input_buffer_s / FRAME_S)
        self._frames = 0  # that were passed on
        self._due_s = 0.0  # when the next frame would be in real time
        self._begins = True  # the next audio begins a turn
        self._news = trio.Event()

    def put(self, audio: AudioReceived) -> str | None:
        """Pass audio on, or keep it until its time; why some of it was refused, if it was."""
        frames = [
            audio.payload[begin : begin + FRAME_BYTES] for begin in range(0, len(audio.payload), FRAME_BYTES)
        ]
        room = self._capacity - len(self._waiting)
        self._waiting.extend(frames[:room])
        if self._begins:
            self._begins, self._due_s = False, max(self._due_s, trio.current_time())
        self._pass_due()
        self._news.set()
        if len(frames) <= room:
            return None
        return f"more than {self._dialect.input_buffer_s:g} s of audio ahead of real time"

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def end_turn(self) -> None:
        """The user has finished speaking: what comes next begins anew with the credit."""
        self._due_s = max(self._due_s, trio.current_time())
        self._begins = True
        self._news.set()

    async def run(self) -> None:
        """Pass on what waits, and silence, in real time, until cancelled."""
        while True:
            self._pass_due()
            now_s = trio.current_time()
            if self._waiting or self._session.awaits_persona:
                await trio.sleep(max(FRAME_S, self._due_s - CREDIT_S - now_s))
            elif not self._dialect.wants_silence:
                self._news = trio.Event()
                await self._news.wait()
            elif now_s < self._due_s + SILENCE_AFTER_S:
                await trio.sleep(self._due_s + SILENCE_AFTER_S - now_s)
            else:
                self._due_s = now_s - SILENCE_AFTER_S
                self._pass_on(_SILENCE)

    def _pass_due(self) -> None:
        """Pass on what may not be later than now; nothing before the lane has its voice and role."""
        if self._session.awaits_persona:
            return
        now_s = trio.current_time()
        while self._waiting and self._due_s <= now_s + CREDIT_S:
            self._pass_on(self._waiting.popleft())

    def _pass_on(self, payload: bytes) -> None:
        self._frames += 1
        self._due_s += FRAME_S
        audio = AudioReceived(0, float(FRAME_MS * self._frames), payload)
        self._session.receive_audio(audio, trio.current_time())
