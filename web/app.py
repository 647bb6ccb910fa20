"""The HTTP application: access checks, error handling and the routes.

The routes: `/` (page and packet WebSocket), `/ws` (packet WebSocket), `/api/session` (a token for a
cookie), and those of `web.routes.dialects`, `web.routes.pages`, `web.routes.status`,
`web.routes.selftest` and `web.routes.hub`.
Every error is `{"error": {"code", "message"}}` with a matching status, never a traceback.

Neighbours: `web.security` (origins, tokens, rate limits), `web.server.ws_handler` (one session). What does
not belong here: bytes of packets, facts about models.
"""

import dataclasses
from collections.abc import Mapping

import structlog
from quart import Response, request, websocket
from quart.globals import request_ctx, websocket_ctx
from quart.typing import ResponseTypes
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from actors.engine import Engine
from actors.proxy import Proxy
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, PeerError
from pipeline.install.started_as import LanCommands
from pipeline.system.command import shortage
from web.responses import add_security_headers, denied, error_response
from web.routes.dialects import add_dialects
from web.routes.hub import add_hub
from web.routes.landing import POLICY, Phone, describe, is_loopback, render
from web.routes.pages import add_pages
from web.routes.selftest import add_selftest
from web.routes.status import Weights, add_status, health_of, model_of
from web.security.access import AccessControl
from web.security.auth import TokenAuth
from web.security.forwarded import ForwardedMiddleware, ReverseProxy
from web.security.listen import ListenConfig
from web.security.origin import OriginPolicy
from web.security.rate_limit import RateLimiter
from web.security.request_info import peer_and_port
from web.security.throttled_log import ThrottledLog
from web.server.ws_handler import OrderedWebsocketConnection, handle_websocket

REQUEST_BODY_BYTES = 4 * 1024  # the longest body is a token
REQUEST_BODY_S = 5.0
SHORTAGE_RETRY_MS = 5000

log = structlog.get_logger()


class WebApp(QuartTrio):
    """Quart, with each failure logged in full once and answered with a bare 500.

    What fails because the machine has too few files, memory or space is no fault of the program: a line
    without a traceback, and 503.
    """

    asgi_websocket_class = OrderedWebsocketConnection

    def __init__(self, name: str, throttled_log: ThrottledLog) -> None:
        super().__init__(name, static_folder=None)
        self._throttled_log = throttled_log

    async def handle_exception(self, error: Exception) -> ResponseTypes:
        """Log a failed request and answer it; a broken invariant is raised again."""
        return await self._fail(error, request.path)

    async def handle_websocket_exception(self, error: Exception) -> ResponseTypes:
        """The same for a WebSocket; the client can read the response only before the upgrade."""
        return await self._fail(error, websocket.path)

    async def _fail(self, error: Exception, path: str) -> ResponseTypes:
        if isinstance(error, BrokenInvariantError | PeerError):
            raise error  # the process ends, or the connection does
        if (problem := shortage(error)) is not None:
            self._throttled_log.warning("request_failed", reason="shortage", path=path, problem=problem)
            response = error_response(
                503,
                "shortage",
                "the server's machine is short of resources",
                retry_after_ms=SHORTAGE_RETRY_MS,
            )
            return await self.make_response(response)
        log.error("request_failed", path=path, exc_info=error)
        response = error_response(500, "internal_error", "the server failed to handle this request")
        return await self.make_response(response)


def create_app(
    engine: Engine,
    settings: Settings,
    *,
    backend: Mapping[str, object],
    weights: Weights,
    limiter: RateLimiter,
    proxy: Proxy | None = None,
    listen: ListenConfig | None = None,
) -> QuartTrio:
    """The HTTP application of one engine, and of the hub proxy if there is one.

    `weights` returns what is loaded, None while nothing is; the model's `name` and whether it is
    `trained` are also shown on the landing page and in /health. `listen`: what the files of the settings
    hold, if they have been read; a pipe can be read only once.

    Raises:
        ConfigError: other machines could reach the server without TLS or a token.
    """
    listen = listen or ListenConfig.from_settings(settings.server)
    reverse_proxy = ReverseProxy.from_settings(settings.server)
    is_secure = listen.tls is not None or reverse_proxy.is_secure
    auth = TokenAuth(listen.token, secure=is_secure)
    app = WebApp(__name__, limiter.log)
    app.asgi_app = ForwardedMiddleware(app.asgi_app, reverse_proxy)  # type: ignore[method-assign]  # as Quart documents it
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BODY_BYTES
    app.config["BODY_TIMEOUT"] = REQUEST_BODY_S
    access = AccessControl(_origin_policy(listen, reverse_proxy), auth, limiter)
    _add_access_checks(app, access)
    prefix = "" if reverse_proxy.public is None else reverse_proxy.public.prefix

    def visible_health() -> Mapping[str, object] | None:
        has_access = access.has_cookie(request_ctx.request)
        return health_of(engine, backend, weights, proxy) if has_access else None

    static = add_pages(app, visible_health)
    phone = None
    if listen.credentials is not None or not (is_secure or auth.required):
        phone = Phone(LanCommands.as_started(), is_open=listen.credentials is not None)
    url = ("wss" if is_secure else "ws", prefix)
    _add_landing(app, engine, weights, access, url=url, static=static, phone=phone)
    _add_token_exchange(app, auth, access)
    if listen.credentials is not None:
        _add_authority(app, listen.credentials.authority_file.read_bytes())
    add_status(app, engine, backend, weights, limiter, proxy=proxy)
    add_selftest(app, engine, proxy)
    add_dialects(app, engine, limiter, access)
    if proxy is not None:
        add_hub(app, proxy)

    @app.websocket("/")
    @app.websocket("/ws")
    async def packets() -> Response | None:
        incoming = websocket_ctx.websocket
        return await handle_websocket(engine, incoming, limiter.log, resume=incoming.args.get("resume"))

    return app


def _origin_policy(listen: ListenConfig, reverse_proxy: ReverseProxy) -> OriginPolicy:
    """The policy for the server's own hosts, and for its public origin behind a reverse proxy."""
    if reverse_proxy.public is None:
        return OriginPolicy(listen.hosts, scheme=listen.scheme)
    hosts = (*listen.hosts, reverse_proxy.public.host)
    return OriginPolicy(hosts, scheme=listen.scheme, public_origin=reverse_proxy.public.origin)


def _add_access_checks(app: QuartTrio, access: AccessControl) -> None:
    """Check every request before it is handled; add security headers to every response."""

    @app.before_request
    async def check_request() -> Response | None:
        denial = access.check(request_ctx.request)
        return None if denial is None else denied(denial)

    @app.before_websocket
    async def check_websocket() -> Response | None:
        denial = access.check(websocket_ctx.websocket)
        return None if denial is None else denied(denial)

    @app.after_request
    async def harden_response(response: ResponseTypes) -> ResponseTypes:
        return add_security_headers(response)

    @app.after_websocket
    async def harden_refusal(response: ResponseTypes | None) -> ResponseTypes | None:
        return None if response is None else add_security_headers(response)

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        code = error.name.lower().replace(" ", "_")
        response = error_response(error.code or 500, code, error.description or error.name)
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(error.valid_methods)
        return response


def _add_landing(
    app: QuartTrio,
    engine: Engine,
    weights: Weights,
    access: AccessControl,
    *,
    url: tuple[str, str],
    static: str,
    phone: Phone | None,
) -> None:
    """The landing page; without a valid cookie it shows no facts about the server.

    A token in its request is judged like everywhere else, and does not change the page. `url`: scheme
    and path prefix of the packet WebSocket; `static`: where the pages' files are; `phone`: how one connects,
    which only who may use the server or sits at it is told.
    """
    scheme, prefix = url

    @app.get("/")
    async def landing() -> Response:
        has_access, host = access.has_cookie(request_ctx.request), request.host
        is_told = phone is not None and has_access and (phone.is_open or is_loopback(host))
        shown = describe(
            engine.health(),
            model_of(weights),
            url=f"{scheme}://{host}{prefix}/ws",
            host=host,
            phone=phone if is_told else None,
        )
        if not has_access:
            shown = dataclasses.replace(shown, facts=())
        page = Response(await render(shown, static), mimetype="text/html")
        page.headers["Content-Security-Policy"] = POLICY
        return page


def _add_token_exchange(app: QuartTrio, auth: TokenAuth, access: AccessControl) -> None:
    """A page sends the token once and gets a cookie for it."""

    @app.post("/api/session")
    async def session() -> Response:
        if not auth.required:
            return _no_content()
        incoming = request_ctx.request
        if (denial := access.check_attempts(incoming)) is not None:
            access.log_refusal(incoming, denial.code)
            return denied(denial)
        try:
            body = await request.get_json(force=True)
        except RecursionError:
            body = None  # arrays nested too deep
        token = body.get("token") if isinstance(body, dict) else None
        if not isinstance(token, str):
            access.log_refusal(incoming, "bad_request")
            return error_response(400, "bad_request", 'the body must be {"token": "…"}')
        if (denial := access.check_token(incoming, token)) is not None:
            access.log_refusal(incoming, denial.code)
            return denied(denial)
        response = _no_content()
        response.headers["Set-Cookie"] = auth.cookie(peer_and_port(incoming)[1])
        return response


def _add_authority(app: QuartTrio, authority: bytes) -> None:
    """The authority's certificate, for phones to download and trust; it is not a secret."""

    @app.get("/authority.crt")
    async def authority_certificate() -> Response:
        return Response(authority, content_type="application/x-x509-ca-cert")


def _no_content() -> Response:
    """204, without a Content-Length (RFC 9110 §8.6)."""
    response = Response("", status=204)
    del response.headers["Content-Length"]
    return response
