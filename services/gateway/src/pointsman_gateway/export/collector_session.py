"""The HTTP session in which OpenTelemetry's library sends records to a collector; it keeps the collector's answer.

The library itself says only whether the status was between 200 and 399.
"""

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsPartialSuccess, ExportLogsServiceResponse

from pointsman_gateway.export.failures import cause_of

MAX_ANSWER_BYTES = 64 * 1024
"""Approximate maximum of bytes that are read of a response; a collector's response has fewer."""
MAX_TEXT_CHARACTERS = 300
"""Maximum number of characters of a collector's message that are logged."""
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
_MEDIA_TYPES = (_PROTOBUF, _JSON)


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP response to a request that sent records. It may come from a server that is no collector."""

    status: int
    content_type: str
    content: bytes

    def partial_success(self) -> ExportLogsPartialSuccess | None:
        """Returns the part of a collector's response that says which records it rejected; the part is empty if it
        rejected none.

        Returns None if the response is not that of a collector that took the records.
        """
        if not 200 <= self.status < 300 or (self.content and self._media_type.startswith("text/")):
            return None
        response = ExportLogsServiceResponse()
        return response.partial_success if self._parse(response) else None

    @property
    def is_refusal(self) -> bool:
        """Returns whether a collector rejects the records for good, so that sending them again is useless.

        False for a response with status 400 that is not in OTLP's format: it comes from another server, such as one
        that expects TLS.
        """
        if self.status == HTTPStatus.BAD_REQUEST and self._media_type == _JSON:
            status = Status()
            return self._parse(status) and status.code != 0
        if self.status == HTTPStatus.BAD_REQUEST:
            return self._media_type in _MEDIA_TYPES
        return self.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    @property
    def reason(self) -> str:
        """Returns a text for the log that says why the records were not taken."""
        known = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
        reason, details = known.get(self.status, str(self.status)), Status()
        if self.is_refusal:
            is_explained = self._media_type in _MEDIA_TYPES and self._parse(details) and details.message
            return f"{reason}: {one_line(details.message)}" if is_explained else reason
        if self.status == HTTPStatus.BAD_REQUEST or 200 <= self.status < 300:
            return f"{reason}, but the answer ({one_line(self.content_type)}) is not that of a collector"
        return reason

    def _parse(self, message: Message) -> bool:
        """Fills a message with the content; returns False if the content is not such a message."""
        if len(self.content) > MAX_ANSWER_BYTES:
            return False
        try:
            if self.content and self._media_type == _JSON:
                json_format.Parse(self.content, message, ignore_unknown_fields=True)
            else:
                message.ParseFromString(self.content)
        except (DecodeError, json_format.Error, ValueError, RecursionError):
            return False
        return True

    @property
    def _media_type(self) -> str:
        return self.content_type.partition(";")[0].strip().lower()


class CollectorSession(requests.Session):
    """An HTTP session that keeps its last response or error. The session follows no redirects, and aborts a response
    that is not complete within the timeout.

    The timeout of the `requests` library applies to each read of data, and not to the whole response.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer: Answer | None = None
        self.error: Exception | None = None

    def forget(self) -> None:
        self.answer = self.error = None

    @property
    def reason(self) -> str:
        """Returns a text for the log that says why the records of the last request were not taken."""
        if self.answer is not None:
            return self.answer.reason
        return "they cannot be encoded" if self.error is None else cause_of(self.error)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Sends a request and keeps its response or error. `timeout` in `options` is in seconds, for the whole
        response. Raises the errors of the `requests` library.
        """
        if options["timeout"] <= 0:  # the library has waited for too long: what came before is the reason
            timeout = requests.Timeout("no time is left for a further attempt")
            if self.answer is None and self.error is None:
                self.error = timeout
            raise timeout
        self.forget()
        deadline = time.monotonic() + options["timeout"]
        try:
            response = super().send(request, **{**options, "stream": True})
            content = _read(response, deadline)
        except Exception as error:
            self.error = error
            raise
        self.answer = Answer(response.status_code, response.headers.get("content-type", ""), content)
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Returns None, so that no redirect is followed: `requests` would read the whole response first, however
        long it is.
        """


def one_line(text: str) -> str:
    """Returns a text from a collector for the log: shortened, and without line breaks and control characters."""
    words = "".join(one if one.isprintable() else " " for one in text[: 2 * MAX_TEXT_CHARACTERS]).split()
    line = " ".join(words)
    return line if len(line) <= MAX_TEXT_CHARACTERS else line[:MAX_TEXT_CHARACTERS] + "..."


def _read(response: requests.Response, deadline: float) -> bytes:
    """Returns the content, or a little more than `MAX_ANSWER_BYTES` of a longer one; raises ReadTimeout at the
    deadline.
    """
    content = bytearray()
    with response:
        for part in response.iter_content(1):  # a larger part would be awaited until it is complete
            content += part
            if time.monotonic() >= deadline:
                raise requests.ReadTimeout("the answer is not complete")
            if len(content) > MAX_ANSWER_BYTES:
                break
    return bytes(content)
