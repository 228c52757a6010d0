"""A double of a vLLM with Pointsman's real guard as its middleware, sound or with one seeded fault.

    python -m tests.cli.conformance.guarded_double --port PORT --fault FAULT

The secret is in POINTSMAN_ENGINE_SECRET. Faults, each named like the property that it hurts:
  wrong-version     some answers to adapters have the weights of another one
  base-changed      while two adapters are loaded, the base model answers with one of them
  no-effect         an adapter whose layers the base model lacks is accepted
"""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from pointsman_lora_server.engine.guard.pointsman_engine_guard import Guard

from tests.cli.conformance.double_model import BASE, completion_event, read_weights
from tests.lora_server.vllm_models import LoraRequest, Models

SLOTS = 6
TOKEN_SECONDS = 0.002


@dataclass
class Engine:
    """Replaces AsyncLLM."""

    fault: str
    vllm_config: Any = field(
        default_factory=lambda: SimpleNamespace(
            lora_config=SimpleNamespace(max_loras=2, max_cpu_loras=SLOTS, max_lora_rank=8),
            model_config=SimpleNamespace(model="some/model"),
        )
    )
    errored: bool = False
    weights: dict[int, str] = field(default_factory=dict)
    answered: int = 0

    async def add_lora(self, request: LoraRequest) -> bool:
        self.weights[request.lora_int_id] = read_weights(Path(request.lora_path), self.fault == "no-effect")
        return True

    async def remove_lora(self, number: int) -> bool:
        return self.weights.pop(number, None) is not None

    async def list_loras(self) -> set[int]:
        return set(self.weights)

    async def generate(
        self, prompt: str, max_tokens: int, *, lora_request: LoraRequest | None = None
    ) -> AsyncGenerator[bytes, None]:
        self.answered += 1
        weights = self.weights[lora_request.lora_int_id] if lora_request else BASE
        is_mixed = len(self.weights) > 1 and self.answered % 5 == 0
        if is_mixed and self.fault == ("wrong-version" if lora_request else "base-changed"):
            weights = next(each for each in self.weights.values() if each != weights)
        for position in range(max_tokens):
            yield completion_event(weights, prompt, position)
            await asyncio.sleep(TOKEN_SECONDS)

    encode = generate


class Vllm:
    """Replaces the API server: lists models, and streams completions."""

    def __init__(self, fault: str) -> None:
        self.state = SimpleNamespace(openai_serving_models=Models(BASE), engine_client=Engine(fault))
        self._guard = Guard(self._answer, LoraRequest, lambda: "0.32.0")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._guard({**scope, "app": self}, receive, send)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        models = self.state.openai_serving_models
        if scope["path"] == "/v1/models":
            cards = [vars(card) for card in (await models.show_available_models()).data]
            await _send(send, 200, {"object": "list", "data": cards})
        elif scope["path"] == "/v1/completions":
            await self._complete(json.loads((await receive())["body"]), models, send)
        else:
            await _send(send, 404, {"error": {"message": "Not Found"}})

    async def _complete(self, body: Any, models: Any, send: Any) -> None:
        name = body["model"]
        if name != BASE and name not in models.lora_requests:
            await _send(send, 404, {"error": {"message": f"The model `{name}` does not exist."}})
            return
        lora = models.lora_requests[name] if name != BASE else None
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        parts = self.state.engine_client.generate(body["prompt"], body["max_tokens"], lora_request=lora)
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _send(send: Any, status: int, body: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fault", default="")
    options = parser.parse_args()
    uvicorn.run(Vllm(options.fault), host="127.0.0.1", port=options.port, log_level="warning", lifespan="off")
