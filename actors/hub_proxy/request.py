"""Which file of which repository a path names, and which repositories may be requested.

A path is `org/name/resolve/revision/path/of/file`, in letters, digits and a few marks. There is one
spelling for each file: no escapes, no empty, hidden or parent segments, no query. So what is allowed,
what is cached and what the hub is asked for are always the same file.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from pipeline.errors import HubFileError

MAX_ADDRESS_CHARS: Final = 512
SEGMENTS: Final = 8  # of a file's path
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_SEGMENT: Final = r"[A-Za-z0-9_][A-Za-z0-9._+=@~-]{0,127}"
_ADDRESS: Final = re.compile(
    rf"(?P<repo>{_NAME}/{_NAME})/resolve/(?P<revision>{_NAME})/"
    rf"(?P<path>{_SEGMENT}(?:/{_SEGMENT}){{0,{SEGMENTS - 1}}})"
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class FileRef:
    """One file of a repository at a revision: a branch, a tag or a commit."""

    repo: str
    revision: str
    path: str

    @classmethod
    def parse(cls, address: str) -> "FileRef":
        """Parse `org/name/resolve/revision/path`.

        Raises:
            HubFileError: `bad_path`.
        """
        match = _ADDRESS.fullmatch(address) if len(address) <= MAX_ADDRESS_CHARS else None
        if match is None or ".." in address:
            raise HubFileError(
                "bad_path",
                "a path is org/name/resolve/revision/path, of letters, digits and . _ - + = @ ~ only",
            )
        return cls(**match.groupdict())

    def __str__(self) -> str:
        return f"{self.repo}/resolve/{self.revision}/{self.path}"

    @property
    def is_pinned(self) -> bool:
        """Whether its content can never change, because the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None

    def name(self, endpoint: str) -> str:
        """Its name in the store, if it comes from this hub."""
        return hashlib.sha256(f"{endpoint}\n{self}".encode()).hexdigest()


class Allowed:
    """The repositories that may be requested: patterns of `org/name`, where `*` does not match a slash."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [tuple(pattern.split("/")) for pattern in patterns]

    def __contains__(self, repo: str) -> bool:
        org, name = repo.split("/")
        return any(
            fnmatchcase(org, org_pattern) and fnmatchcase(name, name_pattern)
            for org_pattern, name_pattern in self._patterns
        )
