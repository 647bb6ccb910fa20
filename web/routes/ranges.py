"""Range and conditional requests (RFC 9110 §13, §14): what to send of a file.

What belongs here: request headers in, the response's status and bytes out; no files. Headers are parsed
by Werkzeug. A malformed Range header, or one with several ranges, is ignored, as the RFC allows.
"""

import re
from dataclasses import dataclass
from typing import Final

from werkzeug.datastructures import Headers
from werkzeug.http import parse_etags, parse_range_header

# A suffix of no bytes is valid and unsatisfiable (RFC 9110 §14.1.2); Werkzeug calls it malformed.
_EMPTY_SUFFIX: Final = re.compile(r"\s*bytes=-0+\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `begin` to before `end`; with `status` 304 and 416 there are none."""

    status: int
    begin: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Length of the body."""
        return self.end - self.begin


def requested_part(headers: Headers, *, method: str, size_bytes: int, etag: str | None) -> Part:
    """The part of an existing file to send, given its size and its quoted, strong ETag.

    If-Range is compared here: Werkzeug's `parse_if_range_header` drops the weakness of a tag, and a
    weak tag must not match (RFC 9110 §13.1.5). A date never matches, because we send none.
    """
    if etag is not None and parse_etags(headers.get("If-None-Match")).contains_weak(etag.strip('"')):
        return Part(304, 0, 0)
    if method != "GET" or headers.get("If-Range", etag) != etag:
        return Part(200, 0, size_bytes)
    header = headers.get("Range", "")
    if _EMPTY_SUFFIX.fullmatch(header):
        return Part(416, 0, 0)
    wanted = parse_range_header(header)
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return Part(200, 0, size_bytes)
    # A suffix is (-length, None): as a slice, it is clamped to the file like any other range.
    found = range(size_bytes)[slice(*wanted.ranges[0])]
    return Part(206, found.start, found.stop) if found else Part(416, 0, 0)
