"""The facts of a request that access decisions use, read the same way for HTTP and for WebSockets.

Neighbours: `web.security.access` decides by them. What does not belong here: the decisions.
"""

from typing import cast

from quart.wrappers.base import BaseRequestWebsocket

from web.security.auth import PUBLIC_FOLDERS, PUBLIC_PATHS


def peer_and_port(incoming: BaseRequestWebsocket) -> tuple[str, int]:
    """The client's address, and the server's port that it connected to."""
    client = cast("tuple[str, int]", incoming.scope["client"])
    server = cast("tuple[str, int]", incoming.scope["server"])
    return client[0], server[1]


def is_public(path: str) -> bool:
    """Whether a path is served without a token, because a page needs it to send one."""
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)
