"""Every failure the project names, sorted by whose fault it is.

* `StartupError` — the user's or the machine's, before a socket opens. Has an exit code.
    * `ConfigError` (2) — a key is unknown, mistyped or out of range, or an argument is wrong.
    * `WeightsError` (3) — a checkpoint is missing, malformed or not the one described.
        * `TensorMismatchError` — names every tensor missing, left over or mis-shaped.
        * `UnsupportedModelError` — a published family that is not speech to speech, or not yet ours.
        * `HubError` — a repository cannot be reached, may not be read, or has not what it should.
    * `AudioFileError` (2) — a sound file cannot be read or written.
    * `PortInUseError` (4) — the address is taken.
    * `ServiceError` (1) — the system's service manager does not answer, or does not do what it is asked.
* `PeerError` — the other side of one connection. Ends that session, logged as info.
    * `RemoteProtocolError`, `RefusedPacketError` — of the packet protocol (`pipeline.protocol.faults`).
* `RefusedError` — nobody's: there is no room, or the models are not ready yet.
* `NotServedError` — a file of a hub cannot be given; its `code` says whose fault that is.
* `LanesOpenError` — nobody's: what was asked for needs a server without sessions.
* `SessionError` — ours, but the damage is one session. Logged as error.
    * `LocalProtocolError` — we said what the packet protocol does not allow.
    * `LaneFailedError` — a model failed on the session's lane.
* `BrokenInvariantError` (70) — ours, and nothing after it can be trusted.
    * `StateLostError` — a model failed in a way that leaves no lane's memory whole.
    * `StalledError` — a model thread does not come back from a call.
    * `RanksLostError` — the processes that share a model have lost each other.

Classes carry fields; nothing is matched by message text.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal


class StartupError(Exception):
    """The process cannot start: one sentence for stderr, and an exit code."""

    exit_code: ClassVar[int]


class ConfigError(StartupError):
    """A knob is wrong. `key` is its dotted path, or the argument's name."""

    exit_code = 2

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class AudioFileError(StartupError):
    """A sound file cannot be read or written."""

    exit_code = 2

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class WeightsError(StartupError):
    """A checkpoint file is missing, malformed, or not what its config says."""

    exit_code = 3

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class TensorMismatchError(WeightsError):
    """A checkpoint and a model disagree; all of the tensors are named, not the first.

    `misshaped` holds (name, expected shape, found shape).
    """

    def __init__(
        self,
        path: str,
        *,
        missing: Sequence[str] = (),
        extra: Sequence[str] = (),
        misshaped: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
    ) -> None:
        self.missing = tuple(missing)
        self.extra = tuple(extra)
        self.misshaped = tuple(misshaped)
        parts = []
        if self.missing:
            parts.append("missing " + ", ".join(self.missing))
        if self.extra:
            parts.append("not expected " + ", ".join(self.extra))
        if self.misshaped:
            parts.append(
                "wrong shape "
                + ", ".join(f"{n} (expected {list(e)}, found {list(f)})" for n, e, f in self.misshaped)
            )
        super().__init__(path, "; ".join(parts))


class UnsupportedModelError(WeightsError):
    """The checkpoint is recognised, and this server does not run it."""


class HubError(WeightsError):
    """A repository cannot be fetched; the sentence says what to do. `path` is its address."""


class PortInUseError(StartupError):
    """Another process listens on the address."""

    exit_code = 4

    def __init__(self, host: str, port: int, key: str = "server.port") -> None:
        super().__init__(f"{host}:{port} is in use; choose another with --set {key}=N")
        self.host = host
        self.port = port


class ServiceError(StartupError):
    """The manager of the user's services is not there, or says no; the sentence has its words."""

    exit_code = 1


class PeerError(Exception):
    """The peer broke an agreement; only its own session ends."""


RefusalCode = Literal["full", "not_ready", "draining"]


class RefusedError(Exception):
    """No session can be opened now; `retry_after_ms` says when to ask again."""

    def __init__(self, code: RefusalCode, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.retry_after_ms = retry_after_ms


NotServedCode = Literal[
    "bad_path",
    "repo_refused",
    "gated",
    "not_found",
    "too_large",
    "busy",
    "cache_full",
    "hub_error",
    "hub_unreachable",
    "hub_timeout",
    "draining",
]


class NotServedError(Exception):
    """A file of a hub cannot be given. `hub_status` is what the hub answered, where that says more."""

    def __init__(
        self,
        code: NotServedCode,
        message: str,
        *,
        hub_status: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: NotServedCode = code
        self.hub_status = hub_status
        self.retry_after_ms = retry_after_ms


class LanesOpenError(Exception):
    """A measurement of the model alone cannot run beside a session."""


class SessionError(Exception):
    """One session cannot go on, through a fault of ours."""


class BrokenInvariantError(Exception):
    """Something that must always hold did not; the process ends, exit code 70."""


class StateLostError(BrokenInvariantError):
    """What a model remembers of its lanes can no longer be trusted, of any of them."""


class LaneFailedError(SessionError):
    """A model failed on this session; its neighbours are whole."""


class StalledError(BrokenInvariantError):
    """Thread `thread` has not come back from a call for `stall_s` seconds, and cannot be made to."""

    def __init__(self, thread: str, stall_s: float) -> None:
        super().__init__(f"the {thread} thread has not returned for {stall_s:g} s")
        self.thread = thread
        self.stall_s = stall_s


class RanksLostError(BrokenInvariantError):
    """Another rank of the same model has ended, or does not answer; the sentence says which is known."""
