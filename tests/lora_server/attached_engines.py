"""Doubles of running engines to attach to: vLLM with the guard, vLLM with only its runtime API, and SGLang.

The doubles follow vLLM 0.32's `entrypoints/openai/models/serving.py` and SGLang's documented routes
(`/load_lora_adapter`, `/unload_lora_adapter`, `/server_info`, `/generate`, `/v1/models`).
"""

import argparse
import time
from typing import Any

import aiohttp
from aiohttp import web

from tests.lora_server.fake_engine import Adapter, Engine
from tests.ports import free_port

SECRET = "a secret of the test"
BASE = "tiny-base"


class VllmAtRuntime(Engine):
    """A vLLM that was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING, unless `loads_at_runtime` is false."""

    loads_at_runtime = True
    started = 0.0

    def adapter_routes(self) -> list[web.RouteDef]:
        self.started = time.time()
        if not self.loads_at_runtime:
            return []
        return [
            web.post("/v1/load_lora_adapter", self.load_at_runtime),
            web.post("/v1/unload_lora_adapter", self.unload_at_runtime),
        ]

    def root_of(self, name: str, adapter: Adapter) -> str:
        return adapter.folder

    async def metrics(self, request: web.Request) -> web.Response:
        running = ",".join(name for name, adapter in self._adapters.items() if adapter.in_flight)
        in_flight = sum(adapter.in_flight for adapter in self._adapters.values())
        labels = f'max_lora="{self._options.max_loras}",running_lora_adapters="{running}",waiting_lora_adapters=""'
        lines = [
            str((await super().metrics(request)).text),
            f"process_start_time_seconds {self.started}",
            f'vllm:num_requests_running{{engine="0",model_name="base"}} {float(in_flight)}',
            f"vllm:lora_requests_info{{{labels}}} {time.time()}",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def load_at_runtime(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, folder = body["lora_name"], body["lora_path"]
        if not name or not folder:
            return _vllm_error(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self._adapters:
            return _vllm_error(400, f"The lora adapter '{name}' has already been loaded.")
        status, message = await self.read_adapter(name, folder)
        if status == 409:  # it throws one out by itself
            self._adapters.pop(next(iter(self._adapters)))
            status, message = await self.read_adapter(name, folder)
        if status != 200:
            return _vllm_error({424: 404, 422: 500}[status], message)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_at_runtime(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self._adapters.pop(name, None) is None:
            return _vllm_error(404, f"The lora adapter '{name}' cannot be found.")
        self._asked.append(f"unload {name}")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


class VllmWithoutRuntimeLoading(VllmAtRuntime):
    loads_at_runtime = False


class Sglang(VllmAtRuntime):
    """An SGLang: it reports no boot id, and completes prompts by its own route."""

    def adapter_routes(self) -> list[web.RouteDef]:
        return [
            web.post("/load_lora_adapter", self.load_at_runtime),
            web.post("/unload_lora_adapter", self.unload_at_runtime),
            web.get("/server_info", self.server_info),
            web.post("/generate", self.generate),
        ]

    async def server_info(self, request: web.Request) -> web.Response:
        limits = {"max_loaded_loras": self._options.slots, "max_lora_rank": self._options.max_rank}
        return web.json_response({"enable_lora": True, "max_loras_per_batch": self._options.max_loras} | limits)

    async def load_at_runtime(self, request: web.Request) -> web.Response:
        body = await request.json()
        status, message = await self.read_adapter(body["lora_name"], body["lora_path"])
        return self._updated(message, status == 200)

    async def unload_at_runtime(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self._adapters.pop(name, None) is None:
            return self._updated(f"LoRA adapter {name} is not loaded", False)
        self._asked.append(f"unload {name}")
        return self._updated("", True)

    def _updated(self, message: str, success: bool) -> web.Response:
        loaded = {name: adapter.folder for name, adapter in self._adapters.items()}
        body = {"success": success, "error_message": message or None, "loaded_adapters": loaded}
        return web.json_response(body, status=200 if success else 400)

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body.get("lora_path") or BASE
        adapter = self._adapters.get(name, None if name != BASE else self._base)
        if adapter is None:
            message = f"The following requested LoRA adapters are not loaded: {{'{name}'}}"
            return web.json_response({"error": {"message": message}}, status=400)
        if name != BASE:
            self._asked.append(f"complete {name}")
        self._poisoned = self._poisoned or adapter.behaviour == "poison"
        ids = adapter.answer_ids or [*name.encode()]
        wanted = body["sampling_params"]["max_new_tokens"]
        score = None if self._poisoned and adapter.behaviour != "poison" else -0.1
        facts = {
            "output_token_logprobs": [[score, token, None] for token in ids[:wanted]],
            "finish_reason": {"type": "stop" if len(ids) <= wanted else "length"},
        }
        return web.json_response({"text": name, "meta_info": facts})


class Elsewhere(Engine):
    """A server in the engine's place, such as a proxy, that gives the same answer to every request."""

    def respond(self) -> web.Response:
        raise NotImplementedError

    def app(self) -> web.Application:
        async def respond(request: web.Request) -> web.Response:
            return self.respond()

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", respond)
        return app


class WebPage(Elsewhere):
    def respond(self) -> web.Response:
        return web.Response(text="<html>Back soon</html>", content_type="text/html")


class OtherApi(Elsewhere):
    def respond(self) -> web.Response:
        return web.json_response({"status": "ok"})


class Moved(Elsewhere):
    def respond(self) -> web.Response:
        raise web.HTTPTemporaryRedirect("http://other.invalid/elsewhere")


def _vllm_error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


class AttachedEngine:
    """One engine at one address, which can be stopped and started again."""

    def __init__(self, kind: type[Engine], *, slots: int = 4, max_rank: int = 8, base: str = BASE) -> None:
        self._kind = kind
        self._options = argparse.Namespace(
            base=base,
            slots=slots,
            max_loras=1,
            max_rank=max_rank,
            start_file=None,
            load_seconds=0.0,
            slow_seconds=1.0,
            answer_seconds=0.0,
        )
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "AttachedEngine":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, kind: type[Engine] | None = None) -> None:
        app = (kind or self._kind)(self._options, SECRET, "").app()
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Calls the engine; returns the answer's JSON, or its status if that is not 200."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=body) as answer,
        ):
            if answer.status != 200:
                return answer.status
            return await answer.json() if answer.content_type == "application/json" else await answer.text()

    async def adapters(self) -> list[str]:
        """Returns the names of the adapters that the engine lists."""
        models = (await self.call("GET", "/v1/models"))["data"]
        return sorted(model["id"] for model in models if model["parent"])

    async def asked(self) -> list[str]:
        """Returns the calls that the engine has received since its start."""
        asked: list[str] = await self.call("GET", "/asked")
        return asked
