"""Logging with structlog: named events, as coloured lines on a terminal and as JSON elsewhere.

One JSON object per line, so that `python -m pipeline.run … 2>&1 | jq` works. Logs contain no audio, no
transcript and no tokens. The names of events are an interface: `docs/upgrading.md` lists renamed ones.
"""

import logging
import sys
from typing import TextIO

import structlog

from pipeline.config import Log


def configure(settings: Log, stream: TextIO | None = None) -> None:
    """Write events of level `settings.level` and above to `stream` (default: stderr)."""
    out = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and out.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        # Tracebacks without local variables, which may hold tokens or a transcript.
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
