"""Turns the recording of one session on and off, and informs its client.

Neighbours: `recorder` writes the files; `session` calls this with whatever its tokens depend on.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from actors.sessions.recorder import Recorder, Recording
from pipeline.protocol.metadata import ErrorNotice, RecordingNotice, ServerMetadata
from pipeline.values import Pcm, Persona, Prompt, SamplingParams

BEGUN_MAX: Final = 8  # recordings of one session, of which all but the last were taken back


class RecordingSwitch:
    """The recording of one session, if it has one. While it is off, every `record_*` does nothing.

    Args:
        recorder: writes the recordings; None where this server has none.
        session_id: the name of the recording.
        send_metadata: sends a notice to the client.
    """

    def __init__(
        self, recorder: Recorder | None, session_id: str, send_metadata: Callable[[ServerMetadata], None]
    ) -> None:
        self._recorder = recorder
        self._session_id = session_id
        self._send_metadata = send_metadata
        self._recording: Recording | None = None
        self._begun = 0

    def turn_on(
        self, sampling: SamplingParams, frames_in: int, persona: Persona, prompt: Prompt | None
    ) -> None:
        """Begin a recording; refused once the session has `frames_in`, because it could not be replayed.

        `persona` and `prompt`: what the session begins with.
        """
        if self._recorder is None:
            self._send_metadata(ErrorNotice("not_recorded", "this server does not record"))
        elif frames_in:
            self._send_metadata(
                ErrorNotice("not_recorded", "a recording has to begin before the first frame")
            )
        elif self._recording is None and self._begun >= BEGUN_MAX:
            self._send_metadata(ErrorNotice("not_recorded", "this session was switched on and off too often"))
        elif self._recording is None:
            self._begun += 1
            recording = self._recorder.begin(
                self._session_id, self._report_abort, sampling=dataclasses.asdict(sampling)
            )
            self._recording = recording
            self.record_prompted(persona, prompt)
            if recording.is_whole:
                self.announce()
            else:
                self._report_abort("the disk cannot keep up")

    def turn_off(self, reason: str, frames_in: int) -> None:
        """End the recording, which has `frames_in` frames; one without any that is not wanted is removed."""
        if self._recording is not None:
            if reason == "asked" and not frames_in:
                self._recording.discard()
            else:
                self._recording.end(reason, frames_in)
            self._recording = None
            self._send_metadata(RecordingNotice(on=False))

    def _report_abort(self, problem: str) -> None:
        if self._recording is None:
            return  # the session has ended, or the recording has not quite begun
        self._recording.end("aborted")
        self._recording = None
        self._send_metadata(ErrorNotice("not_recorded", f"the recording has ended early: {problem}"))
        self._send_metadata(RecordingNotice(on=False))

    def announce(self) -> None:
        """Remind the client that the recording is on, if it is."""
        if self._recording is not None:
            self._send_metadata(RecordingNotice(on=True, name=self._recording.name))

    def record_audio(self, pcm: Pcm) -> None:
        """The next frame, `pcm [1920]`."""
        if self._recording is not None:
            self._recording.add_audio(pcm)

    def record_prompted(self, persona: Persona, prompt: Prompt | None) -> None:
        """The session begins with this; `key` is None for nothing."""
        if self._recording is not None:
            key = None if prompt is None else prompt.key
            self._recording.add_event("prompted", key=key, **dataclasses.asdict(persona))

    def record_configured(self, frame: int, sampling: SamplingParams) -> None:
        """The sampling changed before this frame."""
        if self._recording is not None:
            self._recording.add_event("configured", frame=frame, sampling=dataclasses.asdict(sampling))

    def record_dropped(self, frame: int, before: str) -> None:
        """This frame was dropped before a stage."""
        if self._recording is not None:
            self._recording.add_event("dropped", frame=frame, before=before)
