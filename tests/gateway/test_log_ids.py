"""The log lines of all services have the ids of the request, of its decision, and of its trace."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_servicekit import logs
from pointsman_servicekit.errors import PointsmanError

from tests.gateway.doubles.api_clients import API_CLIENTS, open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import DONE, ScriptedEngine, beginning, chunk, usage
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.span_recorder import Recorded

CHAT = "/v1/chat/completions"


class Mistaken:
    async def build(self, request: Request, decision: Decision) -> Prompt:
        raise ValueError("a mistake")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    written, root = io.StringIO(), logging.getLogger()
    handler = logs.make_handler(written, "gateway", "INFO", "json")
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


@pytest.fixture(params=["traced", "untraced"])
def recorded(request: pytest.FixtureRequest) -> Recorded | None:
    return Recorded() if request.param == "traced" else None


@pytest.fixture
async def gateway(neighbours: Neighbours, recorded: Recorded | None) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway(recorded.spans if recorded is not None else None) as gateway:
        yield gateway


async def test_each_log_line_of_a_request_has_its_id_over_http_and_grpc(
    log: io.StringIO, gateway: Gateway, recorded: Recorded | None
) -> None:
    now = gateway.components.reloader.current
    gateway.components.reloader.current = replace(now, stages=replace(now.stages, prompts=Mistaken()))
    decisions: set[str] = set()
    for name in API_CLIENTS:
        before = len(_lines(log))
        async with open_api_client(name, gateway.url, gateway.grpc_address) as api:
            with pytest.raises(PointsmanError, match="internal error"):
                await api.ask(IN_CHAT)
        (line,) = [line for line in _lines(log)[before:] if line["level"] == "ERROR"]
        assert len(line["request_id"]) == 16
        assert line["decision_id"] not in decisions
        decisions.add(line["decision_id"])
        assert ({"trace_id", "span_id"} <= line.keys()) is (recorded is not None)
        if recorded is not None:
            assert line["trace_id"] in {f"{span.context.trace_id:032x}" for span in recorded.all()}


async def test_a_log_line_before_the_decision_has_no_decision_id(log: io.StringIO, gateway: Gateway) -> None:
    logging.getLogger("elsewhere").warning("something else")
    (line,) = [line for line in _lines(log) if line["module"] == "elsewhere"]
    assert "decision_id" not in line


async def test_retriever_and_lora_server_get_request_and_decision_ids(
    neighbours: Neighbours, engine: ScriptedEngine, retriever: ScriptedRetriever
) -> None:
    server, aliases = neighbours.lora_server, {"triage@prod": TRIAGE}
    await server.say(READY, url=engine.url, loadable=[TRIAGE], aliases=aliases)
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        looked_up = await _ask(http, IN_POLICY, "r-1")
        loaded = await _ask(http, IN_TRIAGE, "r-2")
    assert retriever.ids == [("r-1", looked_up.headers["x-pointsman-decision-id"])]
    assert server.ids == [("r-2", loaded.headers["x-pointsman-decision-id"])]


async def test_log_lines_about_an_engines_answer_have_the_id_of_their_own_request(
    log: io.StringIO, gateway: Gateway, engine: ScriptedEngine
) -> None:
    """Requests share the connections to engines; the second one uses the first one's connection."""
    names = ["r-1", "r-2", "r-3"]
    async with open_http_client(gateway) as http:
        for name in names:
            goes_on = asyncio.Event()
            engine.says(*beginning("Hello"), goes_on, chunk("", finish="stop"), usage(10**6, 1), DONE)
            body = {"model": "tiny", "messages": [{"role": "user", "content": IN_CHAT}], "stream": True}
            async with http.stream("POST", CHAT, json=body, headers={"x-request-id": name}) as answer:
                async for line in answer.aiter_lines():
                    if "Hello" in line:
                        goes_on.set()
    assert len(engine.connections) == 1
    capped = [line for line in _lines(log) if "usage capped" in line["message"]]
    assert [line["request_id"] for line in capped] == names
    assert len({line["decision_id"] for line in capped}) == len(names)


async def _ask(http: httpx.AsyncClient, text: str, name: str) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answer = await http.post(CHAT, json=body, headers={"x-request-id": name})
    assert answer.status_code == 200
    return answer


def _lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]
