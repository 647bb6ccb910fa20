"""Recordings of sessions, written by one task, so that no session ever waits for a disk.

A recording is a folder: `audio.f32`, every frame that was accepted, and `session.jsonl`, one
object per line: how the session began, each change of sampling and each frame that was dropped,
with the index of the frame at which it happened, and how the session ended. Its tokens depend on
nothing else: `packet-voice offline --replay` computes them again. A recording without a last
line, or whose last line reports it, is incomplete.

Sessions post items; one task writes them, on a thread, and flushes them at once. If the disk cannot
keep up or refuses, or a bound is reached, the recording is aborted: its client is informed at once, and
continues.
"""

import contextlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import structlog
import trio

from pipeline.config import Replay
from pipeline.values import Pcm

FORMAT: Final = 2  # `pipeline.audio.recordings` reads it
WAITING_ITEMS: Final = 512  # of all sessions: 4 MB, or 40 s of one session's audio
_SLOW: Final = "the disk cannot keep up"
CLOSING_S: Final = 2.0

log = structlog.get_logger()


class Recording:
    """A recording that is being made. `is_whole` until an item of it was lost.

    on_abort: called once, with the reason, if the rest of it is not recorded.
    """

    def __init__(self, recorder: "Recorder", folder: Path, on_abort: Callable[[str], None]) -> None:
        self.folder = folder
        self.is_whole = True
        self.size_bytes = 0
        self._recorder = recorder
        self._on_abort = on_abort

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    def add_audio(self, pcm: Pcm) -> None:
        """Write the next frame, `pcm [1920]`."""
        self._post(pcm.astype("<f4").tobytes())

    def add_event(self, kind: str, **facts: object) -> None:
        """Write one line."""
        self._post(_line(kind, facts))

    def end(self, reason: str, frames: int | None = None) -> None:
        """Write the last line, and close the files; `frames` is None where only the audio tells."""
        facts = {"reason": reason, "frames": frames, "complete": self.is_whole}
        self._recorder.post(_Item(self, _line("ended", facts), last=True))

    def discard(self) -> None:
        """Nothing was said, and it is not wanted any more: nothing of it stays."""
        self._recorder.post(_Item(self, "", last=True, discard=True))

    def abort(self, problem: str) -> None:
        """Record nothing more; only the first call has an effect."""
        if self.is_whole:
            self.is_whole = False
            log.warning("recording_aborted", recording=self.name, problem=problem)
            self._on_abort(problem)

    def _post(self, content: "bytes | str") -> None:
        if self.is_whole and not self._recorder.post(_Item(self, content)):
            self.abort(_SLOW)


class _Item(NamedTuple):
    recording: Recording
    content: bytes | str  # audio, or a line
    last: bool = False
    discard: bool = False  # the last: remove what was written


class _BoundError(Exception):
    """A recording would exceed a bound; the message is for its user."""


class Recorder:
    """Writes recordings of `model` under a folder, within the bounds of `settings`.

    digest: identifies the model's weights; it may block.
    """

    def __init__(self, settings: Replay, model: str, digest: Callable[[], str]) -> None:
        assert settings.folder is not None, "no folder for recordings is configured"
        self._folder = Path(settings.folder)
        self._recordings_max = settings.recordings
        self._recording_bytes_max = settings.recording_bytes
        self._model = model
        self._digest = digest
        self._waiting: deque[_Item] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._writing = trio.CancelScope(shield=True)  # has a deadline once the recorder is closing
        self._closing = self._abandoned = False
        self._open: dict[Recording, tuple[BinaryIO, BinaryIO]] = {}
        self._failed: set[Recording] = set()
        self._problems: dict[Recording, str] = {}  # of those that failed since sessions were last informed

    def begin(
        self, session: str, on_abort: Callable[[str], None] = lambda _: None, **facts: object
    ) -> Recording:
        """Begin a recording; `facts` go into its first line, `on_abort` see `Recording`."""
        recording = Recording(self, self._folder / session, on_abort)
        recording.add_event("began", format=FORMAT, session=session, model=self._model, **facts)
        return recording

    def post(self, item: _Item) -> bool:
        """Queue an item; False if there is no room, which there always is for a last line."""
        if len(self._waiting) >= WAITING_ITEMS and not item.last:
            return False
        self._waiting.append(item)
        self._arrived.unpark_all()
        return True

    async def run(self) -> None:
        """Write what is posted. Cancelled, write what waits and close every file, within `CLOSING_S`.

        A disk that takes longer than that is left to its thread.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_all)
            try:
                await trio.sleep_forever()
            finally:
                self._closing = True
                self._writing.deadline = trio.current_time() + CLOSING_S
                self._arrived.unpark_all()

    async def _write_all(self) -> None:
        with self._writing:
            try:
                while self._waiting or not self._closing:
                    if not self._waiting:
                        await self._arrived.park()
                        continue
                    items = [self._waiting.popleft() for _ in range(len(self._waiting))]
                    await trio.to_thread.run_sync(self._write, items, abandon_on_cancel=True)
                    self._tell()
            finally:
                await trio.to_thread.run_sync(self._close_all, abandon_on_cancel=True)
                self._tell()
        if self._writing.cancelled_caught:
            self._abandoned = True
            log.warning("recordings_truncated", problem="the disk did not keep up until the end")

    def _tell(self) -> None:
        """Abort what failed; on Trio's thread, because sessions are informed."""
        while self._problems:
            recording, problem = self._problems.popitem()
            recording.abort(problem)

    def _write(self, items: list[_Item]) -> None:
        """On a thread."""
        for item in items:
            if item.recording in self._failed:
                self._failed -= {item.recording} if item.last else set()
                continue
            try:
                self._write_one(item)
            except (OSError, _BoundError) as error:
                self._fail(item.recording, error)
                self._failed |= set() if item.last else {item.recording}
        self._flush({item.recording for item in items})
        if self._abandoned:
            self._close_all()  # the task that would have closed them is gone

    def _write_one(self, item: _Item) -> None:
        recording = item.recording
        if recording not in self._open:
            self._check_room()
            recording.folder.mkdir(parents=True, mode=0o700)
            files = (
                (recording.folder / "audio.f32").open("xb"),
                (recording.folder / "session.jsonl").open("xb"),
            )
            self._open[recording] = files
            files[1].write(_line("weights", {"digest": self._digest()}).encode())
        audio, lines = self._open[recording]
        file, content = (
            (audio, item.content) if isinstance(item.content, bytes) else (lines, item.content.encode())
        )
        recording.size_bytes += len(content)
        if recording.size_bytes > self._recording_bytes_max and not item.last:
            size_mb = self._recording_bytes_max / 1e6
            raise _BoundError(f"it has reached the size that replay.recording_bytes allows, {size_mb:.0f} MB")
        file.write(content)
        if item.last:
            self._close(recording)
        if item.discard:
            shutil.rmtree(recording.folder)

    def _check_room(self) -> None:
        """Whether there may be one more recording.

        Raises:
            _BoundError: there are as many as there may be.
        """
        with contextlib.suppress(FileNotFoundError):
            present = sum(1 for _ in self._folder.iterdir())
            if present >= self._recordings_max:
                raise _BoundError(
                    f"there are {present} recordings, and replay.recordings allows no more; remove some"
                )

    def _flush(self, recordings: Collection[Recording]) -> None:
        for recording in recordings:
            try:
                for file in self._open.get(recording, ()):
                    file.flush()
            except OSError as error:
                self._fail(recording, error)
                self._failed.add(recording)

    def _fail(self, recording: Recording, error: OSError | _BoundError) -> None:
        """End a recording that cannot be continued; on a thread."""
        if isinstance(error, OSError):
            self._problems[recording] = error.strerror or str(error)
        else:
            self._problems[recording] = str(error)
            if recording in self._open:
                facts = {"reason": "too_large", "complete": False}
                with contextlib.suppress(OSError):
                    self._open[recording][1].write(_line("ended", facts).encode())
        with contextlib.suppress(OSError):  # what could not be written cannot be flushed either
            self._close(recording)

    def _close(self, recording: Recording) -> None:
        with contextlib.ExitStack() as closing:
            for file in self._open.pop(recording, ()):
                closing.callback(file.close)

    def _close_all(self) -> None:
        """On a thread, at the end."""
        for recording in list(self._open):
            try:
                self._close(recording)
            except OSError as error:
                self._fail(recording, error)


def _line(kind: str, facts: Mapping[str, object]) -> str:
    return json.dumps({"type": kind, **facts}) + "\n"
