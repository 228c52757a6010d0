"""The limit of answers for which neither the request nor its path sets `max_tokens`."""

import json

from pointsman_gateway.domain import Path, Prompt, Request, Sampling

REASONING_FIELDS = frozenset({"reasoning_effort", "reasoning", "thinking"})
"""Parameters of models that reason before they answer; how many tokens that takes is not known."""
TEMPLATE_TOKENS = 256
"""Tokens that a chat template adds to a prompt at most, such as a system message of its own."""
MESSAGE_TOKENS = 16
"""Tokens that it adds to each message."""


def default_max_tokens(path: Path, request: Request, sampling: Sampling, prompt: Prompt) -> int | None:
    """Returns the `max_tokens` for a request whose parameters, those of the path included, are `sampling`; None for no
    limit beyond these.

    There is none for answers that are useless if they are cut off (`Sampling.is_structured`) or that begin with
    reasoning, for raw completions, and for prompts that may leave too little room in the context window.
    """
    limit = path.answer_limit
    if limit is None or sampling.max_tokens is not None or request.operation != "chat" or request.media:
        return None
    if sampling.is_structured or not REASONING_FIELDS.isdisjoint(sampling.extra):
        return None
    most = TEMPLATE_TOKENS + sum([_max_tokens_of(message.content) for message in prompt.messages])
    most += MESSAGE_TOKENS * len(prompt.messages)
    most += sum([len(json.dumps(dict(message.extra), default=str)) for message in prompt.messages if message.extra])
    return limit.tokens if most <= limit.max_prompt_tokens else None


def _max_tokens_of(text: str) -> int:
    """Returns the most tokens that a text can have: none is shorter than a byte of UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
