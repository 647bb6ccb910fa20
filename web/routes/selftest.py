"""A probe goes the way that a client would go, a little of it, and says what it found.

The routes: `/api/test/packet-health` and `/api/test/hf-proxy?path=…`, for smoke tests and for whoever
sets a server up. They take no lane, and answer within bounds.

Neighbours: `web.routes.status` shows what has been counted. What does not belong here: a check of
anything but the running server.
"""

from contextlib import aclosing
from typing import Any, Final

import trio
from quart import Response, jsonify, request
from quart_trio import QuartTrio

from actors.engine import Line
from actors.hub_proxy.download import CutShortError
from actors.hub_proxy.request import Wanted
from actors.proxy import Proxy
from pipeline.errors import NotServedError
from pipeline.protocol import outgoing
from pipeline.protocol.metadata import PROTOCOL, Vad
from pipeline.protocol.packets import SEQS, Packet, PacketType, decode, encode, name_of
from pipeline.units import FRAME_SAMPLES
from web.responses import problem
from web.routes.hub import status_of
from web.routes.status import is_ready

READ_BYTES: Final = 64 * 1024  # of the file that is asked for
READ_S: Final = 30.0
_TIMESTAMP_MS: Final = 1_700_000_000_000.125
_SAMPLE_BYTES: Final = 4


def answer_probes(app: QuartTrio, line: Line, proxy: Proxy | None) -> None:
    """Register the routes."""

    @app.get("/api/test/packet-health")
    async def packet_health() -> Response:
        state = line.health()
        spelled = _spell_every_type()
        lanes: dict[str, int] = state["lanes"]
        is_well = is_ready(state) and len(spelled) == len(PacketType)
        response = jsonify(
            ok=is_well,
            protocol=PROTOCOL,
            status=state["status"],
            readiness=state["readiness"],
            packets=spelled,
            lanes={**lanes, "free": lanes["max"] - lanes["open"]},
        )
        response.status_code = 200 if is_well else 503
        return response

    if proxy is None:
        return

    @app.get("/api/test/hf-proxy")
    async def hf_proxy() -> Response:
        path = request.args.get("path")
        if path is None:
            return problem(400, "bad_request", "?path=org/name/resolve/revision/path names the file")
        began_s = trio.current_time()
        found = await _probe(proxy, path)
        return jsonify(found | {"ms": round(1000 * (trio.current_time() - began_s), 1)})


def _spell_every_type() -> dict[str, int]:
    """The bytes of one packet of each type, of those that come back as they were."""
    said = (
        outgoing.heartbeat(),
        outgoing.ack(SEQS - 1),
        outgoing.audio(bytes(_SAMPLE_BYTES * FRAME_SAMPLES), _TIMESTAMP_MS),
        outgoing.text_partial("…"),
        outgoing.text_final("…"),
        outgoing.metadata(Vad(speaking=True)),
    )
    spelled = {}
    for one in said:
        packet = Packet(one.type, one.priority, SEQS - 1, _TIMESTAMP_MS, one.payload, one.wants_ack)
        message = encode(packet)
        if decode(message) == packet:
            spelled[name_of(one.type)] = len(message)
    return spelled


async def _probe(proxy: Proxy, path: str) -> dict[str, Any]:
    """The beginning of a file, by the proxy's own way."""
    read_bytes = 0
    try:
        with trio.fail_after(READ_S):
            found = await proxy.find(Wanted.parse(path))
            end = min(READ_BYTES, found.described.size_bytes)
            async with aclosing(proxy.stream(found, 0, end)) as pieces:
                async for piece in pieces:
                    read_bytes += len(piece)
    except NotServedError as refusal:
        return _failed(status_of(refusal), refusal.code, str(refusal))
    except CutShortError:
        return _failed(502, "cut_short", "the file broke off on its way")
    except trio.TooSlowError:
        return _failed(504, "hub_timeout", f"nothing came within {READ_S:g} s")
    return {
        "ok": True,
        "status": 200,
        "bytes": read_bytes,
        "sizeBytes": found.described.size_bytes,
        "cached": found.origin != "miss",
        "origin": found.origin,
        "etag": found.described.etag,
        "commit": found.described.commit,
    }


def _failed(status: int, code: str, message: str) -> dict[str, Any]:
    return {"ok": False, "status": status, "bytes": 0, "cached": False, "code": code, "message": message}
