"""The processor time of one frame in each dialect: decoding a client's message, and encoding the answer.

No server and no models: what is timed is what a session of the dialect adds to the event loop (or, for
Opus, to a thread beside it).
"""

import time
from collections.abc import Callable, Mapping
from typing import Final

from pipeline.audio.framing import frames_of, payload_of
from pipeline.audio.noise import noise_frames
from pipeline.audio.transcoding import decoder_of, encoder_of
from pipeline.client.scripts import ClientScript, scripts
from pipeline.percentiles import percentiles
from pipeline.protocol import outgoing
from pipeline.protocol.dialect import ConnectionParameters, Dialect
from pipeline.protocol.events import AudioReceived, EncodedAudioReceived
from pipeline.protocol.live.dialect import LiveDialect
from pipeline.protocol.metadata import ConnectionEstablished, LimitsInfo, ModelInfo, Ready
from pipeline.protocol.moshi.dialect import MoshiDialect
from pipeline.protocol.moshi.query import Query
from pipeline.protocol.packet_dialect import PacketDialect
from pipeline.protocol.realtime.dialect import RealtimeDialect
from pipeline.protocol.unacked import UnackedPackets
from pipeline.units import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE_HZ
from pipeline.values import Pcm

_FRAMES: Final = 125
_ESTABLISHED: Final = ConnectionEstablished(
    protocol=1,
    session_id="0",
    resume_token=None,
    server_time=0.0,
    sample_rate=SAMPLE_RATE_HZ,
    frame_samples=FRAME_SAMPLES,
    model=ModelInfo("none", "none", trained=False, model_delay_ms=0, text="ids"),
    limits=LimitsInfo(65_552, 8, 400, 5000, 15_000),
)
_DIALECTS: Final[Mapping[str, Callable[[ConnectionParameters], Dialect]]] = {
    "packets": PacketDialect,
    "live": LiveDialect,
    "realtime": RealtimeDialect,
    "moshi": lambda parameters: MoshiDialect(parameters, Query()),
}


def time_dialects(frames: int) -> dict[str, dict[str, float]]:
    """Microseconds a frame in each dialect: p50 and p99 of both directions, and the median of each."""
    noise = noise_frames(_FRAMES)
    return {script.dialect: _time(script, noise, frames) for script in scripts(noise)}


def _time(script: ClientScript, noise: Pcm, frames: int) -> dict[str, float]:
    dialect = _DIALECTS[script.dialect](ConnectionParameters(5, 15, 3600, 0.0, 0.0, UnackedPackets()))
    for value in _ESTABLISHED, Ready():
        dialect.messages(outgoing.metadata(value), timestamp_ms=0.0)
    for message in script.opening:
        _, replies = dialect.receive(message, now_s=0.0)
        for reply in replies:
            dialect.messages(reply, timestamp_ms=0.0)
    decoder = decoder_of(dialect.input_format) if dialect.input_format.encoding != "float32" else None
    encoder = encoder_of(dialect.output_format) if dialect.output_format.encoding != "float32" else None
    received_s, sent_s = [], []
    for index in range(frames):
        message, pcm = script.frames[index % _FRAMES], noise[index % _FRAMES]
        began_s = time.thread_time()
        event, _ = dialect.receive(message, now_s=0.0)
        match event:
            case EncodedAudioReceived(pieces) if decoder is not None:
                frames_of(payload_of(decoder.decode(pieces).frames))
            case AudioReceived(payload=payload):
                frames_of(payload)
        decoded_s = time.thread_time()
        payload = payload_of(pcm) if encoder is None else encoder.encode(pcm)
        dialect.messages(outgoing.audio(payload, float(FRAME_MS * index)), timestamp_ms=0.0)
        received_s.append(decoded_s - began_s)
        sent_s.append(time.thread_time() - decoded_s)
    both = [decode + encode for decode, encode in zip(received_s, sent_s, strict=True)]
    p50, p99 = percentiles(both, 50, 99)
    (decode,), (encode,) = percentiles(received_s, 50), percentiles(sent_s, 50)
    names = {"p50_us": p50, "p99_us": p99, "decode_us": decode, "encode_us": encode}
    return {name: round(1e6 * seconds, 1) for name, seconds in names.items()}
