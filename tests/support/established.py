"""What the server says first, to dialects that are tested without a server."""

from pipeline.protocol.metadata import ConnectionEstablished, LimitsInfo, ModelInfo

ESTABLISHED = ConnectionEstablished(
    protocol=1,
    session_id="5e55",
    resume_token=None,
    server_time=0,
    sample_rate=24_000,
    frame_samples=1920,
    model=ModelInfo("tiny", "", trained=True, model_delay_ms=80, text="text"),
    limits=LimitsInfo(65_552, 8, 400, 5000, 15_000),
)
