"""`POST /v1/completions`, OpenAI's older endpoint: a prompt instead of a conversation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from fastapi import Request
from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pointsman_gateway import domain
from pointsman_gateway.config.field_types import Seed, Temperature, TopLogprobs, TopP
from pointsman_gateway.domain import Chunk, Chunks, Finished, Started
from pointsman_gateway.http.dependencies import (
    deadline_of_request,
    dependencies_of,
    respond,
    respond_to_all,
)
from pointsman_gateway.http.dialect import Dialect
from pointsman_gateway.http.dialects.openai.chat import StreamOptions, as_chat_request, includes_usage
from pointsman_gateway.http.dialects.openai.errors import OPENAI_ERRORS, OpenAIErrors, error_body
from pointsman_gateway.http.encoding import (
    DONE,
    receipt_body,
    system_fingerprint,
    to_event,
    to_json,
    usage_body,
)
from pointsman_gateway.http.fields import FailFastDict, StopSequences, TextsOrTokens
from pointsman_gateway.pipeline.batch import BatchFinished
from pointsman_gateway.pipeline.request_checks import MAX_CHOICES

COMPLETION_ONLY = {"echo": False, "suffix": "", "best_of": 1}
"""Parameters that only an engine's own `/v1/completions` supports. If the prompt is answered as a conversation, these
are the only accepted values."""

FINISH_REASONS = ("stop", "length", "content_filter")
"""The finish reasons of completions; any other one of a conversation, such as "tool_calls", is reported as "stop"."""


class CompletionBody(BaseModel):
    """The body of `POST /v1/completions`. Other fields than these are sent on if the engine accepts them."""

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


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    characters: int = 0
    finish_reason: str | None = None
    logprobs: dict[str, list[Any]] | None = None


class CompletionEncoder:
    """Encodes an answer as `text_completion`, whole or in chunks; implements `AnswerEncoder`."""

    error_format = OpenAIErrors("prompt")

    def __init__(self, include_usage: bool) -> None:
        """Takes `include_usage`: whether a stream ends with a chunk that has the usage and the receipt."""
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    def encode_start(self, started: Started) -> bytes:
        self._head = _head(started)
        return b""

    def encode_chunks(self, chunks: Chunks) -> bytes:
        # As OpenAI does, every chunk before the one with the usage has `"usage": null`.
        usage = {"usage": None} if self._include_usage else {}
        return b"".join(to_event({**self._head, "choices": [self._add(c)], **usage}) for c in chunks)

    def encode_end(self, finished: Finished) -> bytes:
        if not self._include_usage:
            return DONE
        return to_event({**self._head, "choices": [], **_usage(finished)}) + DONE

    def encode_error(self, error: PointsmanError) -> bytes:
        return to_event(error_body(error))

    def encode_whole(self, started: Started, chunks: Sequence[Chunk], finished: Finished) -> bytes:
        for chunk in chunks:
            self._add(chunk)
        choices = [
            {
                "index": index,
                "text": "".join(choice.text),
                "finish_reason": choice.finish_reason or "stop",
                "logprobs": choice.logprobs,
            }
            for index, choice in sorted(self._choices.items())
        ]
        return to_json({**_head(started), "choices": choices, **_usage(finished)})

    def _add(self, chunk: Chunk) -> dict[str, Any]:
        """Adds a chunk to its choice, and returns the chunk as an entry of `choices`."""
        choice = self._choices.setdefault(chunk.index, _Choice())
        logprobs = _logprobs(chunk.extra.get("logprobs"), choice.characters)
        choice.text.append(chunk.content)
        choice.characters += len(chunk.content)
        reason = chunk.finish_reason
        if reason:
            choice.finish_reason = reason if reason in FINISH_REASONS else "stop"
        if logprobs:
            collected = choice.logprobs = choice.logprobs or {name: [] for name in logprobs}
            for name, values in logprobs.items():
                collected.setdefault(name, []).extend(values)
        return {
            "index": chunk.index,
            "text": chunk.content,
            "finish_reason": choice.finish_reason if reason else None,
            "logprobs": logprobs,
        }


def _head(started: Started) -> dict[str, Any]:
    return {
        "id": "cmpl-" + started.decision.id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": started.model,
        "system_fingerprint": system_fingerprint(started),
    }


def _usage(finished: Finished) -> dict[str, Any]:
    """Returns the fields `usage` and `pointsman` (the receipt, see `receipt_body`) of an answer.

    If each prompt was a request of its own (`BatchFinished`), `pointsman` has a list `prompts` in addition, with the
    `decision_id` and the receipt of each.
    """
    receipt = receipt_body(finished.receipt)
    if isinstance(finished, BatchFinished):
        receipt["prompts"] = [{"decision_id": part.decision.id, **receipt_body(part)} for part in finished.parts]
    return {"usage": usage_body(finished.receipt.usage), "pointsman": receipt}


def _logprobs(engine_logprobs: Any, offset: int) -> dict[str, list[Any]] | None:
    """Converts a chunk's log-probabilities, in the format of chats or of completions, to the format of completions.

    Returns None if there are none. Leaves out alternatives without a log-probability. `offset` is the number of
    characters of the choice before the chunk.
    """
    if not isinstance(engine_logprobs, dict):
        return None
    if "content" not in engine_logprobs:
        return {name: values for name, values in engine_logprobs.items() if isinstance(values, list)}
    logprobs: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in engine_logprobs["content"] or ():
        text = token.get("token") or ""
        logprobs["tokens"].append(text)
        logprobs["token_logprobs"].append(token.get("logprob"))
        tops = token.get("top_logprobs") or ()
        logprobs["top_logprobs"].append({t["token"]: t["logprob"] for t in tops if t.get("logprob") is not None})
        logprobs["text_offset"].append(offset)
        offset += len(text)
    return logprobs
