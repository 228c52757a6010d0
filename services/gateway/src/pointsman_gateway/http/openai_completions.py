"""`POST /v1/completions`: OpenAI's older way to ask, a prompt instead of a conversation."""

from dataclasses import replace
from typing import Any

from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument
from pydantic import ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.config.field_types import Seed, Temperature, TopLogprobs, TopP
from pointsman_gateway.http.bounded_fields import Elements, Entries
from pointsman_gateway.http.chat_like import chat_request
from pointsman_gateway.http.completion_answers import CompletionEncoder
from pointsman_gateway.http.half_characters import WholeCharacters
from pointsman_gateway.http.http_door import deadline_of, respond
from pointsman_gateway.http.openai_requests import StreamOptions, includes_usage

RAW_ONLY = {"echo": False, "suffix": "", "best_of": 1}
"""What no conversation can do, but for these values: for an engine's own `/v1/completions` alone."""


class CompletionBody(WholeCharacters):
    """What is not named here goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description='"auto", "path:NAME", an adapter\'s alias, or a model\'s name')
    prompt: str | Elements[str] | Elements[int] | Elements[Elements[int]] | None = Field(
        default=None, description="one text, alone or in a list; tokens and several prompts are refused"
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=0, lt=2**63, description="0 for a named model alone")
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: str | Elements[str] | None = None
    logprobs: TopLogprobs | None = Field(default=None, description="how many alternatives of each token")
    user: str | None = None
    metadata: Entries[str] | None = None

    @property
    def is_raw(self) -> bool:
        """Whether it names a model or an adapter, which then reads the prompt as it is, without a chat template."""
        return self.model != domain.AUTO and not self.model.startswith("path:")

    def to_request(self, deadline: float) -> domain.Request:
        """Raises InvalidArgument."""
        further = {**self._logprobs(), **(self.model_extra or {})}
        if not self.is_raw:
            self._refuse_raw_only(further)
        fields = self.model_dump(
            include={"model", "max_tokens", "temperature", "top_p", "seed", "stop", "user", "metadata"}
        )
        message = {"role": "user", "content": self._text()}
        nothing_new = self.is_raw and self.max_tokens == 0  # of the prompt alone, its log-probabilities
        if nothing_new:
            fields["max_tokens"] = None
        request = chat_request({**further, **fields, "messages": [message]}, deadline)
        if nothing_new:
            request = replace(request, sampling=replace(request.sampling, max_tokens=0))
        return replace(request, operation="completion") if self.is_raw else request

    def _text(self) -> str:
        match self.prompt:
            case str(text) | [str(text)]:
                if not text or text.isspace():
                    raise InvalidArgument("'prompt' is empty", code="empty_prompt", param="prompt")
                return text
            case None | []:
                raise InvalidArgument("'prompt' is missing", code="empty_prompt", param="prompt")
            case [str(), *_]:
                told = f"'prompt' holds {len(self.prompt)} texts; send one a request, each has its own decision"
            case _:
                told = "'prompt' holds tokens; send text, which every model can read"
        raise InvalidArgument(told, code="unsupported_prompt", param="prompt")

    def _logprobs(self) -> dict[str, Any]:
        if self.logprobs is None:
            return {}
        return {"logprobs": self.logprobs} if self.is_raw else {"logprobs": True, "top_logprobs": self.logprobs}

    def _refuse_raw_only(self, further: dict[str, Any]) -> None:
        for name, harmless in RAW_ONLY.items():
            if further.pop(name, None) not in (None, harmless):
                raise InvalidArgument(
                    f"'{name}' is for a named model or adapter, whose engine reads the prompt as it is; "
                    f"'{self.model}' answers it as a conversation",
                    code="unsupported_parameter",
                    param=name,
                )


async def complete(body: CompletionBody, request: Request) -> Response:
    """Continues a prompt."""
    asked, encoder = body.to_request(deadline_of(request)), CompletionEncoder(includes_usage(body.stream_options))
    return await respond(request, asked, encoder, bool(body.stream))
