"""The interface of guardrails: checks of requests, of prompts and of answers."""

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
"""When a guardrail is called: before the request is classified, before the prompt is sent to an engine, or before a
part of the answer is sent to the caller.
"""


class GuardedText(msgspec.Struct, frozen=True, gc=False):
    """The text of a message, of a tool call's arguments, or a part of an answer."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that a guardrail has found in a text."""

    kind: str
    """The kind of problem, such as "EMAIL_ADDRESS". It is stored and shown to the caller, so it must not quote the
    text.
    """
    text: int = 0
    """The index of the text."""
    start: int = 0
    end: int | None = None
    """The position in the text, in characters. None: the finding is about the whole text and cannot be redacted."""


@dataclass(frozen=True, slots=True)
class GuardrailContext:
    """The arguments of a guardrail's constructor in addition to its options."""

    name: str
    """The guardrail's name in the configuration."""
    http: HttpPoster | None
    """Client for calls to other services; None while a configuration is only checked."""


class Guardrail(Protocol):
    """Finds forbidden content. The configuration says whether a finding blocks the text or is redacted."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""

    def __init__(self, options: Any, context: GuardrailContext) -> None:
        """Takes the options of the configuration; raises ValueError if they cannot be used."""

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> Sequence[Finding]:
        """Returns the findings in the texts; none if all texts may pass.

        The method runs on the event loop, so it must not block: use a thread or a service. If it raises or times out,
        the configuration says whether the texts pass.
        """
        ...
