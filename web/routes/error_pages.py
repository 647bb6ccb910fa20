"""Errors as pages, for people who opened a wrong or refused address; programs keep the JSON.

Every error response of this server is JSON (`web.responses`). Where a browser is about to show it, it
becomes a page with the same status that says what is wrong and what to do. Neighbours: `web.routes.pages`
registers this; the pages themselves explain what happens to their own requests.
"""

import math
from collections.abc import Mapping

from quart import Response, render_template_string, request
from quart_trio import QuartTrio

from pipeline.install.started_as import LanCommands
from web.routes.landing import STYLE, STYLE_HASH, is_loopback
from web.security.origin import content_security_policy

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} · packet-voice</title>
<link rel="icon" href="{{ root }}{{ icon }}">
<style>{{ style | safe }}</style>
<main>
<h1>{{ title }}</h1>
<p class="lead">{{ advice }}</p>
<div class="start"><a class="talk" href="{{ root }}">Start page</a>
<p class="state"><a href="{{ root }}packet-voice">Talk</a> ·
<a href="{{ root }}whisperx">Transcribe</a></p></div>
<footer>{{ status }} <code>{{ code }}</code>: {{ message }}</footer>
</main>
</html>
"""

# By the error's code; the others are shown with the server's own message.
_ADVICE: Mapping[str, tuple[str, str]] = {
    "not_found": ("Page not found", "There is nothing at this address. Check it for typing mistakes."),
    "method_not_allowed": ("Not possible here", "This address does not accept such a request."),
    "upgrade_required": (
        "This is not a page",
        "Programs connect here by WebSocket. To talk, open the voice page.",
    ),
    "unauthorized": (
        "Token required",
        "Open the link that ends in #token=… On the server's computer, “{invite}” shows it.",
    ),
    "too_many_attempts": (
        "Too many wrong tokens",
        "The server ignores this address for a while; then open the right link.",
    ),
    "host_refused": (
        "This host name is not accepted",
        "Open the address that the server printed, or add this name to server.allowed_hosts.",
    ),
    "cross_site_refused": (
        "Link from another site",
        "The server does not follow links from other sites. Type the address into the address bar.",
    ),
    "client_address_unreadable": (
        "The proxy is not set up",
        "The reverse proxy does not name its clients so that the server can read it; see the server's log.",
    ),
    "origin_refused": (
        "This address is not accepted",
        "Open the address that the server printed. Behind a tunnel or a proxy, set server.public_url.",
    ),
    "internal_error": ("The server failed", "Try again. If it keeps happening, see the server's log."),
    "not_ready": ("The server is loading", "Its models are not loaded yet."),
}


def add_error_pages(app: QuartTrio, icon: str) -> None:
    """Turn JSON errors into pages where a browser shows them; `icon` is the path of the site's icon."""

    @app.after_request
    async def explain(response: Response) -> Response:
        if response.status_code < 400 or response.mimetype != "application/json" or not _is_shown():
            return response
        error = (await response.get_json()).get("error")
        if not isinstance(error, dict):
            return response
        code = str(error["code"])
        title, advice = _ADVICE.get(code, ("This did not work", f"{error['message']}."))
        if code == "unauthorized":
            invite = LanCommands.for_visitor(here=is_loopback(request.host)).invite
            advice = advice.replace("{invite}", invite)
        if "retryAfterMs" in error:
            advice += f" Try again in {math.ceil(error['retryAfterMs'] / 1000)} s."
        html = await render_template_string(
            _PAGE, style=STYLE, icon=icon, title=title, advice=advice, code=code,
            status=response.status_code, message=error["message"], root=_root(request.path),
        )  # fmt: skip
        response.set_data(html)
        response.mimetype = "text/html"
        policy = content_security_policy(style_hashes=[STYLE_HASH])
        response.headers["Content-Security-Policy"] = f"{policy}; img-src 'self'"
        return response


def _root(path: str) -> str:
    """The way from `path` to the start page, which also holds under a path prefix."""
    return "../" * (path.count("/") - 1) or "./"


def _is_shown() -> bool:
    """Whether a person sees the response: a browser opens an address in a tab."""
    if request.method != "GET":
        return False
    destination = request.headers.get("Sec-Fetch-Dest")
    if destination is not None:
        return destination == "document"
    return (
        request.accept_mimetypes.best_match(["application/json", "text/html"], "application/json")
        == "text/html"
    )
