"""Logs: one line an event, with the ids of what it belongs to; no secret, and at INFO nothing that a request says."""

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TextIO

from pointsman_servicekit.errors import PointsmanError

LogFormat = Literal["text", "json"]

WITHHELD = "(what it says is withheld, it may quote a request; at DEBUG it is shown)"

_SAY_NOTHING_OF_VALUES = (
    OSError, AttributeError, ImportError, MemoryError, NameError, NotImplementedError, RecursionError,
    StopAsyncIteration, StopIteration, TypeError, ZeroDivisionError,
)  # fmt: skip
"""Errors whose messages name code, files or addresses; those of all others may quote a value."""

_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))} | {10: "\\n", 13: "\\r", 9: "\t"}
"""So that nothing that is logged can begin a line of its own, or move a terminal's cursor."""


def configure_logging(service: str, level: str = "INFO", form: LogFormat = "text") -> None:
    """Sends the root logger to standard error.

    As text, `time level service [request] module: message` and under it the traceback; as JSON, an object a line, with
    the ids of decision, trace and span where there are such.
    """
    logging.basicConfig(level=level, handlers=[make_handler(sys.stderr, service, level, form)], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def make_handler(stream: TextIO, service: str, level: str = "INFO", form: LogFormat = "text") -> logging.Handler:
    """Writes to `stream` as `set_up` does to standard error."""
    handler = logging.StreamHandler(stream)
    handler.addFilter(_add_ids)
    shows_all = logging.getLevelName(level) == logging.DEBUG
    handler.setFormatter((_Json if form == "json" else _Text)(service, shows_all))
    return handler


def _add_ids(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    record.further_ids = _further_ids()
    return True


def _further_ids() -> dict[str, str]:
    """Those that are known."""
    ids, decision, traced = dict[str, str](), decision_id.get(), current_trace.get()
    if decision != NO_ID:
        ids["decision_id"] = decision
    if traced is not None:
        ids |= {"trace_id": traced.trace_id, "span_id": traced.span_id}
    return ids


class _Form(logging.Formatter):
    def __init__(self, service: str, shows_all: bool) -> None:
        super().__init__()
        self._service = service
        self._shows_all = shows_all

    def said(self, record: logging.LogRecord) -> str:
        message = record.getMessage() if self._shows_all else _message(record)
        if record.name == "asyncio" and not self._shows_all:
            message = message.partition("\n")[0]  # after it the task, with its error's message
        return mask_secrets(message)

    def failure(self, record: logging.LogRecord) -> str:
        """The traceback; empty where nothing failed."""
        error = record.exc_info[1] if record.exc_info else None
        return mask_secrets("".join(_traceback(error, self._shows_all)).rstrip()) if error else ""


class _Text(_Form):
    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{self.formatTime(record)} {record.levelname:7} {self._service} [{record.__dict__['request_id']}] "
            f"{record.name}: {self.said(record)}"
        ).translate(_ESCAPED)
        failure = self.failure(record)
        return f"{line}\n{failure}" if failure else line


class _Json(_Form):
    def format(self, record: logging.LogRecord) -> str:
        failure = self.failure(record)
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "request_id": record.__dict__["request_id"],
            **record.__dict__["further_ids"],
            "module": record.name,
            "message": self.said(record),
            **({"traceback": failure} if failure else {}),
        }
        return json.dumps(told)


def _message(record: logging.LogRecord) -> str:
    """With errors among its arguments told as in a traceback."""
    if not isinstance(record.args, tuple) or not any(isinstance(value, BaseException) for value in record.args):
        return record.getMessage()
    told = (_named(value, False) if isinstance(value, BaseException) else value for value in record.args)
    return str(record.msg) % tuple(told)


def _traceback(error: BaseException, shows_all: bool) -> Iterator[str]:
    """As Python prints it, causes first, but for messages that may quote values."""
    for before, link in _causes(error):
        yield from traceback.format_tb(before.__traceback__)
        yield f"{_named(before, shows_all)}\n\n{link}\n\n" if link else f"{_named(before, shows_all)}\n"


def _causes(error: BaseException) -> list[tuple[BaseException, str]]:
    """Each with what leads to the next; the last leads nowhere."""
    found: list[tuple[BaseException, str]] = [(error, "")]
    while len(found) < 10:
        first = found[0][0]
        if first.__cause__ is not None:
            found.insert(0, (first.__cause__, "From it came:"))
        elif first.__context__ is not None and not first.__suppress_context__:
            found.insert(0, (first.__context__, "While it was handled:"))
        else:
            break
    return found


def _named(error: BaseException, shows_all: bool) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if shows_all or isinstance(error, _SAY_NOTHING_OF_VALUES):
        says = str(error)
    else:  # ours are told by their code: an engine's own words on a request may be in their message
        says = error.code if isinstance(error, PointsmanError) else WITHHELD
    return f"{name}: {says.translate(_ESCAPED)}" if says else name


NO_ID = "-"

request_id: ContextVar[str] = ContextVar("request_id", default=NO_ID)
decision_id: ContextVar[str] = ContextVar("decision_id", default=NO_ID)


@dataclass(frozen=True, slots=True)
class TraceIds:
    """Which span of which trace the work belongs to, as lowercase hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool
    """Whether anybody records it."""


current_trace: ContextVar[TraceIds | None] = ContextVar("trace", default=None)
"""None where nobody traces."""


def sampled_trace_id() -> str:
    """The id of the trace, for an exemplar; empty where none is recorded."""
    ids = current_trace.get()
    return ids.trace_id if ids is not None and ids.sampled else ""


Metadata = tuple[tuple[str, str], ...]


def correlation_metadata() -> Metadata:
    """The ids of request and decision for a gRPC call to another service, which logs them."""
    return (("x-request-id", request_id.get()), ("x-pointsman-decision-id", decision_id.get()))


MASK = "[secret]"

_SECRETS = re.compile(
    r"""
      (?<![A-Za-z0-9]) (?:pm|sk|rk|pk) [_-] [A-Za-z0-9_-]{8,}          # our keys, and those of most providers
    | (?<![A-Za-z0-9]) (?:gh[pousr]_|hf_|xox[abp]-|AKIA|AIza) [A-Za-z0-9_-]{8,}
    | (?<![A-Za-z0-9_-]) eyJ [A-Za-z0-9_-]{8,} \. [A-Za-z0-9_-]{8,} (?: \. [A-Za-z0-9_-]* )?   # a JSON web token
    | (?<= Bearer [ ]) [^\s"',;]{8,}
    | (?<= Basic [ ]) [A-Za-z0-9+/=]{8,}
    | (?<= ://) [^\s/@:"']* : [^\s/@"']+ (?= @ )                          # in an address
    | -----BEGIN [A-Z ]* PRIVATE[ ]KEY----- [^-]* (?: -----END [A-Z ]* PRIVATE[ ]KEY----- )?
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask_secrets(text: str, mask: str = MASK) -> str:
    """`text` with `mask` in place of each key, token, private key, and password in an address."""
    return _SECRETS.sub(mask, text)
