"""Log lines that a peer can cause: a thousand bad requests do not write a thousand lines.

Neighbours: `web.app` logs refused requests, `web.server` input that cannot be parsed. What does not
belong here: counting (`web.security.rate_limit`).
"""

from collections import Counter
from typing import Final

import structlog
import trio

LOG_EVERY_S: Final = 10.0
MAX_TEXT: Final = 120

log = structlog.get_logger()


class ThrottledLog:
    """One line for each event and reason every `LOG_EVERY_S` at most, with how many there were so far."""

    def __init__(self) -> None:
        self._logged_s: dict[tuple[str, str], float] = {}
        self._so_far: Counter[tuple[str, str]] = Counter()

    def warning(self, event: str, *, reason: str, **fields: object) -> None:
        """Log an event, unless one with this reason was logged just now; a reason is our own word."""
        key, now_s = (event, reason), trio.current_time()
        self._so_far[key] += 1
        if now_s - self._logged_s.get(key, -LOG_EVERY_S) < LOG_EVERY_S:
            return
        self._logged_s[key] = now_s
        log.warning(
            event, **{k: _short(v) for k, v in fields.items()}, reason=reason, so_far=self._so_far[key]
        )


def _short(value: object) -> object:
    """Text of a peer, printable and bounded."""
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value[: MAX_TEXT + 1])
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
