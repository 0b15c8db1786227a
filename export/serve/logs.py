"""One JSON object a line: what happened, when and how long it took; never what was in a request."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

logger = logging.getLogger("serve")


class JsonFormatter(logging.Formatter):
    """Writes a record as JSON; ``extra={"fields": {...}}`` adds entries."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        content = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=True, default=str)


def start_logging(level: str = "INFO") -> None:
    """Send this package's and uvicorn's records to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, threshold in (("serve", level), ("uvicorn", "WARNING")):
        target = logging.getLogger(name)
        target.handlers, target.propagate = [handler], False
        target.setLevel(threshold)


def log(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one line; the traceback too where it is an error that is being handled."""
    logger.log(level, event, exc_info=level >= logging.ERROR, extra={"fields": fields})
