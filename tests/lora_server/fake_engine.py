"""A double of vLLM's server, with the routes that the lora-server uses; started as vLLM is, as a child process.

An adapter says in its adapter_config.json, under "behaviour", what becomes of it: "refused" is not loaded (500),
"silent" answers without a token that can be scored. `GET /asked` lists what was asked.
"""

import argparse
import json
import math
from pathlib import Path

from aiohttp import web


class Engine:
    def __init__(self, base: str, start_file: Path | None) -> None:
        self._base = base
        self._start_file = start_file
        self._adapters: dict[str, str] = {}
        self._asked: list[str] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/completions", self.complete),
                web.get("/asked", self.asked),
            ]
        )
        return app

    async def health(self, request: web.Request) -> web.Response:
        starting = self._start_file is not None and not self._start_file.exists()
        return web.Response(status=503 if starting else 200)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in (self._base, *self._adapters)]})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._asked.append(f"load {body['lora_name']}")
        config = json.loads((Path(body["lora_path"]) / "adapter_config.json").read_text())
        behaviour = config.get("behaviour", "")
        if body["lora_name"] in self._adapters:
            return web.json_response({"error": {"message": "it is loaded already"}}, status=400)
        if behaviour == "refused":
            return web.json_response({"error": {"message": "cannot merge"}}, status=500)
        self._adapters[body["lora_name"]] = behaviour
        return web.Response(text="Success")

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._asked.append(f"complete {body['model']}")
        if body["model"] not in (self._base, *self._adapters):
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        score = math.nan if self._adapters.get(body["model"]) == "silent" else -0.5
        logprobs = {"token_logprobs": [score] * body["max_tokens"]}
        return web.json_response({"choices": [{"text": " word" * body["max_tokens"], "logprobs": logprobs}]})

    async def asked(self, request: web.Request) -> web.Response:
        return web.json_response(self._asked)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--base")
    parser.add_argument("--start-file", type=Path, help="not healthy until this file is there")
    options = parser.parse_args()
    web.run_app(Engine(options.base, options.start_file).app(), host="127.0.0.1", port=options.port, print=None)
