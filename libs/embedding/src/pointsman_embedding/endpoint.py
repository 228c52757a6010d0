"""An encoder behind an OpenAI-compatible endpoint, `/v1/embeddings`."""

import hashlib
import json
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.http_client import open_client
from tokenizers import Tokenizer

from pointsman_embedding.encoder import EncoderConfig, unusable
from pointsman_embedding.minilm import MAX_CHARACTERS, MAX_TOKENS

log = logging.getLogger(__name__)

PROBE = "Where is the model of this vector?"
"""A text that EndpointEncoder embeds at start and again later; a different vector shows that the model has changed."""
PROBE_SECONDS = 60.0
"""Minimum seconds between two checks of the endpoint's model by the vector of `PROBE`."""
MIN_COSINE = 0.9
"""Minimum cosine between the vector of `PROBE` now and its vector at start. Below it, the endpoint is considered to
have another model.

Rounding and batching lower the cosine by less than 0.1, another model by far more.
"""

MAX_BYTES = 8 * 1024 * 1024
"""The largest size of the endpoint's answer to one call: enough for 17 vectors of 8,192 numbers in JSON."""
MAX_BATCH = 16
"""Maximum number of texts in one call of the endpoint; a large model on a CPU takes a second for 16 texts."""
RETRIED = frozenset({429, 500, 502, 503, 504})
MAX_RETRIES = 2
BACKOFF_SECONDS = 0.1
PAUSE_SECONDS = 2.0
"""Seconds after a failed call in which `embed` fails at once without calling the endpoint, so that no request waits."""

Vectors = NDArray[np.float32]


class EndpointEncoder:
    """An encoder behind an OpenAI-compatible endpoint; implements Encoder.

    Raises Unavailable if the endpoint has another model than at start: if an answer has another model name or other
    dimensions, or if the vector of the text `PROBE` has a cosine below `MIN_COSINE` to its vector at start. `PROBE` is
    embedded together with other texts, at most every `PROBE_SECONDS`.
    """

    max_tokens = MAX_TOKENS
    """The number of tokens to which callers should limit a text, as MiniLM's tokenizer counts them: the endpoint's own
    limit and tokenizer are unknown."""

    def __init__(self, config: EncoderConfig, tokenizer: Tokenizer) -> None:
        """Makes an encoder without calling the endpoint; `tokenizer` is MiniLM's. Use `connect`, which learns the
        dimensions.

        Raises FailedPrecondition if the environment variable for the API key is not set.
        """
        key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        if config.api_key_env and not key:
            raise unusable(f"embedding needs the environment variable {config.api_key_env}, which is not set")
        self.query_prefix, self.passage_prefix = config.query_prefix or "", config.passage_prefix or ""
        self.fingerprint, self.dimensions = "", 0
        self._config, self._tokenizer, self._url = config, tokenizer, _embeddings_url(config.url)
        self._http = open_client(headers={"Authorization": f"Bearer {key}"} if key else {})
        weakref.finalize(self, self._http.close)
        self._answered_name = ""
        self._probe: Vectors | None = None
        self._probed_at, self._paused_until = 0.0, 0.0

    @classmethod
    def connect(cls, config: EncoderConfig, tokenizer: Tokenizer) -> "EndpointEncoder":
        """Returns a new encoder, after the endpoint has embedded the text `PROBE`: this shows the dimensions.

        `tokenizer` is MiniLM's. Raises FailedPrecondition if the environment variable for the API key is not set,
        Unavailable if the endpoint fails.
        """
        encoder = cls(config, tokenizer)
        encoder._answered_name, vectors = encoder._call([PROBE])
        encoder._probe, encoder._probed_at = vectors[0], time.monotonic()
        encoder.dimensions = len(vectors[0])
        identity = [config.model, encoder._answered_name, config.query_prefix, config.passage_prefix]
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
        encoder.fingerprint = f"endpoint-{encoder.dimensions}-{digest}"
        log.info("embedding with %s at %s: %s", config.model, encoder._url, encoder.fingerprint)
        return encoder

    @property
    def tokenizer(self) -> Tokenizer:
        """Returns MiniLM's tokenizer, which counts a text's tokens; it neither truncates nor pads. Do not modify it."""
        return self._tokenizer

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds the first `MAX_CHARACTERS` characters of n texts: an array (n, dimensions) of vectors of length 1.

        Each call to the endpoint has up to `MAX_BATCH` texts, and blocks for at most the configured `timeout_seconds`.
        Raises Unavailable if the endpoint fails or has another model, and at once during the `PAUSE_SECONDS` after a
        failure.
        """
        parts = [self._embed_batch(texts[start : start + MAX_BATCH]) for start in range(0, len(texts), MAX_BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimensions), np.float32)

    def _embed_batch(self, texts: Sequence[str]) -> Vectors:
        probing = time.monotonic() >= self._probed_at + PROBE_SECONDS
        name, vectors = self._call([*texts, PROBE] if probing else texts)
        if name != self._answered_name:
            raise self._changed(f"it answers as model '{name}', and did as '{self._answered_name}' at start")
        if vectors.shape[1] != self.dimensions:
            raise self._changed(f"its vectors have {vectors.shape[1]} dimensions, and had {self.dimensions} at start")
        if probing:
            assert self._probe is not None
            cosine = float(vectors[-1] @ self._probe)
            if cosine < MIN_COSINE:
                raise self._changed(f"a known text's vector has cosine {cosine:.2f} to the one it had at start")
            self._probed_at = time.monotonic()
        return vectors[: len(texts)]

    def _changed(self, how: str) -> Unavailable:
        return self._failed(
            f"has another model now: {how}; give it the old one back, or restart gateway and retriever and migrate the "
            "collections (`pointsman retriever reembed NAME`)"
        )

    def _call(self, texts: Sequence[str]) -> tuple[str, Vectors]:
        """Returns the model's name in the answer, and the vectors of the texts, normalized to length 1.

        Raises Unavailable if the call fails, or at once during the pause after a failed call.
        """
        if time.monotonic() < self._paused_until:
            raise self._failed("failed a moment ago, and is not called yet")
        try:
            return self._parse(self._post(texts), len(texts))
        except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            raise self._failed(f"did not embed {len(texts)} text(s): {error or type(error).__name__}") from error

    def _post(self, texts: Sequence[str]) -> Any:
        """Returns the endpoint's JSON answer; repeats a call with a status in RETRIED up to MAX_RETRIES times.

        Raises httpx.HTTPError if the connection fails, ValueError if the answer is too long or too late, has the status
        of an error or a redirect, or is not JSON.
        """
        body = {
            "model": self._config.model,
            "input": [text[:MAX_CHARACTERS] for text in texts],
            "encoding_format": "float",
        }
        deadline = time.monotonic() + self._config.timeout_seconds
        for attempt in range(MAX_RETRIES + 1):
            answer, content = self._read(body, deadline)
            pause = BACKOFF_SECONDS * 4**attempt
            if answer.status_code not in RETRIED or attempt == MAX_RETRIES or time.monotonic() + pause >= deadline:
                break
            time.sleep(pause)
        if answer.is_redirect:
            raise ValueError(
                f"it redirects to {answer.headers.get('location', '')}, which is not followed; write that URL"
            )
        if answer.is_error:
            raise ValueError(f"it answered {answer.status_code}: {content[:300].decode(errors='replace')}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise ValueError(f"its answer is not JSON: {content[:100].decode(errors='replace')!r}") from None

    def _read(self, body: Mapping[str, Any], deadline: float) -> tuple[httpx.Response, bytes]:
        """Sends one request; returns the answer and its content.

        `deadline` is a time of `time.monotonic`. Raises httpx.HTTPError if the connection fails, ValueError if the
        answer is longer than `MAX_BYTES` or ends after the deadline.
        """
        # httpx limits only the time of each read, hence the check of all together.
        content = bytearray()
        left = max(deadline - time.monotonic(), 0.001)
        with self._http.stream("POST", self._url, json=body, timeout=left) as answer:
            for part in answer.iter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise ValueError(f"its answer is longer than {MAX_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise ValueError(f"its answer took longer than {self._config.timeout_seconds:g} s")
        return answer, bytes(content)

    def _parse(self, answer: Any, count: int) -> tuple[str, Vectors]:
        """Returns the model's name and the `count` vectors in an answer, in the order of the texts.

        Raises ValueError, KeyError, TypeError, AttributeError or OverflowError if a vector is missing or invalid.
        """
        rows = {int(row["index"]): row["embedding"] for row in answer["data"]}
        if sorted(rows) != list(range(count)):
            raise ValueError(f"it answered {len(rows)} vectors")
        vectors = np.array([rows[number] for number in range(count)], np.float32)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        if vectors.ndim != 2 or not np.isfinite(vectors).all() or not lengths.all():
            raise ValueError("its vectors are not lists of numbers of one length, or are all zero")
        return str(answer.get("model") or ""), vectors / lengths

    def _failed(self, reason: str) -> Unavailable:
        return Unavailable(
            f"the embedding endpoint {self._url} {reason}", code="embedding_unavailable", retry_after=PAUSE_SECONDS
        )


def _embeddings_url(url: str) -> str:
    base = url.rstrip("/")
    if base.endswith("/embeddings"):
        return base
    return f"{base}/embeddings" if base.endswith("/v1") else f"{base}/v1/embeddings"
