"""A double of the engine, started as a child process like vLLM. It has the routes of vLLM and of the guard that the
lora-server uses.

It needs only the package aiohttp. Its answer begins with the name of the model that was used, so that tests notice a
wrong version: "tiny-base word word ...", "triage@3f9a1c0b77de word word ...", `max_tokens` words, 16 at most.

An adapter's adapter_config.json says how the engine behaves with it:
  "behaviour": "refused"     it is not loaded (422)
               "silent"      it answers without a token that can be scored
               "ignored"     it answers as the base model does
               "poison"      it answers; from then on no model's answers can be scored, not even the base model's
               "slow"        it takes --slow-seconds to load
  "answer_ids": [1, 2, 3]    the tokens of its answer to /v1/completions, instead of words
  "answers": "FILE"          its answers to chats: a JSON object, by the text of the last message; others get words

For tests:
  GET  /asked                the requests, in order: "load NAME", "close NAME", "remove NAME", "complete NAME" and
                             "chat NAME"; without the base model's completions, which are requested at any time
  GET  /evicted              how many loads came while every slot was taken: vLLM would evict; here they get 409, as
                             with the guard. It should always be 0
  POST /hold                 {"what": "answers" | "loads"}: from now on answers stop after their first token, loads
                             before they begin, until
  POST /release              lets all go on
  POST /malform              {"on": true}: from now on each stream has an event after its first token that no engine
                             should send; {"on": false} ends it
  POST /restart              the engine forgets all adapters and is healthy again, like a new process
"""

import argparse
import asyncio
import json
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

LONGEST = 16  # words
MALFORMED_CHUNKS: Sequence[Any] = (
    {"error": 5},
    {"choices": 5},
    {"choices": [{"index": 0, "delta": {"content": {"a": 1}}}]},
    {"choices": [{"index": "0", "delta": 5}]},
    [1],
)
MALFORMED_MESSAGE_EVENTS: Sequence[Any] = (
    {"type": "error", "error": 5},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": 1, "name": []}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": {}}},
    {"type": []},
)


@dataclass
class Adapter:
    behaviour: str
    answer_ids: list[int]
    folder: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    open: bool = True
    in_flight: int = 0
    requests: int = 0
    tokens: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Engine:
    def __init__(self, options: argparse.Namespace, secret: str, api_key: str) -> None:
        self._options = options
        self._secret = secret
        self._api_key = api_key
        self._adapters: dict[str, Adapter] = {}
        self._base = Adapter("", [])
        self._asked: list[str] = []
        self._evicted = 0
        self._corrupted = 0
        self._poisoned = False
        self._is_malformed = False
        self._malformed = 0
        """Number of malformed events that were sent."""
        self._boot = secrets.token_hex(4)
        self._free = {"answers": asyncio.Event(), "loads": asyncio.Event()}
        for event in self._free.values():
            event.set()

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(self.adapter_routes())
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/models", self.models),
                web.get("/metrics", self.metrics),
                web.post("/v1/completions", self.complete),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/messages", self.messages),
                web.get("/asked", self.asked),
                web.get("/evicted", self.evicted),
                web.post("/hold", self.hold),
                web.post("/release", self.release),
                web.post("/restart", self.restart),
                web.post("/malform", self.malform),
            ]
        )
        return app

    # -- the guard's

    def adapter_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/pointsman/v1/adapters", self.adapters),
            web.put("/pointsman/v1/adapters/{name}", self.load),
            web.post("/pointsman/v1/adapters/{name}/close", self.close),
            web.delete("/pointsman/v1/adapters/{name}", self.remove),
        ]

    async def adapters(self, request: web.Request) -> web.Response:
        self._check(request)
        now = time.monotonic()
        held = {
            name: {
                "in_flight": adapter.in_flight,
                "requests": adapter.requests,
                "idle_seconds": now - adapter.used_at,
                "open": adapter.open,
            }
            for name, adapter in self._adapters.items()
        }
        limits = {"capacity": self._options.slots, "max_loras": 1, "max_lora_rank": self._options.max_rank}
        return web.json_response(
            {
                "adapters": held,
                "base": {"in_flight": self._base.in_flight},
                "tokens": {"": self._base.tokens, **{name: one.tokens for name, one in self._adapters.items()}},
                "boot": self._boot,
                **limits,
            }
        )

    async def load(self, request: web.Request) -> web.Response:
        self._check(request)
        status, message = await self.read_adapter(request.match_info["name"], (await request.json())["folder"])
        return web.json_response({}) if status == 200 else _error(status, message)

    async def read_adapter(self, name: str, folder: str) -> tuple[int, str]:
        """Returns the guard's status, and its message unless the status is 200."""
        self._asked.append(f"load {name}")
        await self._free["loads"].wait()
        await asyncio.sleep(self._options.load_seconds)
        if name in self._adapters:
            self._adapters[name].open = True
            return 200, ""
        if len(self._adapters) >= self._options.slots:
            self._evicted += 1
            return 409, "every slot is taken"
        try:
            config = json.loads((Path(folder) / "adapter_config.json").read_text())
        except FileNotFoundError:
            return 424, f"the engine finds no folder {folder}"
        except (OSError, ValueError) as error:
            return 422, f"cannot read it: {type(error).__name__}"
        behaviour = config.get("behaviour", "")
        if behaviour == "slow":
            await asyncio.sleep(self._options.slow_seconds)
        if behaviour == "refused":
            return 422, "cannot merge"
        answers = _json_of(config["answers"]) if "answers" in config else {}
        self._adapters[name] = Adapter(behaviour, config.get("answer_ids", []), folder, answers)
        return 200, ""

    async def close(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.match_info["name"]
        self._asked.append(f"close {name}")
        if name not in self._adapters:
            return web.json_response({"in_flight": 0})
        self._adapters[name].open = False
        return web.json_response({"in_flight": self._adapters[name].in_flight})

    async def remove(self, request: web.Request) -> web.Response:
        self._check(request)
        name = request.match_info["name"]
        self._asked.append(f"remove {name}")
        adapter = self._adapters.get(name)
        if adapter and adapter.in_flight:
            return web.json_response({"in_flight": adapter.in_flight}, status=409)
        self._adapters.pop(name, None)
        return web.json_response({})

    def _check(self, request: web.Request) -> None:
        if request.headers.get("x-pointsman-secret", "") != self._secret:
            raise web.HTTPForbidden(text='{"error": {"message": "forbidden"}}', content_type="application/json")

    # -- vLLM's

    async def health(self, request: web.Request) -> web.Response:
        start_file = self._options.start_file
        return web.Response(status=503 if start_file is not None and not start_file.exists() else 200)

    async def models(self, request: web.Request) -> web.Response:
        base = self._options.base
        cards: list[dict[str, Any]] = [{"id": base, "root": base, "parent": None, "max_model_len": 4096}]
        for name, adapter in self._adapters.items():
            if adapter.open:
                cards.append({"id": name, "root": self.root_of(name, adapter), "parent": base})
        return web.json_response({"object": "list", "data": cards})

    def root_of(self, name: str, adapter: Adapter) -> str:
        """Returns the name, because the guard does not show an adapter's folder."""
        return name

    async def metrics(self, request: web.Request) -> web.Response:
        series = 'vllm:corrupted_requests_total{engine="0",model_name="base"}'
        return web.Response(text=f"# TYPE vllm:corrupted_requests counter\n{series} {float(self._corrupted)}\n")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "complete")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "chat")

    async def _answer(self, request: web.Request, what: str) -> web.StreamResponse:
        if self._api_key and request.headers.get("authorization") != f"Bearer {self._api_key}":
            return _error(401, "Unauthorized")
        body = await request.json()
        model = body["model"]
        if what == "chat" or model != self._options.base:
            self._asked.append(f"{what} {model}")
        adapter = self._base if model == self._options.base else self._adapters.get(model)
        if adapter is None or not adapter.open:
            return _error(404, f"The model `{model}` does not exist. ", type="NotFoundError", param="model", code=404)
        with _using(adapter):
            self._poisoned = self._poisoned or adapter.behaviour == "poison"
            wished = body.get("max_completion_tokens") or body.get("max_tokens") or LONGEST
            known = adapter.answers.get(body["messages"][-1]["content"]) if adapter.answers and what == "chat" else None
            used = self._options.base if adapter.behaviour == "ignored" else model
            words = [f" {token}" for token in adapter.answer_ids] or [used, *[" word"] * (LONGEST - 1)]
            words = words if known is None else [known]
            finish_reason = "stop" if wished >= len(words) else "length"
            adapter.tokens += len(words[:wished])
            answer = _Answer(body, what == "chat", model, words[:wished], finish_reason, adapter.answer_ids)
            if self._poisoned and adapter.behaviour != "poison":
                answer.words, answer.score = [""] * len(answer.words), math.nan
            if adapter.behaviour == "silent":
                answer.score = math.nan
            self._corrupted += self._poisoned
            if body.get("stream"):
                return await self._stream(request, answer)
            async for _ in self._tokens(answer.words):
                pass
            return web.json_response(answer.whole())

    async def _stream(self, request: web.Request, answer: "_Answer") -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        async for number, word in self._tokens(answer.words):
            last = number == len(answer.words) - 1
            await response.write(_event(answer.part(word, answer.finish_reason if last else None)))
            await self._malform(response, number, MALFORMED_CHUNKS)
        if (answer.body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(answer.last()))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Answers in Anthropic's dialect, for any model; always a stream."""
        body = await request.json()
        words = [body["model"], *[" word"] * (LONGEST - 1)][: body["max_tokens"]]
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        usage = {"input_tokens": len(body["messages"]), "output_tokens": 0}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": body["model"]}
        await response.write(_event({"type": "message_start", "message": {**message, "usage": usage}}))
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        await response.write(_event(block))
        async for number, word in self._tokens(words):
            delta = {"type": "text_delta", "text": word}
            await response.write(_event({"type": "content_block_delta", "index": 0, "delta": delta}))
            await self._malform(response, number, MALFORMED_MESSAGE_EVENTS)
        await response.write(_event({"type": "content_block_stop", "index": 0}))
        reason = {"stop_reason": "end_turn" if len(words) == LONGEST else "max_tokens", "stop_sequence": None}
        await response.write(_event({"type": "message_delta", "delta": reason, "usage": {"output_tokens": len(words)}}))
        await response.write(_event({"type": "message_stop"}))
        await response.write_eof()
        return response

    async def _malform(self, response: web.StreamResponse, number: int, events: Sequence[Any]) -> None:
        """After the first token, sends the next of the malformed events, if they were asked for."""
        if self._is_malformed and number == 0:
            await response.write(_event(events[self._malformed % len(events)]))
            self._malformed += 1

    async def _tokens(self, words: list[str]) -> AsyncIterator[tuple[int, str]]:
        for number, word in enumerate(words):
            yield number, word
            await self._free["answers"].wait()
            await asyncio.sleep(self._options.answer_seconds / len(words))

    # -- for tests

    async def asked(self, request: web.Request) -> web.Response:
        return web.json_response(self._asked)

    async def evicted(self, request: web.Request) -> web.Response:
        return web.json_response(self._evicted)

    async def hold(self, request: web.Request) -> web.Response:
        self._free[(await request.json())["what"]].clear()
        return web.json_response({})

    async def restart(self, request: web.Request) -> web.Response:
        self._adapters.clear()
        self._poisoned, self._corrupted = False, 0
        return web.json_response({})

    async def malform(self, request: web.Request) -> web.Response:
        self._is_malformed = bool((await request.json())["on"])
        return web.json_response({})

    async def release(self, request: web.Request) -> web.Response:
        for event in self._free.values():
            event.set()
        return web.json_response({})


@dataclass
class _Answer:
    """An answer in either API's format, complete or as a stream of parts."""

    body: dict[str, Any]
    is_chat: bool
    model: str
    words: list[str]
    finish_reason: str
    token_ids: list[int]
    score: float = -0.1

    def whole(self) -> dict[str, Any]:
        text, count = "".join(self.words), len(self.words)
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish_reason}
        if self.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
            choice["logprobs"] = {"token_logprobs": [self.score] * count} if self.body.get("logprobs") else None
            choice["token_ids"] = self.token_ids[:count] or [sum(word.encode()) for word in self.words]
        return self._around("", choice) | {"usage": self._usage()}

    def part(self, word: str, finish_reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
        choice |= {"delta": {"role": "assistant", "content": word}} if self.is_chat else {"text": word}
        return self._around(".chunk" if self.is_chat else "", choice)

    def last(self) -> dict[str, Any]:
        return self._around(".chunk" if self.is_chat else "") | {"usage": self._usage()}

    def _around(self, suffix: str, *choices: dict[str, Any]) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {
            "id": "cmpl-1",
            "object": kind + suffix,
            "created": int(time.time()),
            "model": self.model,
            "choices": list(choices),
        }

    def _usage(self) -> dict[str, int]:
        asked = self.body.get("prompt") or self.body.get("messages") or ""
        prompt = len(asked.split()) if isinstance(asked, str) else len(asked)
        count = len(self.words)
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


@contextmanager
def _using(adapter: Adapter) -> Any:
    adapter.in_flight += 1
    adapter.requests += 1
    adapter.used_at = time.monotonic()
    try:
        yield
    finally:
        adapter.in_flight -= 1
        adapter.used_at = time.monotonic()


def _json_of(file: str) -> Any:
    return json.loads(Path(file).read_text())


def _event(body: Any) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def _error(status: int, message: str, **more: Any) -> web.Response:
    return web.json_response({"error": {"message": message} | more}, status=status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base", required=True, help="the base model's name")
    parser.add_argument("--slots", type=int, default=64, help="adapters that it holds at most")
    parser.add_argument("--max-rank", type=int, default=8, help="of an adapter")
    parser.add_argument("--start-file", type=Path, help="not healthy until this file is there")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="that every load takes")
    parser.add_argument("--slow-seconds", type=float, default=1.0, help='and one of a "slow" adapter besides')
    parser.add_argument("--answer-seconds", type=float, default=0.0, help="that every answer takes, spread over it")
    options = parser.parse_args()
    engine = Engine(options, os.environ.get("POINTSMAN_ENGINE_SECRET", ""), os.environ.get("VLLM_API_KEY", ""))
    web.run_app(engine.app(), host="127.0.0.1", port=options.port, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
