"""Formats log records with the ids of their request, and masks secrets in them.

Unless the level is DEBUG, the messages of errors are left out if they may quote a request.
"""

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
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

WITHHELD = "(what it says is withheld, it may quote a request; at DEBUG it is shown)"

_SAY_NOTHING_OF_VALUES = (
    OSError, AttributeError, ImportError, MemoryError, NameError, NotImplementedError, RecursionError,
    StopAsyncIteration, StopIteration, TypeError, ZeroDivisionError,
)  # fmt: skip
"""Errors whose messages name only code, files or addresses; the message of any other error may quote a request."""

_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))} | {10: "\\n", 13: "\\r", 9: "\t"}
"""Escapes for control characters, so that logged text can neither start a new line nor move a terminal's cursor."""

NO_ID = "-"

request_id: ContextVar[str] = ContextVar("request_id", default=NO_ID)
decision_id: ContextVar[str] = ContextVar("decision_id", default=NO_ID)

Metadata = tuple[tuple[str, str], ...]

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


def configure_logging(service: str, level: LogLevel = "INFO", form: LogFormat = "text") -> None:
    """Makes the root logger write to standard error only; of httpx and httpx2 only warnings and errors are logged.

    With the form "text", a record is the line `time level service [request_id] module: message`, followed by the
    traceback if there is one. With "json", a record is a line with a JSON object of the same fields, and the ids of
    decision, trace and span if they are set.
    """
    logging.basicConfig(level=level, handlers=[make_handler(sys.stderr, service, level, form)], force=True)
    for client in ("httpx", "httpx2"):  # they log each request; httpx2 is the Kubernetes client's
        logging.getLogger(client).setLevel(logging.WARNING)


def make_handler(stream: TextIO, service: str, level: LogLevel = "INFO", form: LogFormat = "text") -> logging.Handler:
    """Returns a handler that writes to `stream` in the format of `configure_logging`.

    `level` does not filter records: it only decides whether errors' messages are shown (DEBUG) or may be withheld.
    """
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
    """Returns the ids of decision, trace and span that are set, by their names in JSON."""
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

    def message(self, record: logging.LogRecord) -> str:
        message = record.getMessage() if self._shows_all else _message(record)
        if record.name == "asyncio" and not self._shows_all:
            message = message.partition("\n")[0]  # the lines after the first show the task with its error's message
        return mask_secrets(message)

    def failure(self, record: logging.LogRecord) -> str:
        """Returns the traceback of a record's exception, with secrets masked; empty if the record has none."""
        error = record.exc_info[1] if record.exc_info else None
        return mask_secrets("".join(_traceback(error, self._shows_all)).rstrip()) if error else ""


class _Text(_Form):
    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{self.formatTime(record)} {record.levelname:7} {self._service} [{record.__dict__['request_id']}] "
            f"{record.name}: {self.message(record)}"
        ).translate(_ESCAPED)
        failure = self.failure(record)
        return f"{line}\n{failure}" if failure else line


class _Json(_Form):
    def format(self, record: logging.LogRecord) -> str:
        failure = self.failure(record)
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "request_id": record.__dict__["request_id"],
            **record.__dict__["further_ids"],
            "module": record.name,
            "message": self.message(record),
            **({"traceback": failure} if failure else {}),
        }
        return json.dumps(fields)


def _message(record: logging.LogRecord) -> str:
    """Returns the record's message; an exception among its arguments is formatted by `_named`."""
    if not isinstance(record.args, tuple) or not any(isinstance(value, BaseException) for value in record.args):
        return record.getMessage()
    args = (_named(value, False) if isinstance(value, BaseException) else value for value in record.args)
    return str(record.msg) % tuple(args)


def _traceback(error: BaseException, shows_all: bool) -> Iterator[str]:
    """Yields the parts of an error's traceback as text, beginning with its first cause.

    Without `shows_all`, messages of exceptions that may quote a request are left out.
    """
    for before, link in _causes(error):
        yield from traceback.format_tb(before.__traceback__)
        yield f"{_named(before, shows_all)}\n\n{link}\n\n" if link else f"{_named(before, shows_all)}\n"


def _causes(error: BaseException) -> list[tuple[BaseException, str]]:
    """Returns the error and up to nine causes, the first cause first, each with the words that link it to the next."""
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
    else:  # our errors are named by their code: their message may quote what an engine said about a request
        says = error.code if isinstance(error, PointsmanError) else WITHHELD
    return f"{name}: {says.translate(_ESCAPED)}" if says else name


@dataclass(frozen=True, slots=True)
class TraceIds:
    """The ids of the current span and its trace, as lowercase hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool
    """Whether the trace is recorded."""


current_trace: ContextVar[TraceIds | None] = ContextVar("trace", default=None)
"""The ids of the current trace; None outside a span, and if tracing is off."""


def sampled_trace_id() -> str:
    """Returns the id of the current trace, for the exemplar of a metric; empty if no trace is recorded."""
    ids = current_trace.get()
    return ids.trace_id if ids is not None and ids.sampled else ""


def correlation_metadata() -> Metadata:
    """Returns the ids of request and decision (`NO_ID` if not set) as gRPC metadata, which the called service logs."""
    return (("x-request-id", request_id.get()), ("x-pointsman-decision-id", decision_id.get()))


def mask_secrets(text: str, mask: str = MASK) -> str:
    """Replaces API keys and tokens of known forms, what follows "Bearer" or "Basic", private keys, and USER:PASSWORD in
    addresses by `mask`.
    """
    return _SECRETS.sub(mask, text)
