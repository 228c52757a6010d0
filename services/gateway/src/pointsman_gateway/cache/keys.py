"""Computes the keys under which answers are cached.

Requests with the same exact key share an answer. Requests with the same partition (they are equal except for the
question's wording) share an answer if their questions are similar.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.config.paths_file import CacheConfig
from pointsman_gateway.domain import Message, Path, Prompt, Request, Sampling

MAX_QUESTION_CHARACTERS = 1_000
"""A question with more characters is not compared with other questions by similarity, since the embedding model reads
only a part of a long text."""

PUNCTUATION = "\"'`“”‘’.,:;!?()[]{}<>*_-–—"
"""Characters that are stripped from both ends of a word."""

NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve hundred thousand first second third half"
NEGATIONS = "not no never none nobody nothing neither nor without except unless only cannot before after"
DISTINGUISHING = frozenset(f"{NUMBERS} {NEGATIONS}".split())
"""English words, such as numbers and negations, that change the answer to a question, but hardly change the question's
vector."""

TOOL_ROLES = frozenset({"tool", "function"})
TOOL_CALL_FIELDS = frozenset({"tool_calls", "function_call"})

LAYOUT_VERSION = 2
"""Version of the keys' format and of the stored answers' format. After an increase, answers of earlier versions are not
found."""

MAX_PROMPT_CHARACTERS = 64 * 1024
"""The cache is not used for a prompt with more characters: long prompts rarely repeat, and hashing them takes long."""


def may_match_similar(request: Request, sampling: Sampling) -> bool:
    """Returns whether the cache may answer the request with the answer to a similar question.

    Returns False in any of these cases: the request offers tools, or its messages contain tool calls or their results,
    since the cached tool call would have the other question's arguments; the request wants several choices, which are
    meant to differ; the last message is not the user's; the question is empty or longer than `MAX_QUESTION_CHARACTERS`.
    """
    extra = sampling.extra
    return (
        request.messages[-1].role == "user"
        and 0 < len(request.query) <= MAX_QUESTION_CHARACTERS
        and not (extra.get("tools") or extra.get("functions"))
        and not any(m.role in TOOL_ROLES or not TOOL_CALL_FIELDS.isdisjoint(m.extra) for m in request.messages)
        and (extra.get("n") or 1) == 1
    )


def distinguishing_words(question: str) -> list[str]:
    """Returns the words, in lower case, in which two similar questions must agree to share an answer.

    These are words that contain a digit, end with "n't", or are in `DISTINGUISHING`. For example, "Refund booking AB12"
    and "Refund booking CD34" have almost the same vector, but never the same answer.
    """
    words = (word.strip(PUNCTUATION).casefold() for word in question.replace("’", "'").split())
    return [word for word in words if word in DISTINGUISHING or word.endswith("n't") or any(map(str.isnumeric, word))]


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """The keys under which the answer to one request is cached, and other facts about the request that the cache
    needs.
    """

    path: str
    """The name of the path that answers the request."""
    model: str
    """The name of the base model or adapter version that would answer. Only its answers are stored under these keys."""
    tenant: str
    """A hash of the name of the caller's tenant."""
    exact: str
    """A hash of everything on which the answer depends; the answer is stored under this key."""
    partition: str
    """A hash of everything that two requests with similar questions must have in common to share an answer. It is empty
    if the request may not get the answer to a similar question."""
    question: str
    """The request's question, which is compared with the questions of earlier requests by similarity."""
    is_renewal: bool
    """True if the cache must not answer the request, but must store the engine's new answer."""


class CacheKeyBuilder:
    """Computes the cache keys of requests that one path answers, by the path's cache settings."""

    def __init__(self, path: Path, config: CacheConfig, embedding: str) -> None:
        """Takes the path and its cache configuration. `embedding` is the fingerprint of the embedding model: vectors
        of questions are compared only if the same model has made them.
        """
        self.config = config
        self._path = path
        self._embedding = embedding

    def keys_for(self, request: Request, prompt: Prompt, model: str) -> CacheKeys | None:
        """Returns the cache keys of a request, or None if the cache must not be used for it.

        `model` names the base model or adapter version that would answer. The cache is not used in these cases:
        * the request switches the cache off (`Request.cache`), or has media;
        * the request's temperature is not 0, and the path's configuration does not allow other temperatures;
        * the request has no `user`, and the path's configuration stores answers per user;
        * the prompt has more than `MAX_PROMPT_CHARACTERS`, or the search of one of the path's collections failed;
        * `model` is empty, because the adapter version is unknown.
        """
        mode = request.cache
        sampling = request.sampling.with_defaults(self._path.sampling)
        if not model or mode == "off" or not self._is_cacheable(request, prompt, sampling):
            return None
        tenant, parameters = request.caller.tenant, [request.operation, *_sampling_key(sampling)]
        common = [
            LAYOUT_VERSION,
            tenant,
            self._user(request),
            self._path.name,
            self._path.fingerprint,
            model,
            prompt.collection_versions,
        ]
        messages = list(map(_message_key, prompt.messages))
        return CacheKeys(
            path=self._path.name,
            model=model,
            tenant=_digest(tenant),
            exact=_digest(["exact", *common, parameters, messages]),
            partition=self._partition(request, prompt, sampling, [*common, parameters]),
            question=request.query,
            is_renewal=mode == "renew",
        )

    def _is_cacheable(self, request: Request, prompt: Prompt, sampling: Sampling) -> bool:
        return (
            not request.media
            and (sampling.temperature == 0 or self.config.allow_nonzero_temperature)
            and (bool(request.user) or not self.config.per_user)
            # An answer without passages, made while the retriever was not available, must not be stored.
            and {name for name, _ in prompt.collection_versions} == set(self._path.collections)
            and sum(len(message.content) for message in prompt.messages) <= MAX_PROMPT_CHARACTERS
        )

    def _user(self, request: Request) -> str:
        return request.user if self.config.per_user else ""

    def _partition(self, request: Request, prompt: Prompt, sampling: Sampling, common: list[Any]) -> str:
        if self.config.similarity_threshold is None or not may_match_similar(request, sampling):
            return ""
        *earlier, last = request.messages
        before = [
            *map(_message_key, earlier),
            dict(last.extra),
            [(b.kind, dict(b.fields), b.members) for b in last.blocks],
        ]
        # A collection that was deleted and created again may repeat an earlier version number.
        shown = [(p.document_id, p.start, p.text) for p in prompt.passages]
        return _digest(["near", *common, before, shown, distinguishing_words(request.query), self._embedding])


def _sampling_key(sampling: Sampling) -> list[Any]:
    temperature = None if sampling.temperature is None else float(sampling.temperature)
    key = [sampling.max_tokens, temperature, sampling.top_p, sampling.seed, sampling.stop, dict(sampling.extra)]
    return [*key, dict(sampling.anthropic)] if sampling.anthropic else key


def _message_key(message: Message) -> list[Any]:
    key: list[Any] = [message.role, message.content, dict(message.extra)]
    if message.blocks:
        key.append([(b.kind, dict(b.fields), b.start, b.end, b.members) for b in message.blocks])
    return key


def _digest(value: Any) -> str:
    written = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(written.encode(), digest_size=20).hexdigest()
