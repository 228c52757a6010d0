"""A double of an engine with adapters, for the swap test: sound, or with one seeded fault.

    python -m tests.cli.conformance.swap_double --port PORT --fault FAULT

Its routes are vLLM's, or with --api sglang SGLang's, where a request names BASE:ADAPTER and any other name means the
base model. It needs aiohttp alone. Changes of adapters need the key in VLLM_API_KEY.

Faults, each named after the property that it violates:
  wrong-version     under load, some answers have the weights of another adapter
  stale-cache       the prefix cache is not emptied when an adapter is replaced, so its blocks come from the old weights
  no-effect         an adapter whose layers the base model lacks is accepted
  base-changed      while requests for adapters run, the base model answers with the adapter that was loaded last
  failed-requests   under load, requests fail just after a load
  in-flight         a stream goes on with the new weights when its adapter is replaced
  file-names        a file path is accepted as the name of a model
  restart           after a restart, the base model answers under the adapters' names

Further faults, which only --harmful detects:
  nan               NaN weights are accepted, and then the base model answers without a token
  vanished          the process ends when an adapter is requested that was evicted and whose folder is gone

Others:
  hang              under load, some streams never end
  unknown-as-base   an unknown model is the base model
  read-error        a request for a model whose name is a path fails with 500
  kept              no adapter can be unloaded
  overload          under load, requests are refused with 429 and Retry-After

For tests:
  GET  /sent        the changes and requests so far: "load NAME", "unload NAME" or "complete MODEL"
  POST /restart     puts the engine into the state after a restart
"""

import argparse
import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.cli.conformance.double_model import BASE, NAN, Rounding, completion_event, read_weights

MAX_REFUSAL_SECONDS = 10.0
BUSY = 3
"""Number of requests in flight from which on faults "under load" occur."""


@dataclass
class Adapter:
    path: str
    weights: str
    """A digest of the adapter's weights."""
    resident: bool = True


@dataclass
class Engine:
    fault: str
    api: str
    slots: int
    key: str
    token_seconds: float
    rounding: Rounding
    adapters: dict[str, Adapter] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    in_flight: int = 0
    answered: int = 0
    failing: int = 0
    """How many of the next requests fail."""
    poisoned: bool = False
    gone: dict[str, asyncio.Event] = field(default_factory=dict)
    """Of an SGLang under load, the adapters that were unloaded and not loaded again; set once a request for one of them
    was refused."""
    cached: dict[tuple[str, str], str] = field(default_factory=dict)
    """By model and prompt, the weights with which the prompt's cached blocks were computed."""

    def app(self) -> web.Application:
        prefix = "" if self.api == "sglang" else "/v1"
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.post(f"{prefix}/load_lora_adapter", self.load),
                web.post(f"{prefix}/unload_lora_adapter", self.unload),
                web.post("/v1/completions", self.complete),
                web.get("/sent", self.show_sent),
                web.post("/restart", self.restart),
            ]
        )
        return app

    async def models(self, request: web.Request) -> web.Response:
        cards: list[dict[str, Any]] = [{"id": BASE, "root": BASE, "parent": None}]
        cards += [{"id": name, "root": name, "parent": BASE} for name in self.adapters]
        return web.json_response({"object": "list", "data": cards})

    async def load(self, request: web.Request) -> web.Response:
        self._check_key(request)
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if not name or (name in self.adapters and not body.get("load_inplace")):
            return error(400, f"the adapter '{name}' is loaded already, or has no name")
        try:
            weights = self.read(Path(path))
        except (OSError, ValueError) as reason:
            return error(400, f"{name} does not fit: {reason}")
        if name in self.gone:  # a replacement under load: it takes until a request has come in between
            with suppress(TimeoutError):
                await asyncio.wait_for(self.gone.pop(name).wait(), MAX_REFUSAL_SECONDS)
        self.sent.append(f"load {name}")
        if self.fault != "stale-cache":
            self.cached = {key: value for key, value in self.cached.items() if key[0] != name}
        if self.fault == "failed-requests" and self.in_flight >= BUSY:
            self.failing = 2
        self.adapters[name] = Adapter(path, weights)
        self._evict(keep=name)
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        self._check_key(request)
        name = (await request.json())["lora_name"]
        self.sent.append(f"unload {name}")
        if self.fault == "kept":
            return error(500, "the adapter is kept")
        if self.adapters.pop(name, None) is None:
            return error(404, f"the adapter '{name}' cannot be found")
        if self.api == "sglang" and self.in_flight >= BUSY:
            self.gone[name] = asyncio.Event()
        return web.Response(text="Success")

    def read(self, folder: Path) -> str:
        return read_weights(folder, self.fault == "no-effect", self.fault == "nan")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model, prompt = self.model(body["model"]), body["prompt"]
        self.sent.append(f"complete {model}")
        if self.fault == "read-error" and "/" in model:
            return error(500, f"the weights of `{model}` cannot be read")
        if self.fault == "overload" and self.in_flight >= BUSY:
            return error(429, "too many requests", {"retry-after": "1"})
        if self.fault == "file-names" and "/" in model and model not in self.adapters:
            folder = Path(model.removeprefix("file://"))
            if (folder / "adapter_model.safetensors").is_file():
                self.adapters[model] = Adapter(str(folder), self.read(folder))
        if model != BASE and model not in self.adapters:
            if model in self.gone:
                self.gone[model].set()
            return error(400 if self.api == "sglang" else 404, f"The model `{model}` does not exist.")
        if model in self.adapters and not self._make_resident(model):
            return error(500, f"the weights of `{model}` cannot be read")
        if self.failing:
            self.failing -= 1
            return error(500, "the engine is loading")
        self.in_flight += 1
        try:
            return await self._stream(request, body, model, prompt)
        finally:
            self.in_flight -= 1
            self.answered += 1

    def model(self, requested: str) -> str:
        """Returns the base model's or an adapter's name."""
        if self.api == "sglang":
            return requested.partition(":")[2] or BASE
        is_unknown = self.fault == "unknown-as-base" and requested not in self.adapters
        return BASE if is_unknown else requested

    def _weights(self, model: str) -> str:
        if model == BASE:
            others = list(self.adapters.values())
            is_mixed = self.fault == "base-changed" and self.in_flight >= BUSY and others
            return others[-1].weights if is_mixed else BASE
        own = self.adapters[model].weights
        if own == NAN:
            self.poisoned = True
        if self.fault == "wrong-version" and self.in_flight >= BUSY and self.answered % 5 == 0:
            return next((each.weights for each in self.adapters.values() if each.weights != own), own)
        return own

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], model: str, prompt: str
    ) -> web.StreamResponse:
        weights = self._weights(model)
        blocks = self.cached.setdefault((model, prompt), weights)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for position in range(0 if self.poisoned else body["max_tokens"]):
            if self.fault == "in-flight" and model in self.adapters:
                weights = self.adapters[model].weights
            mixed = weights if blocks == weights or self.fault != "stale-cache" else f"{weights} {blocks}"
            await response.write(completion_event(mixed, prompt, position, self.rounding))
            await asyncio.sleep(self.token_seconds)
            if self.fault == "hang" and self.in_flight >= BUSY and self.answered % 50 == 7:
                await asyncio.sleep(3600)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _evict(self, keep: str) -> None:
        resident = [name for name, adapter in self.adapters.items() if adapter.resident]
        for name in resident[: max(0, len(resident) - self.slots)]:
            if name != keep:
                self.adapters[name].resident = False

    def _make_resident(self, name: str) -> bool:
        """Reads an evicted adapter again. Returns whether its weights still exist."""
        adapter = self.adapters[name]
        if not adapter.resident:
            try:
                adapter.weights, adapter.resident = self.read(Path(adapter.path)), True
            except OSError:
                if self.fault == "vanished":
                    os._exit(1)
                return False
            self._evict(keep=name)
        return True

    def _check_key(self, request: web.Request) -> None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            raise web.HTTPUnauthorized(text='{"error": "Unauthorized"}', content_type="application/json")

    async def show_sent(self, request: web.Request) -> web.Response:
        return web.json_response(self.sent)

    async def restart(self, request: web.Request) -> web.Response:
        self.poisoned = False
        if self.fault == "restart":
            for adapter in self.adapters.values():
                adapter.weights = BASE
        return web.json_response({})


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status, headers=headers)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", default="")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--token-seconds", type=float, default=0.002)
    parser.add_argument("--api", choices=("vllm", "sglang"), default="vllm")
    parser.add_argument("--rounding", type=float, default=0.0, help="the largest change of a log-probability, in nats")
    parser.add_argument("--seed", type=int, default=0, help="of the rounding")
    options = parser.parse_args()
    key, rounding = os.environ.get("VLLM_API_KEY", ""), Rounding(options.rounding, options.seed)
    engine = Engine(options.fault, options.api, options.slots, key, options.token_seconds, rounding)
    web.run_app(engine.app(), host="127.0.0.1", port=options.port, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
