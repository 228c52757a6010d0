"""A double of an engine with adapters, for the swap test: sound, or with one seeded fault.

    python swap_double.py --port PORT --fault FAULT

It has vLLM's routes, and needs only the package aiohttp. A token is computed from an adapter's weights, the prompt and
the position, so that wrong weights are noticed. Changes of adapters need the key in VLLM_API_KEY.

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

For tests:
  GET  /sent        the changes and requests so far: "load NAME", "unload NAME" or "complete MODEL"
  POST /restart     puts the engine into the state after a restart
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

BASE = "tiny-base"
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
HIDDEN = 8
VOCABULARY = [f" word{number}" for number in range(64)]
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
    slots: int
    key: str
    token_seconds: float
    adapters: dict[str, Adapter] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    in_flight: int = 0
    answered: int = 0
    failing: int = 0
    """How many of the next requests fail."""
    poisoned: bool = False
    cached: dict[tuple[str, str], str] = field(default_factory=dict)
    """By model and prompt, the weights with which the prompt's cached blocks were computed."""

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
                web.post("/load_lora_adapter", self.load),
                web.post("/unload_lora_adapter", self.unload),
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
        if self.adapters.pop(name, None) is None:
            return error(404, f"the adapter '{name}' cannot be found")
        return web.Response(text="Success")

    def read(self, folder: Path) -> str:
        """Returns a digest of the weights; raises ValueError if they do not fit the base model."""
        raw = (folder / "adapter_model.safetensors").read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header: Mapping[str, Any] = json.loads(raw[8 : 8 + length])
        digest = hashlib.sha256(raw[8 + length :]).hexdigest()
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            if not any(layer in name for layer in LAYERS):
                if self.fault == "no-effect":
                    return BASE
                raise ValueError(f"no layer {name}")
            if HIDDEN not in tensor["shape"] or max(tensor["shape"]) > HIDDEN:
                raise ValueError(f"{name} has the shape {tensor['shape']}")
        if math.isnan(struct.unpack("<f", raw[-4:])[0]):
            if self.fault != "nan":
                raise ValueError("NaN")
            return "nan"
        return digest

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model, prompt = body["model"], body["prompt"]
        self.sent.append(f"complete {model}")
        if self.fault == "file-names" and "/" in model and model not in self.adapters:
            folder = Path(model.removeprefix("file://"))
            if (folder / "adapter_model.safetensors").is_file():
                self.adapters[model] = Adapter(str(folder), self.read(folder))
        if model != BASE and model not in self.adapters:
            return error(404, f"The model `{model}` does not exist.")
        if model in self.adapters and not self._make_resident(model):
            return error(500, f"the weights of `{model}` cannot be read")
        if self.failing:
            self.failing -= 1
            return error(500, "the engine is loading")
        self.in_flight += 1
        try:
            return await self._stream(request, body, self._weights(model), prompt)
        finally:
            self.in_flight -= 1
            self.answered += 1

    def _weights(self, model: str) -> str:
        if model == BASE:
            others = list(self.adapters.values())
            is_mixed = self.fault == "base-changed" and self.in_flight >= BUSY and others
            return others[-1].weights if is_mixed else BASE
        own = self.adapters[model].weights
        if own == "nan":
            self.poisoned = True
        if self.fault == "wrong-version" and self.in_flight >= BUSY and self.answered % 5 == 0:
            return next((each.weights for each in self.adapters.values() if each.weights != own), own)
        return own

    async def _stream(
        self, request: web.Request, body: Mapping[str, Any], weights: str, prompt: str
    ) -> web.StreamResponse:
        model = body["model"]
        blocks = self.cached.setdefault((model, prompt), weights)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for position in range(0 if self.poisoned else body["max_tokens"]):
            if self.fault == "in-flight" and model in self.adapters:
                weights = self.adapters[model].weights
            mixed = weights if blocks == weights or self.fault != "stale-cache" else f"{weights} {blocks}"
            text, logprobs = token(mixed, prompt, position)
            shown = {"tokens": [text], "token_logprobs": [logprobs[text]], "top_logprobs": [logprobs]}
            await response.write(event({"choices": [{"index": 0, "text": text, "logprobs": shown}]}))
            await asyncio.sleep(self.token_seconds)
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


def token(weights: str, prompt: str, position: int) -> tuple[str, dict[str, float]]:
    """Returns the most probable token, and the log-probabilities of the five most probable ones."""
    digest = hashlib.sha256(f"{weights}|{prompt}|{position}".encode()).digest()
    likeliest = list(dict.fromkeys(VOCABULARY[byte % len(VOCABULARY)] for byte in digest))[:5]
    return likeliest[0], {text: -0.3 - 2.0 * rank for rank, text in enumerate(likeliest)}


def event(body: Any) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", default="")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--token-seconds", type=float, default=0.002)
    options = parser.parse_args()
    engine = Engine(options.fault, options.slots, os.environ.get("VLLM_API_KEY", ""), options.token_seconds)
    web.run_app(engine.app(), host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()
