"""Who asks, and what they show: read from a request the same way for HTTP and for WebSockets.

Neighbours: `web.app` decides by it. What does not belong here: the deciding.
"""

from typing import cast

from quart.wrappers.base import BaseRequestWebsocket

from web.security.auth import PUBLIC_FOLDERS, PUBLIC_PATHS, Keys, Shown


def peer_and_port(asked: BaseRequestWebsocket) -> tuple[str, int]:
    """The address it comes from, and the port of ours that it came to."""
    client = cast("tuple[str, int]", asked.scope["client"])
    server = cast("tuple[str, int]", asked.scope["server"])
    return client[0], server[1]


def shown_by(keys: Keys, asked: BaseRequestWebsocket) -> Shown:
    """What it shows of the token: a header, or the cookie of a page."""
    _, port = peer_and_port(asked)
    return keys.shown(
        authorizations=asked.headers.getlist("Authorization"),
        cookie=asked.cookies.get(keys.cookie_name(port)),
    )


def is_public(path: str) -> bool:
    """Whether a path is answered before the token is shown, because a page needs it to show one."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)
