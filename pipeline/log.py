"""Events, not sentences: structlog set up once, for a terminal or for tools.

On a terminal events are coloured lines; elsewhere each is one JSON object, so that
`python -m pipeline.run … 2>&1 | jq` works. Logs carry no audio and no transcript.
"""

import logging
import sys
from typing import TextIO

import structlog

from pipeline.config import Log


def configure(settings: Log, stream: TextIO | None = None) -> None:
    """Send every event of level `settings.level` and above to `stream` (default: stderr)."""
    out = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        # Never with the values of variables, which may be tokens or what somebody said.
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
