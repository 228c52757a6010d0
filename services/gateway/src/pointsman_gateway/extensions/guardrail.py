"""The interface of guardrails, which search requests, prompts and answers for forbidden content."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import msgspec
from pointsman_servicekit.extensions import Registry

from pointsman_gateway.extensions.http_poster import HttpPoster

GUARDRAILS = Registry(
    "guardrail",
    "pointsman.guardrails",
    {
        "regex": "pointsman_gateway.validation.guardrails:RegexGuardrail",
        "pii": "pointsman_gateway.validation.guardrails:Pii",
        "http": "pointsman_gateway.validation.guardrails:HttpClassifier",
    },
    method="find",
)

Hook = Literal["request", "prompt", "response"]
"""When a guardrail is called: before the request is classified ("request"), before the prompt is sent to an engine
("prompt"), or before a part of the answer is sent to the caller ("response").
"""


class GuardedText(msgspec.Struct, frozen=True, gc=False):
    """One text that guardrails check: a string in a message or in the request's parameters, or a part of an answer."""

    role: str
    """The role of the message, "assistant" for an answer, or `PARAMETER` of `pipeline/guarded_stages.py`."""
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something forbidden that a guardrail has found: its kind, and where it is.

    `text` is the index of the text in the list that `find` got. `start` to `end` is the range in this text, in
    characters. Without an `end`, the finding is about the whole text.
    """

    kind: str
    """The kind of problem, such as "EMAIL_ADDRESS". It must not quote the text, since it is stored and shown to the
    caller.
    """
    text: int = 0
    """The index of the text in the list of texts that `Guardrail.find` got, from 0."""
    start: int = 0
    end: int | None = None
    """`start` and `end` are positions in the text, in characters. If `end` is None, the finding is about the whole text
    and cannot be redacted."""


@dataclass(frozen=True, slots=True)
class GuardrailContext:
    """What a guardrail's constructor gets after its options: the guardrail's name, and a client to call services."""

    name: str
    """The guardrail's name in the configuration."""
    http: HttpPoster | None
    """The client for calls to other services; None if the configuration is only checked, and nothing is called."""


class Guardrail(Protocol):
    """Interface of a guardrail, which finds forbidden content in texts.

    The configuration says whether a finding blocks the request or answer, or is redacted (`action`). A finding without
    an `end`, about a whole text, always blocks.
    """

    Options: ClassVar[Any]
    """The type of the guardrail's options in the configuration: any type that pydantic can validate."""

    def __init__(self, options: Any, context: GuardrailContext) -> None:
        """Takes the guardrail's options from the configuration. Raises ValueError if the options cannot be used."""

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> Sequence[Finding]:
        """Returns what is forbidden in the texts; empty if all texts may pass. `hook` says which texts these are.

        The method runs on the event loop, so it must not block: use a thread or a service. If it raises an error or
        takes longer than `timeout_seconds`, the `fail` of the configuration says whether the texts pass.
        """
        ...
