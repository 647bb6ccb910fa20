"""The server's state: JSON for people and tools, metrics for Prometheus.

The routes: `/health`, `/health/live`, `/health/ready`, `/metrics`, `/weights`, `/profile/lm`, and
`/ws` for a request that is not an upgrade.

Neighbours: `actors.health` has the statistics, `web.routes.metrics` formats them for Prometheus.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from quart import Response, jsonify, request
from quart_trio import QuartTrio

from actors.engine import Engine
from actors.proxy import Proxy, ProxyStatistics
from pipeline import log
from pipeline.errors import SessionRefusedError, SessionsActiveError
from pipeline.percentiles import percentiles
from web.responses import error_response, session_refused
from web.routes.metrics import CONTENT_TYPE, Metrics
from web.security.rate_limit import RateLimiter

# Of /profile/lm: default and maximum. At 80 ms a step, the maximum takes 48 s.
STEPS: Final = (50, 500)
WARMUP: Final = (10, 100)

Weights = Callable[[], Mapping[str, object] | None]


def add_status(
    app: QuartTrio,
    engine: Engine,
    backend: Mapping[str, object],
    weights: Weights,
    limiter: RateLimiter,
    *,
    proxy: Proxy | None,
) -> None:
    """Register the routes."""
    metrics = Metrics(engine, limiter, lambda: model_of(weights), proxy)
    _add_health(app, engine, backend, weights, proxy)
    _add_profile(app, engine, weights)

    @app.get("/ws")
    async def upgrade_required() -> Response:
        response = error_response(
            426, "upgrade_required", "this is the packet WebSocket; connect with a WebSocket client"
        )
        response.headers["Upgrade"] = "websocket"
        return response

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    @app.get("/weights")
    async def loaded_weights() -> Response:
        loaded = weights()
        if loaded is None:
            return error_response(503, "not_ready", "no weights are loaded yet")
        return jsonify(loaded)


def _add_health(
    app: QuartTrio, engine: Engine, backend: Mapping[str, object], weights: Weights, proxy: Proxy | None
) -> None:
    @app.get("/health")
    async def health() -> Response:
        return jsonify(health_of(engine, backend, weights, proxy))

    @app.get("/health/live")
    async def live() -> Response:
        if engine.stalled:
            response = jsonify(status="stalled")
            response.status_code = 503
            return response
        return jsonify(status="live")

    @app.get("/health/ready")
    async def ready() -> Response:
        state = engine.health()
        response = jsonify(status=state["status"], readiness=state["readiness"])
        response.status_code = 200 if is_ready(state) else 503
        return response


def _add_profile(app: QuartTrio, engine: Engine, weights: Weights) -> None:
    @app.get("/profile/lm")
    async def profile_lm() -> Response:
        steps = _count(request.args.get("steps"), *STEPS, least=1)
        warmup = _count(request.args.get("warmup"), *WARMUP, least=0)
        if steps is None or warmup is None:
            return error_response(
                400, "bad_request", f"steps must be 1 to {STEPS[1]}, and warmup 0 to {WARMUP[1]}"
            )
        try:
            taken_s = await engine.profile_lm(steps=steps, warmup=warmup)
        except SessionsActiveError as busy:
            return error_response(409, "busy", str(busy))
        except SessionRefusedError as refusal:
            return session_refused(refusal)
        return jsonify(steps=steps, warmup=warmup, model=model_of(weights), stepMs=_summary_ms(taken_s))


def health_of(
    engine: Engine, backend: Mapping[str, object], weights: Weights, proxy: Proxy | None
) -> dict[str, object]:
    """What `/health` answers; the voice page is delivered with it."""
    hub = None if proxy is None else _hub_state(proxy.statistics())
    model = model_of(weights)
    if model is not None:
        model = {
            **model,
            "about": engine.card.about,
            "suggestions": engine.card.suggestions,
            "voices": engine.card.voices,
        }
    logged = {"lostLines": log.lost_lines()}
    return {**engine.health(), "backend": backend, "model": model, "hub": hub, "log": logged}


def _hub_state(now: ProxyStatistics) -> dict[str, object]:
    return {
        "results": now.results,
        "fetching": now.fetching,
        "queued": now.queued,
        "reading": now.active_readers,
        "fetchedBytes": now.fetched_bytes,
        "sentBytes": now.sent_bytes,
        "cut": now.truncated,
        "cache": {"files": now.cache.files, "bytes": now.cache.size_bytes, "removed": now.evicted},
    }


def is_ready(health: Mapping[str, Any]) -> bool:
    """Whether the server accepts new sessions, lanes permitting."""
    return bool(health["status"] == "ready")


def model_of(weights: Weights) -> Mapping[str, object] | None:
    """The model's name and whether it is trained; None while it is loading."""
    loaded = weights()
    return None if loaded is None else {name: loaded[name] for name in ("name", "trained")}


def _count(text: str | None, default: int, most: int, *, least: int) -> int | None:
    """A count from a query, `default` where there is none; None where it is out of bounds."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    return int(text) if least <= int(text) <= most else None


def _summary_ms(taken_s: Sequence[float]) -> dict[str, float]:
    """Mean, percentiles and maximum in milliseconds, to a microsecond."""
    names = ("avg", "p50", "p95", "p99", "max")
    seconds = (sum(taken_s) / len(taken_s), *percentiles(taken_s, 50, 95, 99, 100))
    return {name: round(1000 * value, 3) for name, value in zip(names, seconds, strict=True)}
