"""Logs: one line an event, with the request's id; never a prompt's text at INFO."""

import logging
import sys
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")


def set_up(service: str, level: str = "INFO") -> None:
    """Sends the root logger to standard error as `time level service [request] module: message`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)-7s {service} [%(request_id)s] %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True
