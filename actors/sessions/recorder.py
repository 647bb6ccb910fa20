"""What a session asked to be recorded is on disk when it ends, and no session ever waits for a disk.

A bundle is a folder: `audio.f32`, every frame that was accepted, and `session.jsonl`, one object
a line: how the session began, each change of sampling and each frame that was left out, by the
number of the frame at which it happened, and how it ended. That is all that its tokens depend
on: `pipeline.cli.offline --replay` makes them again. A bundle without its last line, or whose last
line says so, is incomplete.

The session posts; one task writes, on a thread. Where it cannot keep up, the bundle is given up.
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import structlog
import trio

from pipeline.values import Pcm

FORMAT: Final = 1
WAITING_ITEMS: Final = 512  # of all sessions: 4 MB, or 40 s of one session's audio
CLOSING_S: Final = 2.0

log = structlog.get_logger()


class Recording:
    """One session's bundle in the making."""

    def __init__(self, recorder: "Recorder", folder: Path) -> None:
        self.folder = folder
        self.is_whole = True
        self._recorder = recorder

    @property
    def name(self) -> str:
        """What it is called among the bundles."""
        return self.folder.name

    def hear(self, pcm: Pcm) -> None:
        """The next frame, `pcm [1920]`."""
        self._post(pcm.astype("<f4").tobytes())

    def note(self, kind: str, **facts: object) -> None:
        """One line."""
        self._post(_line(kind, facts))

    def end(self, reason: str, frames: int) -> None:
        """The last line."""
        facts = {"reason": reason, "frames": frames, "complete": self.is_whole}
        self._recorder.post(_Item(self, _line("ended", facts), last=True))

    def _post(self, content: "bytes | str") -> None:
        if self.is_whole and not self._recorder.post(_Item(self, content)):
            self.is_whole = False
            log.warning("recording_given_up", bundle=self.name, problem="the disk cannot keep up")


class _Item(NamedTuple):
    recording: Recording
    content: bytes | str  # audio, or a line
    last: bool = False


class Recorder:
    """Writes the bundles of `model` under `folder`. `digest` says of which weights; it may take its time."""

    def __init__(self, folder: Path, model: str, digest: Callable[[], str]) -> None:
        self._folder = folder
        self._model = model
        self._digest = digest
        self._waiting: deque[_Item] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._patience = trio.CancelScope(shield=True)  # around what is being written
        self._closing = self._abandoned = False
        self._open: dict[Recording, tuple[BinaryIO, BinaryIO]] = {}
        self._failed: set[Recording] = set()

    def begin(self, session: str, **facts: object) -> Recording:
        """A new bundle; `facts` are its first line."""
        recording = Recording(self, self._folder / session)
        recording.note("began", format=FORMAT, session=session, model=self._model, **facts)
        return recording

    def post(self, item: _Item) -> bool:
        """Whether there is room; for a last line there is always."""
        if len(self._waiting) >= WAITING_ITEMS and not item.last:
            return False
        self._waiting.append(item)
        self._arrived.unpark_all()
        return True

    async def run(self) -> None:
        """Write what comes; cancelled, what waits is still written and every file closed, for a while.

        A disk that takes longer than that is left to its thread.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_all)
            try:
                await trio.sleep_forever()
            finally:
                self._closing = True
                self._patience.deadline = trio.current_time() + CLOSING_S
                self._arrived.unpark_all()

    async def _write_all(self) -> None:
        with self._patience:
            try:
                while self._waiting or not self._closing:
                    if not self._waiting:
                        await self._arrived.park()
                        continue
                    items = [self._waiting.popleft() for _ in range(len(self._waiting))]
                    await trio.to_thread.run_sync(self._write, items, abandon_on_cancel=True)
            finally:
                await trio.to_thread.run_sync(self._close_all, abandon_on_cancel=True)
        if self._patience.cancelled_caught:
            self._abandoned = True
            log.warning("recordings_cut", problem="the disk did not keep up until the end")

    def _write(self, items: list[_Item]) -> None:
        """On a thread."""
        for item in items:
            if item.recording in self._failed:
                self._failed -= {item.recording} if item.last else set()
                continue
            try:
                self._write_one(item)
            except OSError as error:
                self._give_up(item.recording, error)
                self._failed |= set() if item.last else {item.recording}
        if self._abandoned:
            self._close_all()  # nobody else does

    def _write_one(self, item: _Item) -> None:
        recording = item.recording
        if recording not in self._open:
            recording.folder.mkdir(parents=True, mode=0o700)
            files = (
                (recording.folder / "audio.f32").open("xb"),
                (recording.folder / "session.jsonl").open("xb"),
            )
            self._open[recording] = files
            files[1].write(_line("weights", {"digest": self._digest()}).encode())
        audio, lines = self._open[recording]
        if isinstance(item.content, bytes):
            audio.write(item.content)
        else:
            lines.write(item.content.encode())
        if item.last:
            self._close(recording)

    def _give_up(self, recording: Recording, error: OSError) -> None:
        log.warning("recording_given_up", bundle=recording.name, problem=str(error))
        recording.is_whole = False
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
                self._give_up(recording, error)


def _line(kind: str, facts: Mapping[str, object]) -> str:
    return json.dumps({"type": kind, **facts}) + "\n"
