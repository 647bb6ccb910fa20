"""The exceptions of the project, grouped by whose fault they are.

* `StartupError` — the user or the machine, before a socket opens. Carries the process's exit code.
    * `ConfigError` (2) — a configuration key or a command-line argument is unknown or invalid.
    * `WeightsError` (3) — a checkpoint is missing, malformed or does not match its config.
        * `TensorMismatchError` — lists every missing, unexpected or wrongly shaped tensor.
        * `UnsupportedModelError` — the model is recognised but cannot be served.
        * `HubError` — a repository cannot be reached, may not be read or lacks a file.
    * `AudioFileError` (2) — an audio file cannot be read or written.
    * `OutputError` (2) — another output file cannot be written.
    * `PortInUseError` (4) — another process listens on the address.
    * `ServiceError` (1) — the system's service manager refused a command.
        * `NoServiceManagerError` — there is none here, or this session cannot reach it.
* `PeerError` — the other side of one connection. Ends that session; logged as info.
    * `RemoteProtocolError`, `RefusedPacketError` — packet protocol violations (`pipeline.protocol.faults`).
* `SessionRefusedError` — no fault: the server is full, draining or not ready yet.
* `SessionsActiveError` — no fault: the operation needs a server without sessions.
* `HubFileError` — the hub proxy cannot serve a file; its `code` shows whose fault it is.
* `SessionError` — the server, limited to one session. Ends it; logged as error.
    * `LocalProtocolError` — the server was about to violate the packet protocol.
    * `LaneFailedError` — a model failed on the session's lane.
* `BrokenInvariantError` (70) — the server, with its state no longer trustworthy. Ends the process.
    * `StateLostError` — a model failure left the state of every lane unusable.
    * `ThreadStalledError` — a model thread does not return from a call.
    * `RanksLostError` — a process that shares the model has exited or stopped responding.
    * `WeightsLostError` — a checkpoint was cut short while it was in use; also a `WeightsError`.

Classes carry fields; no code matches on message text. The two exit codes that belong to no `StartupError`
are constants: `EXIT_BROKEN_INVARIANT` and `EXIT_INTERRUPTED`.
"""

import difflib
import signal
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, Literal

EXIT_BROKEN_INVARIANT: Final = 70
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for a message about an unknown name, or nothing where no known one is close."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


class StartupError(Exception):
    """The process cannot start. The message is one sentence for stderr; `exit_code` ends the process."""

    exit_code: ClassVar[int]


class ConfigError(StartupError):
    """A setting or an argument is wrong. `key` is its dotted path or the argument's name; may be empty."""

    exit_code = 2

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class OutputError(StartupError):
    """An output file cannot be written; what was there before still is."""

    exit_code = 2

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class AudioFileError(StartupError):
    """An audio file cannot be read or written."""

    exit_code = 2

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class WeightsError(StartupError):
    """A checkpoint file is missing, malformed or does not match its config."""

    exit_code = 3

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class TensorMismatchError(WeightsError):
    """The tensors of a checkpoint do not match the model. Lists all of them, not only the first.

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
            parts.append("unexpected " + ", ".join(self.extra))
        if self.misshaped:
            parts.append(
                "wrong shape "
                + ", ".join(f"{n} (expected {list(e)}, found {list(f)})" for n, e, f in self.misshaped)
            )
        super().__init__(path, "; ".join(parts))


class UnsupportedModelError(WeightsError):
    """The checkpoint is recognised, but this server cannot run it."""


class VoiceError(WeightsError):
    """A voice file or recording is damaged, or unsuitable. `path` is its name."""


class HubError(WeightsError):
    """A repository cannot be fetched. The message includes what to do; `path` is its address."""


class PortInUseError(StartupError):
    """Another process listens on the address.

    key: the setting that chooses the port. user: who has the port, where that is known. advice: how to choose
    another.
    """

    exit_code = 4

    def __init__(
        self, host: str, port: int, key: str = "server.port", *, user: str = "", advice: str = ""
    ) -> None:
        advice = advice or f"choose another with --set {key}=N"
        super().__init__(f"{host}:{port} is in use{f' by {user}' if user else ''}; {advice}")
        self.host = host
        self.port = port
        self.key = key


class ServiceError(StartupError):
    """The user's service manager is unavailable or refused a command; the message quotes its output."""

    exit_code = 1


class NoServiceManagerError(ServiceError):
    """There is no service manager here, or this session cannot reach it."""


class PeerError(Exception):
    """The peer violated the protocol; only its own session ends."""


RefusalCode = Literal["full", "not_ready", "draining"]


class SessionRefusedError(Exception):
    """No session can be opened now. `retry_after_ms`: when to try again."""

    def __init__(self, code: RefusalCode, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.retry_after_ms = retry_after_ms


HubFileErrorCode = Literal[
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


class HubFileError(Exception):
    """The hub proxy cannot serve a file.

    hub_status: the hub's own HTTP status where it is more specific than `code`. retry_after_ms: when to
    try again, where that is known.
    """

    def __init__(
        self,
        code: HubFileErrorCode,
        message: str,
        *,
        hub_status: int | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code: HubFileErrorCode = code
        self.hub_status = hub_status
        self.retry_after_ms = retry_after_ms


class PromptError(Exception):
    """The voice or role that a client asks for is unknown, too long, or impossible with this model."""


class SessionsActiveError(Exception):
    """The operation needs an idle server, but sessions are open."""


class SessionError(Exception):
    """One session cannot continue because of a fault in the server."""


class BrokenInvariantError(Exception):
    """An internal invariant does not hold; the process exits with `EXIT_BROKEN_INVARIANT`."""


class StateLostError(BrokenInvariantError):
    """A model failure left the state of every lane unusable."""


class LaneFailedError(SessionError):
    """A model failed on this session's lane; the other lanes are unaffected."""


class ThreadStalledError(BrokenInvariantError):
    """Model thread `thread` has been inside one call for more than `stall_s` seconds."""

    def __init__(self, thread: str, stall_s: float) -> None:
        super().__init__(f"the {thread} thread has not returned for {stall_s:g} s")
        self.thread = thread
        self.stall_s = stall_s


class RanksLostError(BrokenInvariantError):
    """Another rank of the same model has exited or stopped responding; the message has the cause."""


class WeightsLostError(BrokenInvariantError, WeightsError):
    """A checkpoint that is in use was cut short, or its disk failed: what is computed now is worth nothing.

    Its exit code is that of a broken invariant, after which service managers start the server again.
    """

    exit_code = EXIT_BROKEN_INVARIANT

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            "a part of it is gone while it is in use: it was written to, or its disk failed; "
            "replace a checkpoint instead of writing to it",
        )
