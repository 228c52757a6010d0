"""`POST /v1/completions`, OpenAI's older endpoint: a prompt instead of a conversation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.config.field_types import Seed, Temperature, TopLogprobs, TopP
from pointsman_gateway.http.dependencies import deadline_of_request, dependencies_of, respond, respond_to_all
from pointsman_gateway.http.dialect import Dialect
from pointsman_gateway.http.dialects.openai.chat import StreamOptions, as_chat_request, includes_usage
from pointsman_gateway.http.dialects.openai.completion_encoder import CompletionEncoder
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS
from pointsman_gateway.http.fields import FailFastDict, StopSequences, TextsOrTokens
from pointsman_gateway.pipeline.request_checks import MAX_CHOICES

COMPLETION_ONLY = {"echo": False, "suffix": "", "best_of": 1}
"""Parameters that only an engine's own `/v1/completions` supports. If the prompt is answered as a conversation, each
parameter must be missing or have the value given here."""


class CompletionBody(BaseModel):
    """The body of `POST /v1/completions`. Undeclared fields are sent on if the engine accepts them."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description='"auto", "path:NAME", an adapter\'s alias, or a model\'s name')
    prompt: TextsOrTokens | None = Field(
        default=None, description="a text or a list of texts; for a named model also token ids, or a list of such lists"
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=0, lt=2**63, description="0 for a named model alone")
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: StopSequences | None = Field(default="", description='"": the path\'s; null or []: none')
    logprobs: TopLogprobs | None = Field(default=None, description="how many alternatives of each token")
    user: str | None = None
    metadata: FailFastDict[str] | None = None

    @property
    def is_raw(self) -> bool:
        """Returns whether `model` is the name of a model or an adapter, not "auto" or "path:NAME". Its engine then gets
        the prompt without a chat template.
        """
        return self.model != domain.AUTO and not self.model.startswith("path:")

    @property
    def choices(self) -> int:
        """Returns the number of choices for each prompt, `n`; 1 if it is missing or invalid. Admission rejects an
        invalid `n`.
        """
        n = (self.model_extra or {}).get("n")
        return n if type(n) is int and n > 0 else 1

    def to_requests(self, deadline: float) -> list[domain.Request]:
        """Converts the body to requests: one with all prompts if a model is named (`is_raw`), else one for each prompt.

        `deadline` is in seconds on the event loop's clock. Raises InvalidArgument if a prompt is empty, there are more
        than `MAX_CHOICES` choices, or a parameter or the kind of prompt is not supported.
        """
        if (self.model_extra or {}).get("messages"):
            advice = "send the 'prompt' alone, or the conversation to /v1/chat/completions"
            raise InvalidArgument(f"'messages': {advice}", code="unsupported_parameter", param="messages")
        prompts = self._prompts()
        if not self.is_raw:
            return [self._to_request([_to_text(prompt)], {}, deadline) for prompt in prompts]
        is_one_text = len(prompts) == 1 and isinstance(prompts[0], str)
        extra = {} if is_one_text else {"prompt": self.prompt}
        return [self._to_request([_to_text(prompt) for prompt in prompts], extra, deadline)]

    def _to_request(self, texts: list[str], extra: dict[str, Any], deadline: float) -> domain.Request:
        extra = {**self._logprobs(), **(self.model_extra or {}), **extra}
        if not self.is_raw:
            self._reject_completion_only(extra)
        fields = self.model_dump(
            include={"model", "max_tokens", "temperature", "top_p", "seed", "stop", "user", "metadata"}
        )
        fields["stream_options"] = self.stream_options
        messages = [{"role": "user", "content": text} for text in texts]
        has_no_output = self.is_raw and self.max_tokens == 0  # returns the log-probabilities of the prompt alone
        if has_no_output:
            fields["max_tokens"] = None
        request = as_chat_request({**extra, **fields, "messages": messages}, deadline)
        if has_no_output:
            request = replace(request, sampling=replace(request.sampling, max_tokens=0))
        return replace(request, operation="completion") if self.is_raw else request

    def _prompts(self) -> list[str] | list[list[int]]:
        match self.prompt:
            case None | []:
                raise InvalidArgument("'prompt' is empty; send a text", code="empty_prompt", param="prompt")
            case str(text):
                prompts: Any = [text]
            case [int(), *_]:
                prompts = [self.prompt]
            case _:
                prompts = self.prompt
        self._check_prompts(prompts)
        return prompts  # type: ignore[no-any-return]  # pydantic has checked the union

    def _check_prompts(self, prompts: Sequence[str | list[int]]) -> None:
        if isinstance(prompts[0], list) and not self.is_raw:
            raise InvalidArgument(
                f"'prompt' holds token ids, and '{self.model}' needs a text to decide or to fill a prompt; "
                "send text, or name a model or an adapter, whose engine reads token ids (GET /v1/models lists them)",
                code="unsupported_prompt",
                param="prompt",
            )
        if len(prompts) * self.choices > MAX_CHOICES:
            raise InvalidArgument(
                f"'prompt' holds {len(prompts)} prompts with {self.choices} choices each; "
                f"a request has at most {MAX_CHOICES} choices",
                code="too_many_prompts",
                param="prompt",
            )
        for number, prompt in enumerate(prompts):
            if not prompt:
                where = f"prompt[{number}]" if isinstance(self.prompt, list) else "'prompt'"
                raise InvalidArgument(f"{where} is empty", code="empty_prompt", param="prompt")

    def _logprobs(self) -> dict[str, Any]:
        if self.logprobs is None:
            return {}
        return {"logprobs": self.logprobs} if self.is_raw else {"logprobs": True, "top_logprobs": self.logprobs}

    def _reject_completion_only(self, extra: dict[str, Any]) -> None:
        for name, supported in COMPLETION_ONLY.items():
            if extra.pop(name, None) not in (None, supported):
                raise InvalidArgument(
                    f"'{name}' is for a named model or adapter, whose engine reads the prompt as it is; "
                    f"'{self.model}' answers it as a conversation",
                    code="unsupported_parameter",
                    param=name,
                )


def _to_text(prompt: str | list[int]) -> str:
    """Returns the prompt as a text; token ids as JSON, padded with blanks to four characters for each, the length that
    token estimates expect.
    """
    return prompt if isinstance(prompt, str) else msgspec.json.encode(prompt).decode().ljust(4 * len(prompt))


async def complete(body: CompletionBody, request: Request) -> Response:
    """Completes one prompt or several."""
    body.model = dependencies_of(request).pipeline.current().resolve_model(body.model)
    requests = body.to_requests(deadline_of_request(request))
    encoder = CompletionEncoder(includes_usage(body.stream_options))
    if len(requests) == 1:
        return await respond(request, requests[0], encoder, bool(body.stream))
    return await respond_to_all(request, requests, body.choices, encoder, bool(body.stream))


COMPLETIONS = Dialect(
    path="/v1/completions",
    handler=complete,
    error_format=OPENAI_ERRORS,
    operation="completion",
    takes_token_ids=True,
)
