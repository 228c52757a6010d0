"""The guard in front of vLLM's API server, with a small server in vLLM's place: its table of names, and its engine."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pointsman_lora_server.engine.command import SECRET_HEADER, SECRET_VARIABLE
from pointsman_lora_server.engine.guard.pointsman_engine_guard import Guard
from pointsman_lora_server.engine.guard.pointsman_engine_guard.asgi import NETWORKS_VARIABLE, SECRET_FILE_VARIABLE

from tests.lora_server.vllm_models import LoraRequest, Models

BASE = "tiny-base"
SLOTS = 2
SECRET = {SECRET_HEADER: "open sesame, open"}
ADAPTERS = "/pointsman/v1/adapters"
VERSION = "0.32.0"


class Engine:
    """Replaces vLLM's AsyncLLM. It holds adapters until it is full; its answers wait until they are released."""

    def __init__(self) -> None:
        self.vllm_config = SimpleNamespace(
            lora_config=SimpleNamespace(max_loras=1, max_cpu_loras=SLOTS, max_lora_rank=8),
            model_config=SimpleNamespace(model="some/model"),
        )
        self.errored = False
        self.loras: dict[int, str] = {}
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.aborted: list[str] = []

    async def add_lora(self, request: LoraRequest) -> bool:
        assert len(self.loras) < SLOTS, "vLLM would throw one out"
        self.loras[request.lora_int_id] = request.lora_path
        await asyncio.sleep(0)
        if "bad" in request.lora_path:
            raise ValueError(f"cannot merge {request.lora_path}/adapter_model.safetensors")
        return True

    async def remove_lora(self, number: int) -> bool:
        return self.loras.pop(number, None) is not None

    async def list_loras(self) -> set[int]:
        return set(self.loras)

    async def generate(
        self, prompt: str, *, request_id: str, lora_request: LoraRequest | None = None
    ) -> AsyncGenerator[str, None]:
        try:
            yield "first"
            await self.go_on.wait()
            yield self.loras[lora_request.lora_int_id] if lora_request else BASE
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise

    async def encode(self, prompt: str, *, lora_request: LoraRequest | None = None) -> AsyncGenerator[str, None]:
        yield "vector"


class Vllm:
    """Replaces vLLM's API server: it answers every path, and streams completions."""

    def __init__(self, version: str = VERSION) -> None:
        self.state = SimpleNamespace(openai_serving_models=Models(BASE), engine_client=Engine())
        self.rendered = asyncio.Event()
        self.rendered.set()
        self.guard = Guard(self.answer, LoraRequest, lambda: version)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.guard({**scope, "app": self}, receive, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/models":
            models = await self.state.openai_serving_models.show_available_models()
            await self._send(send, json.dumps([vars(card) for card in models.data]))
        elif scope["path"] == "/v1/completions":
            await self._complete(receive, send)
        else:
            await self._send(send, f"vLLM's {scope['path']}")

    async def _complete(self, receive: Any, send: Any) -> None:
        body = json.loads((await receive())["body"])
        models, engine = self.state.openai_serving_models, self.state.engine_client
        if body["model"] != BASE and body["model"] not in models.lora_requests:
            await self._send(send, "does not exist", 404)
            return
        lora = models.lora_requests[body["model"]] if body["model"] != BASE else None
        await self.rendered.wait()
        text = ""
        for prompt in body.get("prompts", ["one"]):
            parts = engine.generate(prompt, request_id=prompt, lora_request=lora)
            async for part in parts:
                text += f"{part} "
                if body.get("impatient"):
                    await parts.aclose()
        await self._send(send, text)

    async def _send(self, send: Any, text: str, status: int = 200) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Vllm:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET[SECRET_HEADER])
    return Vllm()


@pytest.fixture
async def client(vllm: Vllm) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(vllm, client=("127.0.0.1", 1234))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=SECRET) as client:
        yield client


async def load(client: httpx.AsyncClient, name: str) -> httpx.Response:
    return await client.put(f"{ADAPTERS}/{name}", json={"folder": f"/store/{name}"})


async def report_of(client: httpx.AsyncClient) -> dict[str, Any]:
    report: dict[str, Any] = (await client.get(ADAPTERS)).json()
    return report


async def ask(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": model} | more)


async def until_in_flight(client: httpx.AsyncClient, name: str, count: int) -> None:
    async with asyncio.timeout(5):
        while (await report_of(client))["adapters"][name]["in_flight"] != count:  # noqa: ASYNC110 -- the guard tells nobody
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/adapters/x", "/invocations"),
        *("/sleep", "/wake_up", "/collective_rpc", "/pause", "/resume", "/server_info", "/openapi.json", "/docs"),
        *("/v1/models/", "//v1/models", "/v1/load_lora_adapter/", "/new/in/the/next/release"),
    ],
)
async def test_non_public_routes_are_not_found_even_with_the_secret(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await client.request(method, f"http://engine{path}")
        assert answer.status_code == 404
        assert "vLLM's" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/v1/embeddings", "/v1/rerank", "/v2/rerank"])
async def test_public_routes_are_vllms_own(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path)

    assert answer.text == f"vLLM's {path}"


@pytest.mark.parametrize(
    ("secret", "peer"), [("", "127.0.0.1"), ("guessed", "127.0.0.1"), (SECRET[SECRET_HEADER], "10.1.2.3")]
)
async def test_the_guards_routes_need_the_secret_and_a_local_caller(vllm: Vllm, secret: str, peer: str) -> None:
    transport = httpx.ASGITransport(vllm, client=(peer, 1234))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://engine", headers={SECRET_HEADER: secret}
    ) as client:
        answers = [
            await client.get(ADAPTERS),
            await load(client, "a@1"),
            await client.post(f"{ADAPTERS}/a@1/close"),
            await client.delete(f"{ADAPTERS}/a@1"),
            await client.get("/pointsman/anything"),
        ]

    assert {answer.status_code for answer in answers} == {403}
    assert not vllm.state.engine_client.loras


async def test_lora_servers_of_the_named_networks_may_manage_adapters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET[SECRET_HEADER])
    monkeypatch.setenv(NETWORKS_VARIABLE, "192.0.2.0/28, 10.0.0.0/8")
    vllm = Vllm()
    for peer, status in (("10.1.2.3", 200), ("::ffff:10.1.2.3", 200), ("192.0.2.99", 403), ("unix", 403)):
        transport = httpx.ASGITransport(vllm, client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=SECRET) as client:
            assert (await client.get(ADAPTERS)).status_code == status


async def startup_log(caplog: pytest.LogCaptureFixture, version: str = VERSION) -> tuple[bool, str]:
    """Runs uvicorn's startup with the guard, which vLLM adds in this way; returns whether it goes on, and the log."""
    app = FastAPI()
    app.add_middleware(Guard, LoraRequest, lambda: version)
    config = uvicorn.Config(app, log_config=None)
    config.load()
    startup = config.lifespan_class(config)
    with caplog.at_level(logging.INFO):
        await startup.startup()
    if not startup.should_exit:
        await startup.shutdown()
    return not startup.should_exit, caplog.text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (SECRET_VARIABLE, ""),
        (SECRET_VARIABLE, "too short"),
        (SECRET_FILE_VARIABLE, "/no/file"),
        (NETWORKS_VARIABLE, "10.0.0.0/99"),
    ],
)
async def test_without_a_good_secret_and_networks_the_engine_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET[SECRET_HEADER])
    monkeypatch.setenv(variable, value)

    goes_on, log = await startup_log(caplog)
    assert not goes_on
    assert "Error: the guard does not let vLLM start" in log
    assert (value if variable == SECRET_FILE_VARIABLE else variable) in log
    with pytest.raises((ValueError, OSError)):  # a server that ignores a failed startup gets no answer either
        await Vllm()({"type": "http", "path": "/health", "headers": [], "method": "GET"}, None, None)


async def test_with_an_unknown_vllm_the_engine_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET[SECRET_HEADER])
    goes_on, log = await startup_log(caplog, "0.99.0")
    assert not goes_on
    assert "this is 0.99.0: install one of those" in log
    assert (await startup_log(caplog, VERSION))[0]


async def test_the_secret_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(f"{SECRET[SECRET_HEADER]}\n")
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    monkeypatch.setenv(SECRET_FILE_VARIABLE, str(tmp_path / "secret"))
    assert (await startup_log(caplog))[0]


async def test_the_report_states_the_run_of_the_engine_and_its_limits(vllm: Vllm, client: httpx.AsyncClient) -> None:
    report, again = await report_of(client), await report_of(client)

    assert report["boot"] == again["boot"]
    assert (report["capacity"], report["max_loras"], report["max_lora_rank"]) == (SLOTS, 1, 8)
    vllm.guard = Guard(vllm.answer, LoraRequest, lambda: VERSION)
    assert (await report_of(client))["boot"] != report["boot"]


async def test_adapters_of_lora_modules_serve_on_and_take_their_slots(vllm: Vllm, client: httpx.AsyncClient) -> None:
    models, engine = vllm.state.openai_serving_models, vllm.state.engine_client
    models.lora_requests["sql"] = LoraRequest("sql", models.lora_id_counter.inc(1), "/loras/sql")
    await engine.add_lora(models.lora_requests["sql"])

    report = await report_of(client)
    assert (report["capacity"], list(report["adapters"]), list(report["static"])) == (SLOTS - 1, [], ["sql"])
    assert (await load(client, "a@1")).status_code == 200
    assert (await load(client, "a@2")).status_code == 409
    assert (await load(client, "sql")).status_code == 422
    await client.post(f"{ADAPTERS}/sql/close")
    await client.delete(f"{ADAPTERS}/sql")
    assert (await ask(client, "sql")).text == "first /loras/sql "
    assert (await report_of(client))["static"]["sql"]["requests"] == 1


async def test_a_folder_that_the_engine_does_not_see_is_no_fault_of_the_adapter(client: httpx.AsyncClient) -> None:
    answer = await client.put(f"{ADAPTERS}/a@1", json={"folder": "/nowhere/bad"})

    assert (answer.status_code, answer.json()["error"]["message"]) == (424, "the engine finds no folder /nowhere/bad")


async def test_an_adapter_is_loaded_once(vllm: Vllm, client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(load(client, "a@1") for _ in range(10)))

    assert {answer.status_code for answer in answers} == {200}
    assert vllm.state.engine_client.loras == {1: "/store/a@1"}
    assert (await ask(client, "a@1")).text == "first /store/a@1 "


async def test_a_full_engine_rejects_loads_and_evicts_nothing(vllm: Vllm, client: httpx.AsyncClient) -> None:
    for name in ("a@1", "a@2"):
        await load(client, name)

    answer = await load(client, "a@3")

    assert answer.status_code == 409
    assert "all 2 are taken" in answer.json()["error"]["message"]
    assert list(vllm.state.engine_client.loras.values()) == ["/store/a@1", "/store/a@2"]
    report = await report_of(client)
    assert (report["capacity"], report["in_engine"], sorted(report["adapters"])) == (2, 2, ["a@1", "a@2"])


async def test_a_rejected_adapter_takes_no_slot_and_its_path_is_not_revealed(
    vllm: Vllm, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "bad@1").mkdir()
    answer = await client.put(f"{ADAPTERS}/bad@1", json={"folder": str(tmp_path / "bad@1")})

    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "cannot merge bad@1/adapter_model.safetensors"
    assert not vllm.state.engine_client.loras
    assert (await ask(client, "bad@1")).status_code == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"folder": 1}', b'{"folder": "relative"}', b"x" * 100_000])
async def test_a_load_without_a_folder_is_rejected(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.put(f"{ADAPTERS}/a@1", content=body)).status_code == 422


async def test_the_base_models_name_is_rejected_for_adapters(client: httpx.AsyncClient) -> None:
    assert (await load(client, BASE)).status_code == 422


async def test_closing_removes_the_name_without_affecting_answers_in_flight(
    vllm: Vllm, client: httpx.AsyncClient
) -> None:
    await load(client, "a@1")
    vllm.state.engine_client.go_on.clear()
    answer = asyncio.create_task(ask(client, "a@1"))
    await until_in_flight(client, "a@1", 1)

    assert (await client.post(f"{ADAPTERS}/a@1/close")).json() == {"in_flight": 1}
    assert (await ask(client, "a@1")).status_code == 404
    refusal = await client.delete(f"{ADAPTERS}/a@1")
    assert (refusal.status_code, refusal.json()) == (409, {"in_flight": 1})
    assert vllm.state.engine_client.loras

    vllm.state.engine_client.go_on.set()
    assert (await answer).text == "first /store/a@1 "
    assert (await client.delete(f"{ADAPTERS}/a@1")).status_code == 200
    assert not vllm.state.engine_client.loras
    assert not (await report_of(client))["adapters"]


async def test_a_request_counts_as_in_flight_from_the_lookup_of_its_adapter(
    vllm: Vllm, client: httpx.AsyncClient
) -> None:
    """Otherwise the adapter could be removed while the prompt is rendered, and vLLM would load the folder again."""
    await load(client, "a@1")
    vllm.rendered.clear()
    answer = asyncio.create_task(ask(client, "a@1"))

    await until_in_flight(client, "a@1", 1)
    assert (await client.delete(f"{ADAPTERS}/a@1")).status_code == 409

    vllm.rendered.set()
    assert (await answer).text == "first /store/a@1 "


async def test_a_request_of_many_prompts_counts_once_and_until_its_last(vllm: Vllm, client: httpx.AsyncClient) -> None:
    await load(client, "a@1")
    vllm.state.engine_client.go_on.clear()
    answer = asyncio.create_task(ask(client, "a@1", prompts=["one", "two", "three"]))
    await until_in_flight(client, "a@1", 1)
    vllm.state.engine_client.go_on.set()

    assert (await answer).text == "first /store/a@1 " * 3
    adapter = (await report_of(client))["adapters"]["a@1"]
    assert (adapter["in_flight"], adapter["requests"], adapter["open"]) == (0, 1, True)
    assert 0 <= adapter["idle_seconds"] < 5


async def test_a_disconnect_releases_the_adapter(vllm: Vllm, client: httpx.AsyncClient) -> None:
    await load(client, "a@1")
    vllm.state.engine_client.go_on.clear()
    answer = asyncio.create_task(ask(client, "a@1"))
    await until_in_flight(client, "a@1", 1)

    answer.cancel()

    await until_in_flight(client, "a@1", 0)
    assert vllm.state.engine_client.aborted == ["one"]


async def test_an_answer_aborted_by_vllm_is_counted(vllm: Vllm, client: httpx.AsyncClient) -> None:
    await load(client, "a@1")

    await ask(client, "a@1", impatient=True)

    assert vllm.state.engine_client.aborted == ["one"]
    await until_in_flight(client, "a@1", 0)


async def test_a_closed_adapter_is_reopened_without_loading(vllm: Vllm, client: httpx.AsyncClient) -> None:
    await load(client, "a@1")
    await client.post(f"{ADAPTERS}/a@1/close")
    assert not (await report_of(client))["adapters"]["a@1"]["open"]

    await load(client, "a@1")

    assert (await ask(client, "a@1")).text == "first /store/a@1 "
    assert vllm.state.engine_client.loras == {1: "/store/a@1"}


async def test_a_reloaded_adapter_has_a_new_id(vllm: Vllm, client: httpx.AsyncClient) -> None:
    await load(client, "a@1")
    await client.delete(f"{ADAPTERS}/a@1")
    await load(client, "a@1")

    assert vllm.state.engine_client.loras == {2: "/store/a@1"}


async def test_closing_and_removing_unknown_adapters_is_no_error(client: httpx.AsyncClient) -> None:
    assert (await client.post(f"{ADAPTERS}/a@1/close")).json() == {"in_flight": 0}
    assert (await client.delete(f"{ADAPTERS}/a@1")).status_code == 200


async def test_unowned_slots_are_cleared_before_the_next_load(vllm: Vllm, client: httpx.AsyncClient) -> None:
    vllm.state.engine_client.loras.update({7: "left behind", 8: "too"})

    assert (await load(client, "a@1")).status_code == 200
    assert list(vllm.state.engine_client.loras.values()) == ["/store/a@1"]


async def test_a_dead_engine_is_not_reported_as_an_invalid_adapter(vllm: Vllm, client: httpx.AsyncClient) -> None:
    vllm.state.engine_client.errored = True

    assert (await load(client, "bad@1")).status_code == 503


async def test_models_are_listed_without_paths(client: httpx.AsyncClient) -> None:
    await load(client, "a@1")

    models = (await client.get("/v1/models")).json()

    base = {"id": BASE, "root": BASE, "parent": None}
    assert models == [base, {"id": "a@1", "root": "a@1", "parent": BASE}]


async def test_adapter_resolvers_are_disabled(vllm: Vllm, client: httpx.AsyncClient) -> None:
    await client.get("/health")

    assert not vllm.state.openai_serving_models.lora_resolvers


async def test_the_base_models_requests_are_counted_too(client: httpx.AsyncClient) -> None:
    await ask(client, BASE)

    base = (await report_of(client))["base"]
    assert (base["in_flight"], base["requests"]) == (0, 1)


async def test_websockets_are_closed(vllm: Vllm) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await vllm({"type": "websocket", "path": "/v1/realtime", "headers": []}, None, send)

    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_root_path_keeps_all_of_vllms_routes(vllm: Vllm) -> None:
    transport = httpx.ASGITransport(vllm, root_path="/llm")
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        assert (await client.get("/llm/health")).status_code == 200
        assert (await client.get("/llm/v1/load_lora_adapter")).status_code == 404


def output(prompt: int, *completions: int, cached: int | None = None, first: int = 0) -> Any:
    """Returns an output of vLLM with so many tokens of the prompt and of each completion, the `first` one and those
    after it; `cached` tokens of the prompt were in the prefix cache.
    """
    outputs = [SimpleNamespace(index=first + at, token_ids=[1] * count) for at, count in enumerate(completions)]
    return SimpleNamespace(prompt_token_ids=[1] * prompt, num_cached_tokens=cached, outputs=outputs)


@pytest.mark.parametrize(
    ("kind", "outputs", "tokens"),
    [
        ("DELTA", [output(8, 1), output(8, 1, 2), output(8, 3)], 8 / 4 + 7),
        ("FINAL_ONLY", [output(8, 5)], 8 / 4 + 5),
        ("CUMULATIVE", [output(8, 1), output(8, 3), output(8, 5)], 8 / 4 + 5),
        ("CUMULATIVE", [output(8, 9), output(8, 2, first=1), output(8, 10)], 8 / 4 + 12),
        ("DELTA", [output(8, 1, cached=6), output(8, 1, cached=6)], 2 / 4 + 2),
        ("FINAL_ONLY", [SimpleNamespace(prompt_token_ids=[1] * 8, outputs=SimpleNamespace(data=[0.5]))], 8 / 4),
    ],
)
async def test_tokens_are_counted_by_adapter_and_those_of_prompts_count_less(
    vllm: Vllm, client: httpx.AsyncClient, kind: str, outputs: list[Any], tokens: float
) -> None:
    async def generate(prompt: str, params: Any, *, lora_request: Any = None) -> AsyncGenerator[Any, None]:
        for one in outputs:
            yield one

    vllm.state.engine_client.generate = generate
    await load(client, "triage@1")
    triage = vllm.state.openai_serving_models.lora_requests["triage@1"]
    params = SimpleNamespace(output_kind=SimpleNamespace(name=kind))
    counted = [one async for one in vllm.state.engine_client.generate("a prompt", params, lora_request=triage)]
    assert counted == outputs
    assert (await report_of(client))["tokens"] == {"": 0.0, "triage@1": tokens}
