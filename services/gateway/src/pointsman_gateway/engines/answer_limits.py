"""The `max_tokens` that the gateway sets for answers if neither the request nor its path sets one."""

from collections.abc import Mapping
from typing import Any

from pointsman_gateway.domain import Path, Prompt, Request, Sampling

REASONING_FIELDS = frozenset({"reasoning_effort", "reasoning", "thinking"})
"""Request parameters that make a model reason before it answers. The gateway sets no limit for requests with one of
them, because the number of reasoning tokens is unknown."""
TEMPLATE_TOKENS = 256
"""Maximum number of tokens that a chat template adds to a prompt, such as a system message of its own."""
MESSAGE_TOKENS = 16
"""Maximum number of tokens that a chat template adds to each message."""
MAX_NUMBER_TOKENS = 25
"""Maximum number of tokens of a number, `true`, `false` or `null` in JSON."""


def default_max_tokens(path: Path, request: Request, sampling: Sampling, prompt: Prompt) -> int | None:
    """Returns the `max_tokens` that the gateway sets for a request; None if it sets none.

    `sampling` are the request's parameters, completed by the path's. The gateway sets no limit in any of these cases:
    * the path or the request has a limit already, or the path has no `answer_limit`;
    * the request is a raw completion, or has media;
    * the answer is useless if it is cut off (`Sampling.is_structured`), or begins with reasoning;
    * the prompt may leave too little room in the context window.
    """
    limit = path.answer_limit
    if limit is None or sampling.max_tokens is not None or request.operation != "chat" or request.media:
        return None
    if sampling.is_structured or not REASONING_FIELDS.isdisjoint(sampling.extra):
        return None
    left = limit.max_prompt_tokens - TEMPLATE_TOKENS - MESSAGE_TOKENS * len(prompt.messages)
    for message in prompt.messages:
        left -= _max_tokens_of(message.content)
        if message.extra and left >= 0:
            left -= max_tokens_as_json(message.extra, left)
        if left < 0:
            return None
    return limit.tokens


def max_tokens_as_json(value: Any, enough: int) -> int:
    """Returns an upper bound for the number of tokens of `value` as JSON text.

    The text may have at most one space after each punctuation mark. Counting stops once the bound is over `enough`
    tokens, so that large values do not take long; the result is then over `enough`, but no bound for the whole value.
    """
    total, pending = 0, [value]
    while pending and total <= enough:
        one = pending.pop()
        if isinstance(one, str):
            total += 2 + _max_tokens_of(one)
        elif isinstance(one, Mapping):
            total += 2 + 4 * len(one)
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            total += 2 + 2 * len(one)
            pending += one
        else:
            total += MAX_NUMBER_TOKENS
    return total


def _max_tokens_of(text: str) -> int:
    """Returns an upper bound for the number of tokens of a text: its bytes in UTF-8, since no token is shorter than a
    byte.
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
