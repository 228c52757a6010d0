"""The interface of guardrails: checks of what callers send, of what engines get, and of what they answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from pointsman_servicekit.extensions import Registry

from pointsman_gateway.pipeline.ports import HttpPoster

GUARDRAILS = Registry(
    "guardrail",
    "pointsman.guardrails",
    {
        "regex": "pointsman_gateway.validation.guardrails:Regex",
        "pii": "pointsman_gateway.validation.guardrails:Pii",
        "http": "pointsman_gateway.validation.guardrails:HttpClassifier",
    },
    method="find",
)

Hook = Literal["request", "prompt", "response"]
"""When a guardrail is asked: before the request is classified, before its prompt is sent to an engine, and before parts
of the answer are sent to the caller."""


@dataclass(frozen=True, slots=True)
class GuardedText:
    """The text of a message, of a tool call's arguments, or a part of an answer."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a guardrail has found in a text."""

    kind: str
    """What it is ("EMAIL_ADDRESS"). It is stored and shown to the caller, so it must not quote the text."""
    text: int = 0
    """The index of the text."""
    start: int = 0
    end: int | None = None
    """The place in the text, in characters; None: the text as a whole, which cannot be redacted."""


@dataclass(frozen=True, slots=True)
class GuardrailContext:
    """What a guardrail's factory gets in addition to the guardrail's options."""

    name: str
    """The guardrail's name in the configuration."""
    http: HttpPoster | None
    """Calls other services; None while a configuration is only checked."""


class Guardrail(Protocol):
    """Finds what must not pass. The configuration says whether it is then blocked or redacted."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""

    def __init__(self, options: Any, context: GuardrailContext) -> None:
        """Raises ValueError if the options cannot be used."""

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> Sequence[Finding]:
        """Return what was found; nothing if all texts may pass.

        It runs on the event loop, so it must not block: use a thread, or a service. If it raises, or takes longer than
        its time limit, the configuration says whether the texts pass.
        """
        ...
