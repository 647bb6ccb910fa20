"""A request asks for a whole file, for one part of it, or only whether it has changed (RFC 9110 §13, §14).

What belongs here: headers in, an answer's shape out; no files. More than one range, and what is not
spelled as the RFC does, is a request for the whole: a server may ignore a Range header.
"""

import re
from dataclasses import dataclass
from typing import Final

from werkzeug.datastructures import Headers

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
_TAG: Final = re.compile(r'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `begin` to before `end`; with `status` 304 and 416 there are none to send."""

    status: int
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """How many."""
        return self.end - self.begin


def asked_part(headers: Headers, *, method: str, size_bytes: int, etag: str | None) -> Part:
    """What to answer with, of a file of `size_bytes` and quoted `etag`, that exists."""
    if etag is not None and _names(headers.get("If-None-Match", ""), etag):
        return Part(304, 0, 0)
    whole = Part(200, 0, size_bytes)
    match = _RANGE.fullmatch(headers.get("Range", "").strip())
    if match is None or method != "GET" or headers.get("If-Range", etag) != etag:
        return whole
    first, last, suffix = match.groups()
    if suffix is not None:
        begin, end = max(0, size_bytes - int(suffix)), size_bytes
    else:
        begin, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
        if last and int(last) < int(first):
            return whole
    return Part(206, begin, end) if begin < end else Part(416, 0, 0)


def _names(header: str, etag: str) -> bool:
    """Whether an If-None-Match header has this file's ETag, as strong or as weak."""
    return header.strip() == "*" or etag in _TAG.findall(header)
