"""The parts that the responses of all APIs share: the interfaces of encoders and error formats, JSON, usage and
receipts.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import methodcaller
from typing import Any, Protocol

import msgspec
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.codec.headers import Headers
from pointsman_gateway.domain import Chunk, Chunks, Finished, Passage, Receipt, Started, TokenDetails, Usage
from pointsman_gateway.domain.receipt_fields import Encoding, FieldReader

JSON_TYPE = (b"content-type", b"application/json")

DONE = b"data: [DONE]\n\n"
"""The last event of a stream in most of OpenAI's endpoints."""

_RECEIPT_FIELDS = FieldReader(Encoding.ANSWER, Receipt)

to_json = msgspec.json.Encoder().encode
_to_latin_1 = methodcaller("encode", "latin-1")


class ErrorFormat(Protocol):
    """Interface of an API's format of errors and of request ids; `OpenAIErrors` and `AnthropicErrors` implement it."""

    @property
    def schema(self) -> str:
        """Returns the name of the errors' schema in openapi.yaml."""
        ...

    def encode(self, error: PointsmanError) -> tuple[int, dict[str, Any]]:
        """Returns the status and the body of a response that reports an error."""
        ...

    def encode_rejection(self, status: int, code: str, message: str) -> dict[str, Any]:
        """Returns the body of an error response to a request that is not read to its end, so the connection is closed.

        `status` is the HTTP status, and `code` the stable name of the mistake, such as "headers_too_large".
        """
        ...

    def id_headers(self, id: bytes) -> Headers:
        """Returns the headers with the request's id, which all responses of the API have."""
        ...


class AnswerEncoder(Protocol):
    """Interface that encodes one answer for one endpoint, as a stream or as one JSON body; each API (dialect)
    implements it.

    The answer's id is the decision's id behind a prefix such as "chatcmpl-"; feedback may name the answer by either id.

    To stream, the caller sends the results of `encode_start`, of any number of calls of `encode_chunks`, and then of
    `encode_end` or `encode_error`. Each result consists of complete server-sent events, or is empty.
    """

    @property
    def error_format(self) -> ErrorFormat:
        """Returns the format of an error that is reported instead of an answer."""
        ...

    def encode_start(self, started: Started) -> bytes:
        """Returns the server-sent events that come before the first chunk of the answer."""
        ...

    def encode_chunks(self, chunks: Chunks) -> bytes:
        """Returns the server-sent events for chunks of the answer that arrived together.

        Raises EngineFailed if the answer is too long for an API that repeats the whole answer at its end.
        """
        ...

    def encode_end(self, finished: Finished) -> bytes: ...

    def encode_error(self, error: PointsmanError) -> bytes:
        """Returns the server-sent events that end a stream whose answer has failed with `error`."""
        ...

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        """Returns the JSON body of an answer that is not streamed."""
        ...


def to_event(data: Any) -> bytes:
    """Encodes `data` as JSON in a server-sent event without a name."""
    return b"data: " + to_json(data) + b"\n\n"


def error_headers(error: PointsmanError) -> dict[str, str]:
    # Rounded up, because clients wait exactly this long.
    return {"retry-after": str(max(1, math.ceil(error.retry_after)))} if error.retry_after is not None else {}


def error_response(
    error: PointsmanError, extra_headers: Sequence[tuple[bytes, bytes]], error_format: ErrorFormat
) -> tuple[int, Headers, bytes]:
    """Returns status, headers and body of a response that reports an error, in the format `error_format`.

    The headers are `extra_headers`, the content type, `retry-after` if the error says when to retry, and, if one of the
    caller's limits was exceeded, the headers that show the limits.
    """
    status, body = error_format.encode(error)
    headers = [JSON_TYPE, *extra_headers, *encode_headers(error_headers(error)), *encode_headers(error.limits)]
    return status, headers, to_json(body)


def encode_headers(headers: Mapping[str, str]) -> Headers:
    return list(zip(map(str.encode, headers), map(_to_latin_1, headers.values()), strict=True))


def system_fingerprint(started: Started) -> str:
    """Returns OpenAI's `system_fingerprint` for engines that report none: a hash of the configuration's revision, the
    path and the model.
    """
    return _fingerprint(started.decision.revision, started.decision.path.name, started.model)


@lru_cache(maxsize=128)
def _fingerprint(revision: str, path: str, model: str) -> str:
    return "fp_" + hashlib.blake2b(f"{revision}\n{path}\n{model}".encode(), digest_size=5).hexdigest()


def usage_body(usage: Usage) -> dict[str, Any]:
    """Returns OpenAI's `usage` object, with the details that OpenAI's format has for some kinds of tokens."""
    body = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if usage.details is not None:
        _add_details(body, usage.details)
    return body


def _add_details(body: dict[str, Any], details: TokenDetails) -> None:
    """Adds the tokens of special kinds to a `usage` object, as far as OpenAI's format has them."""
    body["prompt_tokens_details"] |= {
        "cache_write_tokens": details.cache_write + details.cache_write_1h,
        "audio_tokens": details.prompt_audio,
    }
    body["completion_tokens_details"] = {
        "reasoning_tokens": details.reasoning,
        "audio_tokens": details.completion_audio,
    }


def receipt_body(receipt: Receipt) -> dict[str, Any]:
    """Returns the object `pointsman` in answers: the parts of the receipt (path, tokens, costs) that clients get."""
    fields = _RECEIPT_FIELDS.read(receipt)
    if receipt.sources:
        fields["sources"] = [_source(passage) for passage in receipt.sources]
    return fields


def _source(passage: Passage) -> dict[str, Any]:
    source = {
        "document_id": passage.document_id,
        "title": passage.title,
        "heading": passage.heading,
        "text": passage.text,
        "start": passage.start,
        "end": passage.end,
        "score": round(passage.score, 4),
    }
    return {**source, "url": passage.url} if passage.url else source
