"""Repositories on a Hugging Face hub, as files on this machine, through huggingface_hub.

A revision is resolved once, and every file comes from that one commit. Files that were downloaded
stay in the client's cache; where the hub cannot be reached, the cached copy is used, and reported.
Every failure is a `HubError`: one sentence with the address and what to do. The client itself
reads `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`.

What belongs here: requests to the hub. What does not: which files a model needs
(`pipeline.models.checkpoint.files`).
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx2
import huggingface_hub as client
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined] # documented, but not marked as exported
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from pipeline.config import HubAddress
from pipeline.errors import HubError
from pipeline.system.inputs import TOKEN_FILE_BYTES, read_bytes

# The client would send the hub information about the program, and look it up there.
constants.HF_HUB_DISABLE_TELEMETRY = True

_TIMEOUT_S: Final = 10.0
_HEAD_BYTES: Final = 1 << 20  # holds the header of every published checkpoint in one request
_LENGTH_BYTES: Final = 8  # the first bytes of a safetensors file: the length of its header
_ELSEWHERE: Final = "set HF_HOME to a folder on another disk"
_ENVIRONMENT: Final = "check HF_ENDPOINT, HF_HOME, SSL_CERT_FILE and the proxy variables of the environment"
_TOKEN_VARIABLES: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Access:
    """How this user reaches the hub, by HF_ENDPOINT, HF_TOKEN or `hf auth login`, and HF_HUB_OFFLINE."""

    endpoint: str
    token: str | None = field(repr=False)
    offline: bool


def access() -> Access:
    """How huggingface_hub would reach the hub in this process."""
    _check_token_file()
    return Access(constants.ENDPOINT, client.get_token(), constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it downloads.

    Raises:
        ValueError: the path begins with a home folder that does not exist.
    """
    folder = Path(constants.HF_HUB_CACHE)
    if folder.parts[:1] and folder.parts[0].startswith("~"):  # the client would fail with it, in its own way
        raise ValueError(f"{folder}: there is no such home folder; set HOME, HF_HOME or HF_HUB_CACHE")
    return folder


def _check_token_file() -> None:
    """Raise an OSError where the client would wait for the token's file, or read it without an end."""
    path = Path(constants.HF_TOKEN_PATH)
    if any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        return  # these come first
    if path.is_fifo() or path.is_socket():
        raise OSError(errno.EINVAL, "not a file with a token", str(path))
    if path.exists():
        read_bytes(path, TOKEN_FILE_BYTES)


class Repository:
    """One commit of one repository.

    Attributes:
        names: of its files; if the hub did not answer, of those in the cache.
        online: whether the hub answered.
    """

    def __init__(self, address: HubAddress) -> None:
        """List the files of `address`, on the hub or, where it cannot be reached, in the cache.

        Raises:
            HubError: there is no such repository or revision, or nothing can be reached.
        """
        self.address = HubAddress(address.repo, address.revision)
        self._api = client.HfApi()
        self._sizes_bytes: dict[str, int] = {}
        self._folder: Path | None = None
        with self._failing():
            cache_folder()
        try:
            with self._failing():
                _check_token_file()
                info = self._api.model_info(
                    address.repo, revision=address.revision, timeout=_TIMEOUT_S, files_metadata=True
                )
        except _UnreachableError:
            self._folder = self._cached()
            self.names = _names_in(self._folder)
            self.online = False
            return
        self.online = True
        self._recorded = False
        self._commit = info.sha or address.revision
        self._sizes_bytes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        self.names = frozenset(self._sizes_bytes)

    def __contains__(self, name: str) -> bool:
        """Whether the repository has the file."""
        return name in self.names

    def __str__(self) -> str:
        return str(self.address)

    def path(self, name: str) -> Path:
        """The whole file `name`, downloaded if it is not in the cache.

        Raises:
            HubError: there is no such file, access was refused, or the download failed.
        """
        if name not in self:
            raise self.absent(name)
        if self._folder is not None:
            return self._folder / name
        try:
            with self._failing(name):
                if not self._recorded:
                    # The cache records the commit of the revision, to find it again without network.
                    self._api.resolve_revision(self.address.repo, revision=self.address.revision)
                    self._recorded = True
                cached = self._in_cache(name)
                if cached is not None:
                    return cached
                self._require_space(name)
                return Path(self._api.hf_hub_download(self.address.repo, name, revision=self._commit))
        except _UnreachableError as error:
            raise self._error(f"the download of {name} broke off ({error}); run it again") from None

    def head(self, name: str, folder: Path) -> Path:
        """A sparse file in `folder` with the size and header of `name`; the whole file if it is cached.

        The header describes all tensors of a safetensors file. The rest is a hole, which takes no
        disk space.

        Raises:
            HubError: as `path`.
        """
        if name not in self or self._folder is not None:
            return self.path(name)
        cached = self._in_cache(name)
        if cached is not None:
            return cached
        target = folder / name
        try:
            with self._failing(name):
                beginning = self._read(name, _HEAD_BYTES)
                header_bytes = _LENGTH_BYTES + int.from_bytes(beginning[:_LENGTH_BYTES], "little")
                if len(beginning) < header_bytes < self._sizes_bytes[name]:
                    beginning = self._read(name, header_bytes)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.write(beginning)
                    file.truncate(max(self._sizes_bytes[name], len(beginning)))
        except _UnreachableError as error:
            raise self._error(f"the header of {name} did not arrive ({error}); run it again") from None
        return target

    def absent(self, what: str) -> HubError:
        """The error for a missing file; `what` names it."""
        if self._folder is not None:
            return self._error(f"{what} is not in the cache, and {self._why_offline()}")
        held = ", ".join(sorted(self.names)[:20]) or "nothing"
        return self._error(f"has no {what}; it has {held}")

    def _read(self, name: str, limit_bytes: int) -> bytes:
        url = client.hf_hub_url(self.address.repo, name, revision=self._commit, endpoint=self._api.endpoint)
        # Without an encoding, since the range is to count bytes of the file.
        headers = {"Range": f"bytes=0-{limit_bytes - 1}", "Accept-Encoding": "identity"}
        read = b""
        with get_session().stream(
            "GET", url, headers=build_hf_headers() | headers, timeout=_TIMEOUT_S
        ) as answer:
            hf_raise_for_status(answer)
            for chunk in answer.iter_bytes(_HEAD_BYTES):
                read += chunk
                if len(read) >= limit_bytes:
                    break
        return read[:limit_bytes]

    def _in_cache(self, name: str) -> Path | None:
        found = client.try_to_load_from_cache(self.address.repo, name, revision=self._commit)
        return Path(found) if isinstance(found, str) else None

    def _cached(self) -> Path:
        try:
            found = self._api.snapshot_download(
                self.address.repo, revision=self.address.revision, local_files_only=True
            )
        except LocalEntryNotFoundError:
            raise self._error(f"is not in the cache, and {self._why_offline()}") from None
        return Path(found)

    def _require_space(self, name: str) -> None:
        needed_bytes = self._sizes_bytes[name]
        cache = cache_folder()
        existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
        free_bytes = shutil.disk_usage(existing).free
        if free_bytes < needed_bytes:
            raise self._error(
                f"{name} needs {needed_bytes / 1e9:.1f} GB of disk and {cache} has {free_bytes / 1e9:.1f} GB "
                f"left; make room, or {_ELSEWHERE}"
            )

    def _why_offline(self) -> str:
        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set: unset it to fetch"
        return f"{self._api.endpoint} cannot be reached: check the network (or HF_ENDPOINT) and run it again"

    def _error(self, problem: str) -> HubError:
        return HubError(str(self.address), problem)

    @contextmanager
    def _failing(self, name: str = "") -> Iterator[None]:
        """Turn errors of the client into a `HubError`, or `_UnreachableError` if the hub did not answer."""
        try:
            yield
        except HFValidationError:
            raise self._error("no repository can have that name") from None
        except OfflineModeIsEnabled as error:
            raise _UnreachableError("HF_HUB_OFFLINE is set") from error
        except (LocalEntryNotFoundError, RevisionResolutionError) as error:  # the hub did not answer
            raise _UnreachableError(_first_line(error.__cause__ or error)) from error
        except HfHubHTTPError as error:
            if error.response.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
                raise _UnreachableError(f"status {error.response.status_code}") from error
            raise self._error(self._refusal(error, name)) from None
        except httpx2.HTTPError as error:
            raise _UnreachableError(_first_line(error)) from error
        except RecursionError:
            raise self._error(f"{self._api.endpoint} answered with JSON that is nested too deep") from None
        except (ImportError, httpx2.InvalidURL, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None:  # the client's own: an unexpected length
                raise _UnreachableError(_first_line(error)) from error
            raise self._error(self._own_fault(error, name)) from None

    def _own_fault(self, error: Exception, name: str) -> str:
        """What to do where this machine is at fault: its disk, or the settings that the client reads."""
        if not isinstance(error, OSError):  # a SOCKS proxy, a proxy of an unknown scheme, an endpoint
            return f"the hub client cannot be used ({_first_line(error)}); {_ENVIRONMENT}"
        if isinstance(error, FileNotFoundError) or not name:  # certificates, or a cache that cannot be made
            return f"the hub client lacks a file ({_first_line(error)}); {_ENVIRONMENT}"
        room = f"; make room, or {_ELSEWHERE}" if error.errno in _NO_SPACE else ""
        return f"{name} cannot be written ({error.strerror}: {error.filename}){room}"

    def _refusal(self, error: HfHubHTTPError, name: str) -> str:
        """What to do about a response that refuses access."""
        page, status = f"{self._api.endpoint}/{self.address.repo}", error.response.status_code
        if isinstance(error, GatedRepoError):
            if status == httpx2.codes.UNAUTHORIZED:
                todo = f"accept its terms at {page} and set HF_TOKEN to a token of that account"
            else:
                todo = f"the account of your token has no access yet; ask for it at {page}"
            return f"is gated: {todo}"
        if isinstance(error, RevisionNotFoundError):
            return f"has no revision {self.address.revision}; {page} lists them"
        if isinstance(error, RepositoryNotFoundError):
            return (
                f"no such repository on {self._api.endpoint}, or a private one: check the name, or set "
                "HF_TOKEN to a token that may read it"
            )
        if isinstance(error, EntryNotFoundError):
            return f"has no {name}"
        if status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
            return (
                f"{self._api.endpoint} refuses your token (status {status}): set HF_TOKEN to one that is "
                "valid and may read this repository"
            )
        return f"{self._api.endpoint} answered with status {status}; try again"


class _UnreachableError(Exception):
    """The hub did not answer, or not completely."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _names_in(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
