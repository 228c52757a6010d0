"""All services with the real engine: every kind of path over HTTP and gRPC, and how they interact."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc
from pointsman_servicekit.metrics_page import MAX_AGE_SECONDS

BICYCLES = Path(__file__).parents[2] / "examples/helpdesk/handbook/bicycles.md"
QUESTIONS = {
    "lora": "left my green umbrella on the 17.40 to Saltby Harbour yesterday, pls tell me u have it!!",
    "rag": "Do I have to reserve a space for my bicycle?",
    "hybrid": "Draft a reply to a customer who asks whether her dog needs a ticket.",
    "prompt": "What do 2 adults and 1 child of 8 pay together for singles from Larkmoor to Alder Bridge?",
}


@pytest.fixture
def client(help_desk: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{help_desk.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.mark.parametrize("kind", QUESTIONS)
def test_each_kind_of_path_answers_a_classified_request(client: openai.OpenAI, kind: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": QUESTIONS[kind]}]
    )
    answer = raw.parse()
    assert raw.headers["x-pointsman-kind"] == kind
    assert float(raw.headers["x-pointsman-cost-usd"]) > 0
    assert (answer.choices[0].message.content or "").strip()
    assert answer.usage
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0


def test_the_triage_adapter_answers_with_valid_json(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="triage@prod", messages=[{"role": "user", "content": QUESTIONS["lora"]}], temperature=0, max_tokens=160
    )
    triaged = json.loads(answer.choices[0].message.content or "")
    assert list(triaged) == ["intent", "slots", "urgency"]
    assert triaged["intent"] == "lost_item"
    assert answer.model.startswith("triage@")
    assert answer.model != "triage@prod"  # the version is a hash of the content


def test_the_hybrid_path_uses_the_adapters_style_and_the_handbook(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": QUESTIONS["hybrid"]}])
    letter = answer.choices[0].message.content
    assert letter
    assert letter.startswith("Good day from Larkmoor Railway,")
    assert "The Larkmoor help desk" in letter
    assert answer.model_extra
    assert answer.model_extra["pointsman"]["sources"]


def test_the_policy_adapter_quotes_a_sentence_of_the_page_that_was_found(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="path:handbook_adapter", messages=[{"role": "user", "content": QUESTIONS["rag"]}]
    )
    quoted = answer.choices[0].message.content
    assert quoted
    assert quoted in BICYCLES.read_text("utf-8")
    assert answer.model_extra
    assert [source["document_id"] for source in answer.model_extra["pointsman"]["sources"]] == ["bicycles"]


def test_stream_and_plain_answers_have_equal_text_tokens_and_cost(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "path:fare_steps", "messages": [{"role": "user", "content": QUESTIONS["prompt"]}]}
    client.chat.completions.create(**asked, max_tokens=24)  # so that both find the same prefix in the cache
    plain = client.chat.completions.create(**asked, max_tokens=24)
    streamed = list(
        client.chat.completions.create(**asked, max_tokens=24, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(choice.delta.content or "" for chunk in streamed for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert streamed[-1].usage == plain.usage
    assert streamed[-1].model_extra["pointsman"]["cost_usd"] == plain.model_extra["pointsman"]["cost_usd"]


def test_out_of_scope_requests_use_the_default_path(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "Write a SQL query that joins two tables on their ids."}]
    )
    assert raw.headers["x-pointsman-reason"] == "abstained"
    assert raw.headers["x-pointsman-path"] == "safe_start"
    assert raw.headers["x-pointsman-task"] == "unknown"


def test_grpc_answers_like_http(help_desk: Any, client: openai.OpenAI) -> None:
    message = gateway_pb2.Message(role="user", content=QUESTIONS["rag"])
    with grpc.insecure_channel(help_desk.grpc) as channel:
        request = gateway_pb2.GenerateRequest(model="path:handbook_answer", messages=[message])
        events = list(gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request, timeout=120))
    plain = client.chat.completions.create(
        model="path:handbook_answer", messages=[{"role": "user", "content": QUESTIONS["rag"]}]
    )
    assert events[0].WhichOneof("event") == "started"
    assert events[-1].WhichOneof("event") == "finished"
    assert "".join(event.delta.content for event in events) == plain.choices[0].message.content
    receipt = events[-1].finished.receipt
    assert plain.usage
    assert plain.model_extra
    assert receipt.usage.prompt_tokens == plain.usage.prompt_tokens
    assert receipt.usage.completion_tokens == plain.usage.completion_tokens
    assert [s.document_id for s in receipt.sources] == [
        s["document_id"] for s in plain.model_extra["pointsman"]["sources"]
    ]


def test_a_prompt_longer_than_the_context_window_is_rejected_over_http_and_grpc(
    help_desk: Any, client: openai.OpenAI
) -> None:
    text = "ticket " * 6000
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="smollm2-135m", messages=[{"role": "user", "content": text}])
    assert refused.value.code == "context_length_exceeded"
    request = gateway_pb2.GenerateRequest(
        model="smollm2-135m", messages=[gateway_pb2.Message(role="user", content=text)]
    )
    with grpc.insecure_channel(help_desk.grpc) as channel, pytest.raises(grpc.RpcError) as failed:
        list(gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request, timeout=60))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "4096" in (failed.value.details() or "")


def test_adapters_do_not_affect_the_base_model(client: openai.OpenAI) -> None:
    def ask(model: str, text: str) -> str:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=24
        )
        return str(answer.choices[0].message.content)

    alone = ask("smollm2-135m", "What is the capital of France?")

    async def together() -> str:
        base, *_ = await asyncio.gather(
            asyncio.to_thread(ask, "smollm2-135m", "What is the capital of France?"),
            asyncio.to_thread(ask, "triage@prod", QUESTIONS["lora"]),
            asyncio.to_thread(ask, "voice@prod", QUESTIONS["hybrid"]),
        )
        return base

    assert asyncio.run(together()) == alone
    assert "Paris" in alone


async def test_a_disconnect_stops_the_engine(help_desk: Any) -> None:
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Tell me a very long story about trains."}],
        "max_tokens": 2000,
        "ignore_eos": True,
    }
    engine = await _engine_url(help_desk)
    async with httpx.AsyncClient(timeout=60) as http:
        for stream in (True, False):
            asking = asyncio.create_task(
                _read_forever(http, f"{help_desk.url}/v1/chat/completions", body | {"stream": stream})
            )
            await _until(lambda: _running(http, engine), lambda running: running == 1)
            asking.cancel()
            hung_up = time.monotonic()
            await asyncio.gather(asking, return_exceptions=True)
            await _until(lambda: _running(http, engine), lambda running: running == 0)
            assert time.monotonic() - hung_up < 2.0  # 200 ms is promised; this test only checks that it happens
    assert any('outcome="cancelled",path="smollm2-135m"' in line for line in _gateway_metrics(help_desk))


def test_metrics_price_each_path(help_desk: Any, client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="path:triage_few_shot", messages=[{"role": "user", "content": "my train was late"}], max_tokens=8
    )
    cost = [
        line
        for line in _gateway_metrics(help_desk)
        if line.startswith("pointsman_cost_usd_total{") and "triage_few_shot" in line
    ]
    assert {part for line in cost for part in ("prompt", "cached", "completion") if f'component="{part}"' in line} == {
        "prompt", "cached", "completion",
    }  # fmt: skip
    assert sum(float(line.rpartition(" ")[2]) for line in cost) > 0


def test_the_engine_reports_its_time_and_its_cost_is_allocated(help_desk: Any, client: openai.OpenAI) -> None:
    received = {}
    for path in ("triage_few_shot", "triage_adapter"):
        answered = client.chat.completions.create(
            model=f"path:{path}", messages=[{"role": "user", "content": "my train was late"}], max_tokens=8
        )
        assert answered.model_extra is not None
        received[path] = answered.model_extra["pointsman"]
        assert received[path]["seconds"]["queue"] >= 0  # as vLLM counts it
        assert received[path]["seconds"]["prefill"] > 0
    assert received["triage_adapter"]["cost_parts_usd"]["training"] > 0
    assert "training" not in received["triage_few_shot"]["cost_parts_usd"]
    shared = [line for line in _gateway_metrics(help_desk) if line.startswith("pointsman_engine_cost_usd_total{")]
    assert {path for line in shared for path in ("triage_few_shot", "idle") if f'path="{path}"' in line} == {
        "triage_few_shot", "idle",
    }  # fmt: skip
    assert 0 < sum(float(line.rpartition(" ")[2]) for line in shared) < 0.04  # it has run for less than an hour


def _gateway_metrics(help_desk: Any) -> list[str]:
    time.sleep(MAX_AGE_SECONDS)  # a page that another test has just read is kept for so long
    return httpx.get(f"{help_desk.url}/metrics").text.splitlines()


async def _read_forever(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> None:
    async with http.stream("POST", url, json=body) as response:
        async for _ in response.aiter_bytes():
            pass


async def _engine_url(help_desk: Any) -> str:
    return str(help_desk.run["engine"])


async def _running(http: httpx.AsyncClient, engine: str) -> float:
    lines = (await http.get(f"{engine}/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running"))


async def _until(read: Callable[[], Awaitable[float]], holds: Callable[[float], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds(await read()):  # noqa: ASYNC110  # the condition is another process's gauge
            await asyncio.sleep(0.02)
