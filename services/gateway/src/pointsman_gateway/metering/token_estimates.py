"""Estimates the tokens of a request before an engine has counted them, and of an answer that was cut off."""

from collections.abc import Iterable
from dataclasses import replace

from pointsman_gateway.domain import Message, Request, Usage
from pointsman_gateway.domain.usage import ESTIMATED
from pointsman_gateway.domain.value import CHARACTERS_PER_TOKEN

TYPICAL_ANSWER_TOKENS = 128


def estimate_tokens(messages: Iterable[Message]) -> int:
    return sum([len(message.content) for message in messages]) // CHARACTERS_PER_TOKEN


def estimate_own_tokens(request: Request) -> int:
    return request.characters // CHARACTERS_PER_TOKEN


def estimate_total_tokens(request: Request) -> int:
    """Estimates the tokens of prompt and answer together, before a path is chosen. Text that a path adds to the prompt
    is not included.
    """
    return estimate_own_tokens(request) + estimate_answer_tokens(request)


def estimate_answer_tokens(request: Request, default: int | None = None) -> int:
    """Estimates the tokens of all choices of the answer: each counts as the request's `max_tokens`.

    If the request has no `max_tokens`, each choice counts as `default` tokens, or as `TYPICAL_ANSWER_TOKENS` if
    `default` is None.
    """
    limit = request.sampling.max_tokens
    return (limit if limit is not None else default or TYPICAL_ANSWER_TOKENS) * choice_count(request)


def choice_count(request: Request) -> int:
    """Returns the number of choices that the engine generates: the request's `n` (default 1) times the number of
    prompts of a completion.
    """
    extra = request.sampling.extra
    if not extra:
        return 1
    count: int = extra.get("n") or 1
    return count * len(request.messages) if request.operation == "completion" else count


def estimate_usage(
    messages: Iterable[Message], pieces: int, reported: Usage | None, tier: str = "", *, is_sent: bool
) -> Usage:
    """Estimates the tokens of an answer that was cut off before the engine had reported its count.

    `pieces` is the number of pieces that arrived; the answer has at least as many tokens. `reported` is an estimate
    made during the answer, from which the prompt's tokens are taken; without it they follow from the length of
    `messages`, and the service tier is `tier`. All counts are 0 if there is no `reported` and no engine got the prompt
    (`is_sent` is false).
    """
    if reported is not None:
        return replace(reported, completion_tokens=max(reported.completion_tokens, pieces))
    details = replace(ESTIMATED, service_tier=tier) if tier else ESTIMATED
    return Usage(estimate_tokens(messages), pieces, details=details) if is_sent else Usage()
