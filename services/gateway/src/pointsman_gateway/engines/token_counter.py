"""Counts the tokens of a prompt by asking a vLLM engine; engines of other kinds cannot count."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.config.providers import VLLM
from pointsman_gateway.domain import Message, Path
from pointsman_gateway.engines.dialects.openai.schema import Count
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.extensions.http_poster import HttpPoster, HttpUnreachable

COUNT_SECONDS = 5.0
"""Time limit for one request to an engine that counts tokens."""

MAX_COUNT_BYTES = 32 * 1024 * 1024
"""Maximum size of an engine's response, which lists the ids of all tokens."""

TOKENIZE_FIELDS = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
"""Fields of a chat request that change the number of its prompt's tokens, and that vLLM's `/tokenize` accepts."""


class _Counted(msgspec.Struct):
    count: Count


class TokenCounter:
    """Counts the tokens of prompts with vLLM's endpoint `/tokenize`."""

    def __init__(self, engines: Engines, http: HttpPoster | None, clock: Callable[[], float]) -> None:
        """Takes the event loop's `clock`; without `http`, `count` returns None."""
        self._engines = engines
        self._http = http
        self._clock = clock

    async def count(
        self, model: str, messages: Sequence[Message], fields: Mapping[str, Any], deadline: float
    ) -> int | None:
        """Returns the number of tokens of a prompt, as counted by one of the vLLM engines that serve the base model
        `model`.

        Returns None if no such engine is available, or if the engine fails, or does not answer within `COUNT_SECONDS`
        or by `deadline` (seconds on the event loop's clock). `fields` are the other fields of the chat request, such as
        `tools`, which are part of the prompt.
        """
        try:
            # An adapter has the tokenizer of its base model, and need not be loaded.
            targets = self._engines.targets(Path(model, model))
        except PointsmanError:
            return None
        for target in targets:
            is_vllm = target.settings.accepted_fields.kind == VLLM
            if self._http is not None and is_vllm and target.state.is_available:
                return await self._count_on(self._http, target, _tokenize_body(target, messages, fields), deadline)
        return None

    async def _count_on(self, http: HttpPoster, target: Target, body: bytes, deadline: float) -> int | None:
        engine, deadline = target.engine, min(deadline, self._clock() + COUNT_SECONDS)
        try:
            reply = await http.post(f"{engine.url}/tokenize", engine.api.auth_header, body, deadline, MAX_COUNT_BYTES)
            return msgspec.json.decode(b"".join(reply.pieces), type=_Counted).count if reply.status == 200 else None
        except (HttpUnreachable, msgspec.MsgspecError, RecursionError):
            return None


def _tokenize_body(target: Target, messages: Sequence[Message], fields: Mapping[str, Any]) -> bytes:
    body = {name: fields[name] for name in TOKENIZE_FIELDS if fields.get(name) is not None}
    if fields.get("tool_choice") == "none":
        body.pop("tools", None)  # the model does not see them
    effort = fields.get("reasoning_effort")
    if effort is not None:  # as vLLM does for chat completions
        thinking = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        body["chat_template_kwargs"] = {**thinking, **body.get("chat_template_kwargs", {})}
    shown = [{"role": m.role, "content": m.content, **m.extra} for m in messages]
    return msgspec.json.encode({**body, "model": target.upstream_model, "messages": shown})
