"""`POST /v1/responses`, OpenAI's newer endpoint, answered as a conversation. No state is kept between requests."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.config.field_types import MaxTokens, Temperature, TopLogprobs, TopP
from pointsman_gateway.domain.request import GivenField
from pointsman_gateway.http.dependencies import deadline_of_request, respond
from pointsman_gateway.http.dialect import Dialect
from pointsman_gateway.http.dialects.openai.chat import as_chat_request
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS
from pointsman_gateway.http.dialects.openai.response_conversion import (
    ChatTools,
    is_run_by_openai,
    to_chat_choice,
    to_chat_tools,
    to_messages,
    to_response_format,
)
from pointsman_gateway.http.dialects.openai.response_encoder import ResponseEncoder
from pointsman_gateway.http.dialects.openai.response_fields import of_items, of_tools
from pointsman_gateway.http.fields import Expected, FailFastDict, FailFastList, TextOrList

LEFT_OUT = (
    "access_programs", "background_options", "context_management", "image", "max_tool_calls", "store", "stream_options",
)  # fmt: skip
"""Fields that are accepted, but sent to no engine."""
LOGPROBS = "message.output_text.logprobs"

REJECTED_PARAMETERS = {
    "previous_response_id": "no response is kept; send the whole conversation as 'input'",
    "conversation": "no conversation is kept; send the whole of it as 'input'",
    "prompt": "no prompts are kept under an id; paths.yaml names this gateway's",
    "background": "a response is made while its client waits",
    "messages": "send the conversation as 'input'",
    "max_tokens": "send 'max_output_tokens'",
    "max_completion_tokens": "send 'max_output_tokens'",
}
"""Parameters that would need stored state or belong to another endpoint, and the advice in their error."""


class ReasoningBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    effort: str | None = None
    summary: str | None = None


class TextBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesBody(BaseModel):
    """The body of `POST /v1/responses`. Undeclared fields are sent on if the engine accepts them."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description='"auto", "path:NAME", an adapter\'s alias, or a model\'s name')
    input: TextOrList[dict[str, Any]] = Field(description="a text, or messages, calls and their outputs")
    instructions: str | None = None
    stream: bool | None = False
    max_output_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    tools: FailFastList[dict[str, Any]] | None = Field(
        default=None, description="functions, custom tools and namespaces; those that OpenAI runs itself are left out"
    )
    tool_choice: Annotated[str | dict[str, Any], Expected("a text, or an object")] | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    top_logprobs: TopLogprobs | None = None
    include: FailFastList[str] | None = None
    metadata: FailFastDict[str] | None = None
    user: str | None = None
    store: bool | None = Field(default=None, description="nothing is kept, whatever it says; the answer says false")
    truncation: Literal["auto", "disabled"] | None = None
    previous_response_id: str | None = Field(default=None, description="refused: nothing is kept")
    conversation: str | dict[str, Any] | None = Field(default=None, description="refused: nothing is kept")
    prompt: dict[str, Any] | None = Field(default=None, description="refused: nothing is kept")
    background: bool | None = Field(default=None, description="true is refused: nothing is kept")
    max_tool_calls: int | None = Field(default=None, description="of tools that OpenAI runs; there are none here")
    context_management: Any = Field(default=None, description="accepted; no conversation is compacted")
    access_programs: Any = Field(default=None, description="accepted; other models have none")
    background_options: Any = Field(default=None, description="accepted; `background` is refused")
    image: Any = Field(default=None, description="accepted; the engine treats images as it is set up to")
    n: Literal[1] | None = None
    stream_options: dict[str, Any] | None = None

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def to_request(self, deadline: float, tools: ChatTools) -> domain.Request:
        """Converts the body to a `Request`; `tools` are the body's tools, converted by `to_chat_tools`.

        `deadline` is in seconds on the event loop's clock. Raises InvalidArgument for an empty input, one of
        `REJECTED_PARAMETERS`, or content that is unknown, invalid or over a limit.
        """
        self._reject_parameters()
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        fields = {
            "model": self.model,
            "messages": [*system, *to_messages(self.input)],
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "metadata": self.metadata,
            "user": self.user,
        }
        converted = {name: value for name, value in self._converted_fields(tools).items() if value is not None}
        request = as_chat_request({**(self.model_extra or {}), **converted, **fields}, deadline, self._uncommon())
        return replace(request, is_collected=True)

    def _uncommon(self) -> frozenset[GivenField]:
        """Returns the fields of the body that are not sent to every engine."""
        found = {("", name) for name in LEFT_OUT if getattr(self, name)}
        found.update(of_items(self.input), of_tools(self.tools or ()))
        if any(is_run_by_openai(tool.get("type")) for tool in self.tools or ()):
            found.add(("", "OpenAI's own tools"))
        if set(self.include or ()) - {LOGPROBS}:
            found.add(("", "include"))
        if self.reasoning:
            own = {"summary": self.reasoning.summary, **(self.reasoning.model_extra or {})}
            found.update(("", f"reasoning.{name}") for name, value in own.items() if value)
        if self.text:
            found.update(("", f"text.{name}") for name, value in (self.text.model_extra or {}).items() if value)
        return frozenset(found)

    def _reject_parameters(self) -> None:
        for name, why in REJECTED_PARAMETERS.items():
            if getattr(self, name, None):
                raise InvalidArgument(f"'{name}': {why}", code="unsupported_parameter", param=name)
        if not self.input:
            raise InvalidArgument("'input' is empty; send a text or an item", code="empty_messages", param="input")

    def _converted_fields(self, tools: ChatTools) -> dict[str, Any]:
        """Returns the parameters that differ in chat completions, by their names there; None for those not given.

        Raises InvalidArgument for an invalid tool choice or format.
        """
        return {
            "tools": tools.functions or None,
            "tool_choice": to_chat_choice(self.tool_choice, tools),
            "parallel_tool_calls": self.parallel_tool_calls if tools.functions else None,
            "response_format": to_response_format(self.text.format if self.text else None),
            "verbosity": self.text.verbosity if self.text else None,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "logprobs": True if self.wants_logprobs else None,
            "top_logprobs": self.top_logprobs if self.wants_logprobs else None,
            # vLLM's own parameter: the engine cuts the conversation to the model's context window.
            "truncate_prompt_tokens": -1 if self.truncation == "auto" else None,
        }

    def echoed(self) -> dict[str, Any]:
        """Returns the fields of the request that a response repeats, with defaults for those that were not given."""
        text = self.text or TextBody()
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": (self.reasoning or ReasoningBody()).model_dump(include={"effort", "summary"}),
            "store": False,
            "background": False,
            "temperature": self.temperature,
            "text": {
                "format": text.format or {"type": "text"},
                **({"verbosity": text.verbosity} if text.verbosity else {}),
            },
            "tool_choice": self.tool_choice or "auto",
            "tools": [
                {"parameters": None, "strict": None, **tool} if tool.get("type") == "function" else tool
                for tool in self.tools or ()
            ],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": self.truncation or "disabled",
            "user": self.user,
        }


async def create_response(body: ResponsesBody, request: Request) -> Response:
    """Answers one conversation in the format of OpenAI's Responses API."""
    tools = to_chat_tools(body.tools)
    encoder = ResponseEncoder(body.echoed(), body.wants_logprobs, tools.names)
    return await respond(request, body.to_request(deadline_of_request(request), tools), encoder, bool(body.stream))


RESPONSES = Dialect(path="/v1/responses", handler=create_response, error_format=OPENAI_ERRORS)
