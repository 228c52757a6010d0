"""Builds the errors of HTTP calls to the engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, Unavailable


@contextmanager
def expecting_form(route: str) -> Iterator[None]:
    """Returns a context manager for a block that reads an engine's response to `route`. If the response has an
    unexpected form, such as a proxy's error page, it raises Unavailable.

    It converts LookupError, TypeError, ValueError and AttributeError.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        message = f"{route} in another form than this engine's API has; does something else answer at its URL?"
        raise engine_unavailable(message) from error


def engine_unavailable(what: str) -> Unavailable:
    return Unavailable(f"the engine answers {what}", code="engine_unavailable", retry_after=5.0)


def no_folder(folder: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the engine finds no {folder}: give it the folder POINTSMAN_LORA_STORE of the lora-server, and if it has "
        "another path there, name that in POINTSMAN_LORA_ENGINE_STORE",
        code="engine_store",
    )


def error_message(answer: Any) -> str:
    """Returns the message in an engine's error response (parsed JSON or text), shortened to 300 characters."""
    if isinstance(answer, dict) and "error_message" in answer:  # SGLang's loading routes
        answer = answer["error_message"]
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        answer = answer["error"].get("message", "")
    return str(answer)[:300]
