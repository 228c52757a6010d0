"""Finds which of a request's less common fields (`codec/uncommon_fields`) the engines of each API format do not get."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.codec.uncommon_fields import ANTHROPIC_TOOLS
from pointsman_gateway.config.providers import MESSAGE_FIELDS, request_fields
from pointsman_gateway.domain import Request, Sampling
from pointsman_gateway.engines.dialects.anthropic.messages import MIN_THINKING_TOP_P, SERVICE_TIERS, is_thinking

ALL = None
"""A value in `SENT_FIELDS` which says that engines get every field of objects of this kind."""

_AS_OPENAI: Mapping[str, Set[str] | None] = {
    "messages": request_fields(MESSAGE_FIELDS).forwarded,
    "parts": {"detail"},
    "tool_calls": ALL,
    "functions": ALL,
    "response_format": ALL,
    "unsigned": {"thinking"},
}
SENT_FIELDS: Mapping[str, Mapping[str, Set[str] | None]] = {
    "openai": _AS_OPENAI,
    "litellm": _AS_OPENAI,
    "anthropic": {
        "messages": {"refusal", "reasoning_details", "cache_control"},
        "parts": {"cache_control"},
        "functions": {"cache_control"},
        "blocks": ALL,
        "tools": ALL,
    },
}
"""The less common fields that engines get, by API format and by the kind of object that has the field, such as
"messages" or "tool_calls" (the kinds of `GivenField`)."""
TOOLS = "tools"
CONTINUATION = frozenset({"continue_final_message", "add_generation_prompt"})
"""Fields that continue the assistant's last message; Anthropic's API has no such fields, because it always continues
it. A request's fields in this set are therefore not reported as unsent."""


@dataclass(frozen=True, slots=True)
class SentFields:
    """The fields of requests that are sent to the engines of one provider; `unsent` finds the fields of a request that
    are not sent.
    """

    dialect: str
    """The provider's format, a key of `SENT_FIELDS`."""
    betas: frozenset[str] = frozenset()
    """The beta features of Anthropic's API that requests may use with this provider."""

    def unsent(self, request: Request) -> Set[str]:
        """Returns the names of the request's fields that the provider's engines do not get, such as "seed" or
        "detail of parts".

        `user` and `metadata`, which are never sent to any engine, are left out.
        """
        names = {_shown(kind, name) for kind, name in request.uncommon if not self._is_sent(kind, name)}
        if self.dialect == "anthropic":
            return names.union(self._of_anthropic(request.sampling))
        return names.union(_of_native(request.sampling.anthropic or {}))

    def _is_sent(self, kind: str, name: str) -> bool:
        sent = SENT_FIELDS[self.dialect].get(kind, frozenset())
        return sent is ALL or name in sent

    def _of_anthropic(self, sampling: Sampling) -> Iterator[str]:
        """Yields the names of the parameters that Anthropic's API does not take, or not with these values."""
        native = sampling.anthropic or {}
        fields: Mapping[str, Any] = {**sampling.extra, **native}
        if sampling.seed is not None:
            yield "seed"
        if is_thinking(fields.get("thinking")):
            if sampling.temperature is not None:
                yield "temperature"
            if fields.get("top_k") is not None:
                yield "top_k"
            if sampling.top_p is not None and sampling.top_p < MIN_THINKING_TOP_P:
                yield "top_p"
        tier = fields.get("service_tier")
        if tier is not None and str(tier) not in SERVICE_TIERS:
            yield "service_tier"
        if not self.betas.issuperset(native.get("betas") or ()):
            yield "betas"


def _of_native(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the parameters that only engines with Anthropic's API get."""
    for name, value in fields.items():
        if name != TOOLS:
            yield name
        elif any(tool.get("type") not in (None, "custom") for tool in value):
            yield ANTHROPIC_TOOLS  # other engines get those that are functions in their format


def _shown(kind: str, name: str) -> str:
    return f"{name} of {kind}" if kind not in ("", "unsigned") else f"{kind} {name}".strip()
