"""Every answer is a page, a JSON object or a conversation; none is a traceback.

The routes: `/` (page and packet WebSocket), `/ws` (packet WebSocket), `/api/session` (a token for a
cookie), and those of `web.routes.pages`, `web.routes.status`, `web.routes.selftest` and `web.routes.hub`.
Errors are `{"error": {"code", "message"}}` with the status that fits.

Neighbours: `web.security.origin` decides whose pages may ask, `web.security.auth` who may, `actors.engine`
whether there is room, and it holds the session. What does not belong here: bytes of packets, facts about
models.
"""

import dataclasses
from collections.abc import Mapping

import structlog
from quart import Request, Response, request, websocket
from quart.globals import request_ctx, websocket_ctx
from quart.typing import ResponseTypes
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from actors.engine import Line
from actors.proxy import Proxy
from actors.sessions.transport import TransportClosedError
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError
from web.responses import harden, problem, too_many, unauthorized
from web.routes.hub import add_hub
from web.routes.landing import STYLE_HASH, describe, render
from web.routes.pages import add_pages
from web.routes.selftest import answer_probes
from web.routes.status import Weights, answer_programs, model_of
from web.security.auth import Keys, Shown
from web.security.forwarded import Front, Fronted
from web.security.listen import Door
from web.security.origin import Gate, content_security_policy
from web.security.rate_limit import Turnstile
from web.security.request_info import is_public, peer_and_port, shown_by
from web.server.ws_handler import OrderedWebsocketConnection, converse

REQUEST_BODY_BYTES = 4 * 1024  # the longest body is a token
REQUEST_BODY_S = 5.0

log = structlog.get_logger()


class WebApp(QuartTrio):
    """Quart, with failures told once: to the log in full, to the client as a bare 500."""

    asgi_websocket_class = OrderedWebsocketConnection

    async def handle_exception(self, error: Exception) -> ResponseTypes:
        """A request that failed through our fault; a broken invariant goes on up."""
        return await self._fail(error, request.path)

    async def handle_websocket_exception(self, error: Exception) -> ResponseTypes:
        """The same for a WebSocket; its client reads the answer only if there was no upgrade yet."""
        return await self._fail(error, websocket.path)

    async def _fail(self, error: Exception, path: str) -> ResponseTypes:
        if isinstance(error, BrokenInvariantError | TransportClosedError):
            raise error  # the process ends, or nobody is left to be told
        log.error("request_failed", path=path, exc_info=error)
        return await self.make_response(problem(500, "internal_error", "the server failed on this request"))


def create_app(
    line: Line,
    settings: Settings,
    *,
    backend: Mapping[str, object],
    weights: Weights,
    turnstile: Turnstile,
    proxy: Proxy | None = None,
) -> QuartTrio:
    """The server's HTTP face over one line, and over one hub if there is a `proxy`.

    `weights` says what is loaded, None while nothing is; of it, the model's `name` and whether
    it is `trained` are also shown on the page and in /health.

    Raises:
        ConfigError: other machines could reach the server without TLS or a token.
    """
    door = Door.of(settings.server)
    front = Front.of(settings.server)
    is_secure = door.tls is not None or front.is_secure
    keys = Keys(door.token, secure=is_secure)
    app = WebApp(__name__, static_folder=None)
    app.asgi_app = Fronted(app.asgi_app, front)  # type: ignore[method-assign]  # as Quart documents it
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BODY_BYTES
    app.config["BODY_TIMEOUT"] = REQUEST_BODY_S
    _guard(app, _gate(door, front), keys, turnstile)
    _answer_people(app, line, weights, keys, scheme="wss" if is_secure else "ws")
    add_pages(app)
    _exchange_tokens(app, keys, turnstile)
    if door.credentials is not None:
        _give_authority(app, door.credentials.authority_file.read_bytes())
    answer_programs(app, line, backend, weights, turnstile, proxy=proxy)
    answer_probes(app, line, proxy)
    if proxy is not None:
        add_hub(app, proxy)

    @app.websocket("/")
    @app.websocket("/ws")
    async def packets() -> Response | None:
        return await converse(line, settings, websocket_ctx.websocket)

    return app


def _gate(door: Door, front: Front) -> Gate:
    """The server's own names, and those it has in front of a balancer."""
    if front.public is None:
        return Gate(door.hosts, scheme=door.scheme)
    hosts = (*door.hosts, front.public.host)
    return Gate(hosts, scheme=door.scheme, public_origin=front.public.origin)


def _guard(app: QuartTrio, gate: Gate, keys: Keys, turnstile: Turnstile) -> None:
    """What every request goes through before, and every answer after."""

    @app.before_request
    async def check_request() -> Response | None:
        return _denial(gate, keys, turnstile, request_ctx.request)

    @app.before_websocket
    async def check_websocket() -> Response | None:
        return _denial(gate, keys, turnstile, websocket_ctx.websocket)

    @app.after_request
    async def harden_answer(response: ResponseTypes) -> ResponseTypes:
        return harden(response)

    @app.after_websocket
    async def harden_refusal(response: ResponseTypes | None) -> ResponseTypes | None:
        return None if response is None else harden(response)

    @app.errorhandler(HTTPException)
    async def tell_status(error: HTTPException) -> Response:
        code = error.name.lower().replace(" ", "_")
        response = problem(error.code or 500, code, error.description or error.name)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(error.valid_methods)
        return response


def _answer_people(app: QuartTrio, line: Line, weights: Weights, keys: Keys, *, scheme: str) -> None:
    """Pages; to who has shown no token they say less."""

    @app.get("/")
    async def landing() -> Response:
        shown = describe(line.health(), model_of(weights), url=f"{scheme}://{request.host}/ws")
        if shown_by(keys, request_ctx.request) is not Shown.RIGHT:
            shown = dataclasses.replace(shown, facts=())
        page = Response(await render(shown), mimetype="text/html")
        page.headers["Content-Security-Policy"] = content_security_policy(style_hashes=[STYLE_HASH])
        return page


def _exchange_tokens(app: QuartTrio, keys: Keys, turnstile: Turnstile) -> None:
    """A page's way in: it shows the token once, and its browser remembers that it did."""

    @app.post("/api/session")
    async def session() -> Response:
        if not keys.wanted:
            return _no_content()
        host, port = peer_and_port(request_ctx.request)
        if wait_s := turnstile.wait_s("token", host):
            turnstile.turn_away(host, "token")
            return too_many(wait_s)
        try:
            asked = await request.get_json(force=True)
        except RecursionError:
            asked = None  # brackets in brackets
        token = asked.get("token") if isinstance(asked, dict) else None
        if not isinstance(token, str):
            return problem(400, "bad_request", 'the body is {"token": "…"}')
        if not keys.fits(token):
            turnstile.fail("token", host)
            return unauthorized()
        answer = _no_content()
        answer.headers["Set-Cookie"] = keys.cookie(port)
        return answer


def _give_authority(app: QuartTrio, authority: bytes) -> None:
    """What a phone has to trust, for it to fetch; a certificate is no secret."""

    @app.get("/authority.crt")
    async def give_authority() -> Response:
        return Response(authority, content_type="application/x-x509-ca-cert")


def _no_content() -> Response:
    """204, which has no length either (RFC 9110 §8.6)."""
    answer = Response("", status=204)
    del answer.headers["Content-Length"]
    return answer


def _denial(gate: Gate, keys: Keys, turnstile: Turnstile, asked: BaseRequestWebsocket) -> Response | None:
    """The answer to a request that may not pass, or None."""
    host, port = peer_and_port(asked)
    denial = gate.denial(
        hosts=asked.headers.getlist("Host"),
        origins=asked.headers.getlist("Origin"),
        fetch_sites=asked.headers.getlist("Sec-Fetch-Site"),
        port=port,
    )
    if denial is not None:
        return problem(denial.status, denial.code, denial.message)
    if not keys.wanted or (isinstance(asked, Request) and is_public(asked.path)):
        return None
    guesses = "Authorization" in asked.headers  # nobody can guess a cookie
    if guesses and (wait_s := turnstile.wait_s("token", host)):
        turnstile.turn_away(host, "token")
        return too_many(wait_s)
    shown = shown_by(keys, asked)
    if shown is Shown.WRONG:
        turnstile.fail("token", host)
    return None if shown is Shown.RIGHT else unauthorized()
