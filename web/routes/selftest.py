"""Self-tests of a running server, for smoke tests and for installing it.

The routes: `/api/test/packet-health` and `/api/test/hf-proxy?path=…`. Each takes the code path of a
client, uses no lane, and responds within a bounded time.

Neighbours: `web.routes.status` shows statistics. What does not belong here: checks of the machine
(`pipeline.diagnostics`).
"""

from contextlib import aclosing
from typing import Any, Final

import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from actors.engine import Engine
from actors.hub_proxy.download import TruncatedError
from actors.hub_proxy.request import FileRef
from actors.proxy import Proxy
from pipeline.errors import HubFileError
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import PROTOCOL, Vad
from pipeline.protocol.packets import SEQS, Packet, PacketType, decode, encode, name_of
from pipeline.units import FRAME_SAMPLES
from web.responses import error_response
from web.routes.hub import status_of
from web.routes.status import is_ready

READ_BYTES: Final = 64 * 1024  # of the requested file
READ_S: Final = 30.0
_TIMESTAMP_MS: Final = 1_700_000_000_000.125
_SAMPLE_BYTES: Final = 4


def add_selftest(app: QuartTrio, engine: Engine, proxy: Proxy | None) -> None:
    """Register the routes."""

    @app.get("/api/test/packet-health")
    async def packet_health() -> Response:
        state = engine.health()
        round_tripped = _round_trip_every_type()
        lanes: dict[str, int] = state["lanes"]
        is_ok = is_ready(state) and len(round_tripped) == len(PacketType)
        response = jsonify(
            ok=is_ok,
            protocol=PROTOCOL,
            status=state["status"],
            readiness=state["readiness"],
            packets=round_tripped,
            lanes={**lanes, "free": lanes["room"]},
        )
        response.status_code = 200 if is_ok else 503
        return response

    if proxy is None:
        return

    @app.get("/api/test/hf-proxy")
    async def hf_proxy() -> Response:
        path = request.args.get("path")
        if path is None:
            return error_response(400, "bad_request", "name a file with ?path=org/name/resolve/revision/path")
        began_s = trio.current_time()
        found = await _probe(proxy, path)
        return jsonify(found | {"ms": round(1000 * (trio.current_time() - began_s), 1)})


def _round_trip_every_type() -> dict[str, int]:
    """The message size of one packet of each type, for those that decode to what was encoded."""
    examples = (
        outgoing.heartbeat(),
        outgoing.ack(SEQS - 1),
        outgoing.audio(bytes(_SAMPLE_BYTES * FRAME_SAMPLES), _TIMESTAMP_MS),
        outgoing.text_partial("…"),
        outgoing.text_final("…"),
        outgoing.metadata(Vad(speaking=True)),
    )
    round_tripped = {}
    for example in examples:
        packet = Packet(
            example.type, example.priority, SEQS - 1, _TIMESTAMP_MS, example.payload, example.wants_ack
        )
        message = encode(packet)
        if decode(message) == packet:
            round_tripped[name_of(example.type)] = len(message)
    return round_tripped


async def _probe(proxy: Proxy, path: str) -> dict[str, Any]:
    """Fetch the beginning of a file as the proxy's route would."""
    read_bytes = 0
    try:
        with trio.fail_after(READ_S):
            found = await proxy.resolve(FileRef.parse(path))
            end = min(READ_BYTES, found.metadata.size_bytes)
            async with aclosing(proxy.stream(found, 0, end)) as chunks:
                async for chunk in chunks:
                    read_bytes += len(chunk)
    except HubFileError as error:
        return _failed(status_of(error), error.code, str(error))
    except TruncatedError:
        return _failed(502, "cut_short", "the file broke off during the transfer")
    except trio.TooSlowError:
        return _failed(504, "hub_timeout", f"no response within {READ_S:g} s")
    return {
        "ok": True,
        "status": 200,
        "bytes": read_bytes,
        "sizeBytes": found.metadata.size_bytes,
        "cached": found.origin != "miss",
        "origin": found.origin,
        "etag": found.metadata.etag,
        "commit": found.metadata.commit,
    }


def _failed(status: int, code: str, message: str) -> dict[str, Any]:
    return {"ok": False, "status": status, "bytes": 0, "cached": False, "code": code, "message": message}
