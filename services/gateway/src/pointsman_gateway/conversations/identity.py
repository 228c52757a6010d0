"""Finds the conversation to which a request belongs, by an id from the client or by the messages that the request
repeats.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from pointsman_gateway.domain import Message, Request

SESSION_FIELDS = ("session_id", "conversation_id", "conversation")
"""Names of entries in a request's metadata in which clients send an id of the conversation, in the order of their
precedence."""
CACHE_KEY = "prompt_cache_key"
MAX_TURNS = 32
"""Maximum number of user messages that are hashed, from the first one on, to tell conversations with the same beginning
apart."""
EXCERPT_CHARACTERS = 2048
"""Number of characters that are hashed at each end of a text. Two texts of the same length that differ only in the
middle have the same hash."""
MEDIA_CHARACTERS = 256
TOOL_ROLES = ("tool", "function")


def has_tools(request: Request) -> bool:
    """Returns whether the request offers tools to the model."""
    extra, anthropic = request.sampling.extra, request.sampling.anthropic
    if extra and (extra.get("tools") or extra.get("functions")):
        return True
    return bool(anthropic and anthropic.get("tools"))


def is_in_tool_loop(messages: Sequence[Message]) -> bool:
    """Returns whether the model has to continue its answer: a tool's result follows the assistant's last message, or
    the assistant's message is the last of `messages`.
    """
    for message in reversed(messages):
        if message.role in TOOL_ROLES:
            return True
        if message.role == "assistant":
            return message is messages[-1]
    return False


def count_answers(messages: Sequence[Message]) -> int:
    return sum([message.role == "assistant" for message in messages])


def session_of(request: Request) -> str:
    """Returns the conversation id that the client has set in the request's metadata; empty if there is none.

    If several of `SESSION_FIELDS` are set, the first of them counts.
    """
    metadata = request.metadata
    return next((metadata[name] for name in SESSION_FIELDS if metadata.get(name)), "") if metadata else ""


def conversation_ids(request: Request, session: str = "") -> Iterator[str]:
    """Yields the ids (hexadecimal hashes) under which the request's conversation may be stored, the one of the shortest
    history first.

    The conversation's id is the first yielded id that is in the store or, if none is, the last yielded id. If the
    client has sent an id, `session`, the only yielded id is a hash of it. If `session` is empty, the ids are hashes of
    the user's first message, of the first two messages, and so on up to `MAX_TURNS`. The first message alone is not
    enough, since clients may send the same example in every request. A request without a user message has no ids.

    All hashes include the caller's tenant and key. Hashes of messages also include the request's `user` and
    `prompt_cache_key`; if the request has neither, they include the system messages.
    """
    digest, caller = blake2b(digest_size=12), request.caller
    if session:
        digest.update(_encode((caller.tenant, caller.key, session)))
        yield digest.hexdigest()
        return
    extra = request.sampling.extra
    cache_key = extra.get(CACHE_KEY) if extra else None
    # Some clients change their system prompt from request to request.
    with_system = not (request.user or cache_key)
    texts = [caller.tenant, caller.key, request.user, cache_key if isinstance(cache_key, str) else ""]
    turns = 0
    for message in request.messages:
        role = message.role
        if role != "user" and not (with_system and role == "system"):
            continue
        texts += (role, _excerpt(message.content))
        if message.extra:
            for part in message.extra.get("content", ()):
                texts += _media_excerpts(part)
        if role == "user":
            digest.update(_encode(texts))
            yield digest.hexdigest()
            turns += 1
            if turns == MAX_TURNS:
                return
            texts = []


def _encode(texts: Sequence[str]) -> bytes:
    return ("\0".join(texts) + "\0").encode("utf-8", "surrogatepass")


def _excerpt(text: str) -> str:
    if len(text) <= 2 * EXCERPT_CHARACTERS:
        return text
    return f"{text[:EXCERPT_CHARACTERS]}{len(text)}{text[-EXCERPT_CHARACTERS:]}"


def _media_excerpts(part: Mapping[str, Any]) -> Iterator[str]:
    """Yields the length and the end of each text in a content part with a medium, so that parts with different media
    differ.
    """
    for value in part.values():
        if isinstance(value, Mapping):
            yield from _media_excerpts(value)
        elif isinstance(value, str):
            yield f"{len(value)}{value[-MEDIA_CHARACTERS:]}"
