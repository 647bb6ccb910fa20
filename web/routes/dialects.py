"""The routes of other clients' dialects: `/v1/live/sessions`, `/v1/realtime` (OpenAI), `/api/chat` (Moshi).

Access is checked as on `/ws`, before any of these is called. What is supported: docs/how-to/clients.md.

Neighbours: `web.server.ws_handler` runs the sessions. What does not belong here: what messages mean
(`pipeline.protocol`).
"""

from functools import partial

from quart import Response, jsonify
from quart.globals import websocket_ctx
from quart_trio import QuartTrio

from actors.engine import Engine
from pipeline.protocol.live.dialect import LiveDialect
from pipeline.protocol.moshi.dialect import MoshiDialect
from pipeline.protocol.moshi.query import QueryError, read_query
from pipeline.protocol.realtime.dialect import RealtimeDialect
from web.responses import error_response
from web.security.access import AccessControl
from web.security.rate_limit import RateLimiter
from web.server.ws_handler import handle_websocket


def add_dialects(app: QuartTrio, engine: Engine, limiter: RateLimiter, access: AccessControl) -> None:
    """Add the routes to the application."""

    @app.websocket("/v1/live/sessions")
    async def live_session() -> Response | None:
        return await handle_websocket(engine, websocket_ctx.websocket, limiter.log, LiveDialect)

    @app.websocket("/v1/realtime")
    async def realtime_session() -> Response | None:
        return await handle_websocket(engine, websocket_ctx.websocket, limiter.log, RealtimeDialect)

    @app.websocket("/api/chat")
    async def moshi_chat() -> Response | None:
        incoming = websocket_ctx.websocket
        try:
            query = read_query(incoming.args, takes_prompts=engine.card.voices is not None)
        except QueryError as error:
            access.log_refusal(incoming, "bad_request")
            return error_response(400, "bad_request", str(error))
        return await handle_websocket(engine, incoming, limiter.log, partial(MoshiDialect, query=query))

    @app.post("/v1/live/sessions")
    async def live_webrtc() -> Response:
        message = "this server has no WebRTC; open a WebSocket at this path instead"
        return _live_error(501, "unsupported_transport", message)

    @app.post("/v1/live/sessions/<session_id>/hangup")
    async def live_hangup(session_id: str) -> Response:
        if not engine.hang_up(session_id, LiveDialect.name):
            return _live_error(404, "session_not_found", "there is no Live session with this id")
        return jsonify({})


def _live_error(status: int, code: str, message: str) -> Response:
    """An error in the form of the API."""
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
    response = jsonify(error=error)
    response.status_code = status
    return response
