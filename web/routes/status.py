"""What the server says of itself: JSON for whoever looks, Prometheus' text for whoever keeps watch.

The routes: `/health`, `/health/live`, `/health/ready`, `/metrics`, `/weights`, `/profile/lm`, and
what `/ws` answers to who does not upgrade.

Neighbours: `actors.health` counts, `web.routes.metrics` spells for Prometheus.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from quart import Response, jsonify, request
from quart_trio import QuartTrio

from actors.engine import Line
from actors.proxy import Proxy, ProxyStatistics
from pipeline.errors import LanesOpenError, RefusedError
from web.responses import problem, refused
from web.routes.metrics import CONTENT_TYPE, Metrics
from web.security.rate_limit import Turnstile

# Of /profile/lm: default and most. At 80 ms a step, the most takes 48 s.
STEPS: Final = (50, 500)
WARMUP: Final = (10, 100)

Weights = Callable[[], Mapping[str, object] | None]


def answer_programs(
    app: QuartTrio,
    line: Line,
    backend: Mapping[str, object],
    weights: Weights,
    turnstile: Turnstile,
    *,
    proxy: Proxy | None,
) -> None:
    """Register the routes."""
    metrics = Metrics(line, turnstile, lambda: model_of(weights), proxy)
    _answer_health(app, line, backend, weights, proxy)
    _answer_profile(app, line, weights)

    @app.get("/ws")
    async def upgrade_required() -> Response:
        response = problem(426, "upgrade_required", "packets are spoken over a WebSocket here")
        response.headers["Upgrade"] = "websocket"
        return response

    @app.get("/metrics")
    async def prometheus() -> Response:
        return Response(metrics.render(), content_type=CONTENT_TYPE)

    @app.get("/weights")
    async def loaded_weights() -> Response:
        loaded = weights()
        if loaded is None:
            return problem(503, "not_ready", "no weights are loaded yet")
        return jsonify(loaded)


def _answer_health(
    app: QuartTrio, line: Line, backend: Mapping[str, object], weights: Weights, proxy: Proxy | None
) -> None:
    @app.get("/health")
    async def health() -> Response:
        hub = None if proxy is None else _hub_facts(proxy.statistics())
        model = model_of(weights)
        if model is not None:
            model = {**model, "about": line.card.about, "suggestions": line.card.suggestions}
        return jsonify({**line.health(), "backend": backend, "model": model, "hub": hub})

    @app.get("/health/live")
    async def live() -> Response:
        if line.stalled:
            response = jsonify(status="stalled")
            response.status_code = 503
            return response
        return jsonify(status="live")

    @app.get("/health/ready")
    async def ready() -> Response:
        state = line.health()
        response = jsonify(status=state["status"], readiness=state["readiness"])
        response.status_code = 200 if is_ready(state) else 503
        return response


def _answer_profile(app: QuartTrio, line: Line, weights: Weights) -> None:
    @app.get("/profile/lm")
    async def profile_lm() -> Response:
        steps = _count(request.args.get("steps"), *STEPS, least=1)
        warmup = _count(request.args.get("warmup"), *WARMUP, least=0)
        if steps is None or warmup is None:
            return problem(
                400, "bad_request", f"steps is 1 to {STEPS[1]}, and warmup 0 to {WARMUP[1]}, in digits"
            )
        try:
            taken_s = await line.profile_lm(steps=steps, warmup=warmup)
        except LanesOpenError as busy:
            return problem(409, "busy", str(busy))
        except RefusedError as refusal:
            return refused(refusal)
        return jsonify(steps=steps, warmup=warmup, model=model_of(weights), stepMs=_summary_ms(taken_s))


def _hub_facts(now: ProxyStatistics) -> dict[str, object]:
    return {
        "results": now.results,
        "fetching": now.fetching,
        "queued": now.queued,
        "reading": now.reading,
        "fetchedBytes": now.fetched_bytes,
        "sentBytes": now.sent_bytes,
        "cut": now.cut,
        "cache": {"files": now.kept.files, "bytes": now.kept.size_bytes, "removed": now.removed},
    }


def is_ready(health: Mapping[str, Any]) -> bool:
    """Whether a new session would be served now, room permitting."""
    return bool(health["status"] == "ready")


def model_of(weights: Weights) -> Mapping[str, object] | None:
    """What anyone who listens should know of the model; None while it is loading."""
    loaded = weights()
    return None if loaded is None else {name: loaded[name] for name in ("name", "trained")}


def _count(text: str | None, default: int, most: int, *, least: int) -> int | None:
    """A count out of a query, within its bounds; None where it is not."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    return int(text) if least <= int(text) <= most else None


def _summary_ms(taken_s: Sequence[float]) -> dict[str, float]:
    """Nearest ranks, as everywhere else."""
    ranked = sorted(taken_s)

    def percentile(percent: int) -> float:
        return round(1000 * ranked[math.ceil(len(ranked) * percent / 100) - 1], 3)

    average_ms = 1000 * sum(ranked) / len(ranked)
    return {
        "avg": round(average_ms, 3),
        "p50": percentile(50),
        "p95": percentile(95),
        "p99": percentile(99),
        "max": percentile(100),
    }
