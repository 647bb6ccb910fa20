"""Every answer is a page, a JSON object or a conversation; none is a traceback.

The routes: `/` (page and packet WebSocket), `/ws` (packet WebSocket), `/health`,
`/health/live`, `/health/ready`, `/weights`. Errors are `{"error": {"code", "message"}}` with
the status that fits.

Neighbours: `web.gate` decides who may ask, `actors.line` whether there is room, and it holds
the session. What does not belong here: bytes of packets, facts about models.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import structlog
from quart import Response, jsonify, request, websocket
from quart.globals import request_ctx, websocket_ctx
from quart.typing import ResponseTypes
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from actors.line import Line
from actors.transport import TransportClosedError
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError
from web.answers import harden, problem
from web.gate import Gate, content_security_policy, loopback_address
from web.landing import STYLE_HASH, describe, render
from web.socket import OrderedWebsocketConnection, converse

REQUEST_BODY_BYTES = 64 * 1024  # no route takes a body yet

Weights = Callable[[], Mapping[str, object] | None]

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
) -> QuartTrio:
    """The server's HTTP face over one line.

    `weights` says what is loaded, None while nothing is; of it, the model's `name` and whether
    it is `trained` are also shown on the page and in /health.

    Raises:
        ConfigError: the server would listen where other machines can reach it.
    """
    loopback_address(settings.server)
    app = WebApp(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BODY_BYTES
    _guard(app, Gate(settings.server.allowed_hosts))
    _answer_people(app, line, weights)
    _answer_programs(app, line, backend, weights)

    @app.websocket("/")
    @app.websocket("/ws")
    async def packets() -> Response | None:
        return await converse(line, settings, websocket_ctx.websocket)

    return app


def is_ready(health: Mapping[str, Any]) -> bool:
    """Whether a new session would be served now, room permitting."""
    return bool(health["status"] == "ready")


def _guard(app: QuartTrio, gate: Gate) -> None:
    """What every request goes through before, and every answer after."""

    @app.before_request
    async def check_request() -> Response | None:
        return _denial(gate, request_ctx.request)

    @app.before_websocket
    async def check_websocket() -> Response | None:
        return _denial(gate, websocket_ctx.websocket)

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


def _answer_people(app: QuartTrio, line: Line, weights: Weights) -> None:
    """Pages."""

    @app.get("/")
    async def landing() -> Response:
        shown = describe(line.health(), _model(weights), host=request.host)
        page = Response(await render(shown), mimetype="text/html")
        page.headers["Content-Security-Policy"] = content_security_policy(style_hashes=[STYLE_HASH])
        return page


def _answer_programs(app: QuartTrio, line: Line, backend: Mapping[str, object], weights: Weights) -> None:
    """JSON."""

    @app.get("/ws")
    async def upgrade_required() -> Response:
        response = problem(426, "upgrade_required", "packets are spoken over a WebSocket here")
        response.headers["Upgrade"] = "websocket"
        return response

    @app.get("/health")
    async def health() -> Response:
        return jsonify({**line.health(), "backend": backend, "model": _model(weights)})

    @app.get("/health/live")
    async def live() -> Response:
        return jsonify(status="live")

    @app.get("/health/ready")
    async def ready() -> Response:
        state = line.health()
        response = jsonify(status=state["status"], readiness=state["readiness"])
        response.status_code = 200 if is_ready(state) else 503
        return response

    @app.get("/weights")
    async def loaded_weights() -> Response:
        loaded = weights()
        if loaded is None:
            return problem(503, "not_ready", "no weights are loaded yet")
        return jsonify(loaded)


def _model(weights: Weights) -> Mapping[str, object] | None:
    """What anyone who listens should know of the model; None while it is loading."""
    loaded = weights()
    return None if loaded is None else {name: loaded[name] for name in ("name", "trained")}


def _denial(gate: Gate, asked: BaseRequestWebsocket) -> Response | None:
    """The answer to a request that may not pass, or None."""
    server = cast("tuple[str, int]", asked.scope["server"])
    denial = gate.denial(
        hosts=asked.headers.getlist("Host"),
        origins=asked.headers.getlist("Origin"),
        fetch_sites=asked.headers.getlist("Sec-Fetch-Site"),
        port=server[1],
    )
    return None if denial is None else problem(denial.status, denial.code, denial.message)
