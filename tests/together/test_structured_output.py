"""Structured output and tool calls with the real engine. tests/clients tests more of them, with many clients."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc
from pointsman_lora_server.engine import tool_calls

from tests.running_example import ROOT, RunningExample

TRIAGED = "left my green umbrella on the 17.40 to Saltby Harbour yesterday, pls tell me u have it!!"
ITEM: dict[str, Any] = {
    "type": "object",
    "properties": {"item": {"enum": ["umbrella", "bicycle", "ticket"]}, "lost": {"type": "boolean"}},
    "required": ["item", "lost"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "item", "schema": ITEM, "strict": True}}
SECONDS = 300


def by_chat_completions(help_desk: RunningExample) -> tuple[str, dict[str, Any]]:
    body = {"model": "auto", "messages": [{"role": "user", "content": TRIAGED}], "response_format": FORMAT}
    answer = httpx.post(f"{help_desk.url}/v1/chat/completions", json=body, timeout=SECONDS).raise_for_status().json()
    return answer["choices"][0]["message"]["content"], answer["pointsman"]


def by_responses(help_desk: RunningExample) -> tuple[str, dict[str, Any]]:
    text = {"format": {"type": "json_schema", **FORMAT["json_schema"]}}  # type: ignore[dict-item]
    body = {"model": "auto", "input": TRIAGED, "text": text}
    answer = httpx.post(f"{help_desk.url}/v1/responses", json=body, timeout=SECONDS).raise_for_status().json()
    return answer["output"][-1]["content"][0]["text"], answer["pointsman"]


def by_grpc(help_desk: RunningExample) -> tuple[str, dict[str, Any]]:
    request = gateway_pb2.GenerateRequest(
        model="auto",
        messages=[gateway_pb2.Message(role="user", content=TRIAGED)],
        sampling=gateway_pb2.Sampling(extra_json=json.dumps({"response_format": FORMAT})),
    )
    with grpc.insecure_channel(help_desk.grpc) as channel:
        answer = gateway_pb2_grpc.GatewayStub(channel).Generate(request, timeout=SECONDS)
    receipt = answer.receipt
    return answer.choices[0].content, {"path": receipt.path, "escalated_from": receipt.escalated_from}


@pytest.mark.parametrize("ask", [by_chat_completions, by_responses, by_grpc])
def test_the_clients_schema_is_met_by_the_tasks_first_path(
    help_desk: RunningExample, ask: Callable[[RunningExample], tuple[str, dict[str, Any]]]
) -> None:
    text, answered = ask(help_desk)

    item = json.loads(text)
    assert item.keys() == {"item", "lost"}, text
    assert item["item"] in ITEM["properties"]["item"]["enum"]
    assert (answered["path"], answered["escalated_from"] or "") == ("triage_adapter", "")


def test_a_required_call_satisfies_its_functions_schema(help_desk: RunningExample) -> None:
    function = {"name": "report", "parameters": ITEM}
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": TRIAGED}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 100,
    }
    answer = httpx.post(f"{help_desk.url}/v1/chat/completions", json=body, timeout=SECONDS).raise_for_status().json()

    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "report"
    assert json.loads(call["function"]["arguments"]).keys() == {"item", "lost"}


def test_a_schema_that_vllm_cannot_use_is_rejected_and_the_engine_stays_available(help_desk: RunningExample) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]}
    body = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    for _ in range(8):  # more than open a circuit breaker
        rejected = httpx.post(f"{help_desk.url}/v1/chat/completions", json=body, timeout=SECONDS)
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (400, "engine_refused"), rejected.text
    del body["response_format"]
    answered = httpx.post(f"{help_desk.url}/v1/chat/completions", json={**body, "max_tokens": 2}, timeout=SECONDS)
    assert answered.status_code == 200, answered.text


def test_vllm_has_every_tool_call_parser_that_the_lora_server_may_choose() -> None:
    python = Path(ROOT, ".venv-engine", "bin", "python")
    program = "from vllm.tool_parsers import ToolParserManager as parsers; print(*parsers.list_registered())"
    listed = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, env=os.environ)

    chosen = {*(parser for _, parser in tool_calls._BY_CHAT_TEMPLATE), *tool_calls._BY_MODEL_TYPE.values()}
    assert set(listed.stdout.split()) >= chosen
