"""The built-in guardrails: `regex`, `pii` (personal data) and `http` (a service)."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Annotated, Any

import msgspec
import regex
from pydantic import Field

from pointsman_gateway.config.field_types import MAX_GUARDRAIL_SECONDS, Strict
from pointsman_gateway.extensions.guardrail import Finding, GuardedText, Guardrail, GuardrailContext, Hook

MAX_INLINE_CHARACTERS = 4096
"""Maximum number of characters of all texts together that are searched in the event loop; longer texts are searched in
a thread. The windows in which a streamed answer is searched are shorter."""
INLINE_TIMEOUT_SECONDS = 0.05
"""Maximum CPU time for all patterns on a short text. The limit is needed because a pattern such as `(a+)+$` could take
years."""
GUARDRAIL_THREADS = 2
PII_WINDOW = 2048
"""Number of characters that Presidio analyzes in one call, which takes up to 0.4 ms per character and cannot be
interrupted."""
PII_OVERLAP = 256
"""Number of characters that two neighbouring windows share, so that a shorter finding is complete in one of them."""
MAX_REPLY_BYTES = 1024 * 1024
Kind = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,64}$")]
"""The kind of a finding, such as "EMAIL_ADDRESS"."""


class RegexGuardrail(Guardrail):
    """A guardrail that finds matches of regular expressions; its options are {KIND OF FINDING: PATTERN}."""

    Options = Annotated[dict[Kind, str], Field(min_length=1)]

    def __init__(self, options: dict[str, str], context: GuardrailContext) -> None:
        self._patterns: dict[str, Any] = {}
        for kind, pattern in options.items():
            try:
                self._patterns[kind] = regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{kind}: bad regex {pattern!r}: {error}") from error
            if self._patterns[kind].match(""):
                raise ValueError(f"{kind}: the regex {pattern!r} matches an empty text; write what must be there")
        self._threads = _Threads("regex")

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> list[Finding]:
        if sum(len(text.text) for text in texts) <= MAX_INLINE_CHARACTERS:
            return [one for one in self._matches(texts, INLINE_TIMEOUT_SECONDS) if one]
        return await self._threads.find(self._matches(texts, MAX_GUARDRAIL_SECONDS, concurrent=True))

    def _matches(self, texts: Sequence[GuardedText], timeout: float, **options: bool) -> Iterator[Finding | None]:
        """Yields each match as a finding, and None after each text, so that the caller can stop the search in between.

        `options` are those of `regex.finditer`. Raises TimeoutError if all searches together take more than `timeout`
        seconds of CPU time.
        """
        deadline = time.thread_time() + timeout
        for kind, pattern in self._patterns.items():
            for number, text in enumerate(texts):
                left = max(deadline - time.thread_time(), 0.0)
                for match in pattern.finditer(text.text, timeout=left, **options):
                    yield Finding(kind, number, match.start(), match.end())
                yield None


class _Threads:
    """The threads in which one guardrail searches texts; asyncio's threads are not used, so that other work need not
    wait.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(GUARDRAIL_THREADS, name)

    async def find(self, findings: Iterator[Finding | None]) -> list[Finding]:
        """Collects the items of `findings` that are not None, in a thread. Raises the iterator's errors.

        If the call is cancelled, the thread stops at the next item, so the iterator has to yield None while it finds
        nothing.
        """
        is_over = threading.Event()

        def collect() -> list[Finding]:
            return [one for one in takewhile(lambda one: not is_over.is_set(), findings) if one]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, collect)
        finally:
            is_over.set()


class PiiOptions(Strict):
    entities: tuple[str, ...] = Field(
        default=("CREDIT_CARD", "CRYPTO", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN"),
        min_length=1,
        description="Presidio's names; those that need a language model (PERSON, LOCATION) are not available",
    )
    language: str = Field(
        default="en", pattern=r"^[a-z]{2}$", description="language of the recognizers, as an ISO 639-1 code"
    )
    min_score: float = Field(default=0.4, gt=0, le=1, description="the lowest Presidio score of a finding")


class Pii(Guardrail):
    """A guardrail that finds personal data with Presidio's pattern recognizers, which need no language model."""

    Options = PiiOptions

    def __init__(self, options: PiiOptions, context: GuardrailContext) -> None:
        self._options = options
        self._recognizers = _pattern_recognizers(options)
        self._threads = _Threads("pii")

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> list[Finding]:
        return await self._threads.find(self._findings(texts))

    def _findings(self, texts: Sequence[GuardedText]) -> Iterator[Finding | None]:
        """Yields personal data as findings, and None after each call of a recognizer, so that the search can be
        stopped.
        """
        wanted, least = set(self._options.entities), self._options.min_score
        for number, text in enumerate(texts):
            length = len(text.text)
            for start in range(0, max(length - PII_OVERLAP, 1), PII_WINDOW - PII_OVERLAP):
                window = text.text[start : start + PII_WINDOW]
                for recognizer in self._recognizers:
                    for found in recognizer.analyze(window, recognizer.supported_entities, None):
                        finding = Finding(found.entity_type, number, start + found.start, start + found.end)
                        if finding.kind in wanted and found.score >= least and not _is_cut(finding, start, length):
                            yield finding
                    yield None


def _is_cut(finding: Finding, start: int, length: int) -> bool:
    """Returns whether a finding may be only a part of one that the next or the previous window of the text has as a
    whole.

    It is if it touches an edge of its window and is shorter than the windows' overlap. `start` is the window's
    position, and `length` that of the whole text, both in characters.
    """
    end = min(start + PII_WINDOW, length)
    is_at_edge = finding.start == start > 0 or finding.end == end < length
    return is_at_edge and (finding.end or 0) - finding.start < PII_OVERLAP - 1


def _pattern_recognizers(options: PiiOptions) -> list[Any]:
    """Returns Presidio's recognizers for the entities and the language of the options. Raises ValueError if Presidio is
    not installed, or for an unknown entity.
    """
    try:
        import tldextract
        from presidio_analyzer import RecognizerRegistry
        from presidio_analyzer.predefined_recognizers import EmailRecognizer, SpacyRecognizer
    except ImportError as error:
        raise ValueError("pii needs Presidio: pip install 'pointsman-gateway[pii]'") from error
    domain_of: Callable[[str], Any] = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):  # type: ignore[misc]  # its module is skipped
        """Recognizes e-mail addresses by the public suffixes in tldextract's package, without a download."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(domain_of(pattern_text).fqdn)

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns of each recognizer of another language
    registry = RecognizerRegistry(supported_languages=[options.language])
    registry.load_predefined_recognizers(languages=[options.language])
    found = [r for r in registry.recognizers if not isinstance(r, EmailRecognizer | SpacyRecognizer)]
    found.append(OfflineEmailRecognizer(supported_language=options.language))
    known = {entity for recognizer in found for entity in recognizer.supported_entities}
    unknown = [entity for entity in options.entities if entity not in known]
    if unknown:
        raise ValueError(f"unknown entity '{unknown[0]}'; known without a language model: {', '.join(sorted(known))}")
    return [recognizer for recognizer in found if not set(options.entities).isdisjoint(recognizer.supported_entities)]


class HttpOptions(Strict):
    url: str = Field(pattern=r"^https?://")
    api_key_env: str = Field(
        default="", description="the environment variable with the API key, which is sent as a bearer token"
    )


class _Reply(msgspec.Struct):
    findings: list[Finding]


class HttpClassifier(Guardrail):
    """A guardrail that sends the texts to an HTTP service, which returns findings; docs/guardrails.md describes its
    JSON.
    """

    Options = HttpOptions

    def __init__(self, options: HttpOptions, context: GuardrailContext) -> None:
        self._url = options.url
        self._http = context.http
        self._auth = ""
        if options.api_key_env and context.http is not None:
            key = os.environ.get(options.api_key_env, "")
            if not key:
                raise ValueError(f"it needs the environment variable {options.api_key_env}, which is not set")
            self._auth = f"authorization: Bearer {key}\r\n"

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> list[Finding]:
        """Returns the findings of the service in the texts; `hook` says which texts these are.

        Raises HttpUnreachable if there is no complete reply within `MAX_GUARDRAIL_SECONDS` and `MAX_REPLY_BYTES`, and
        ValueError for a status other than 200 or an invalid body.
        """
        assert self._http is not None  # a configuration that is only checked has no requests
        body = msgspec.json.encode({"hook": hook, "texts": texts})
        deadline = asyncio.get_running_loop().time() + MAX_GUARDRAIL_SECONDS
        reply = await self._http.post(self._url, self._auth, body, deadline, MAX_REPLY_BYTES)
        if reply.status != 200:
            raise ValueError(f"it answered with status {reply.status}")
        return msgspec.json.decode(b"".join(reply.pieces), type=_Reply).findings
