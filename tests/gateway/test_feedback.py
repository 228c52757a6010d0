"""Feedback is stored exactly once, over HTTP and gRPC."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_servicekit.errors import InvalidArgument, NotFound
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.api_clients import ApiClient, GrpcStreamClient, HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.request_logs import decisions_in, feedback_in, rated_in
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    return neighbours


async def test_feedback_is_stored_with_its_decision(api: ApiClient, valkey: Valkey, gateway: Gateway) -> None:
    answer = await api.ask(IN_TRIAGE)
    feedback = {
        "rating": 0.8,
        "correction": "It was a refund.",
        "right_task": "chat",
        "right_answer": '{"é": "\U0001f600"}',
    }
    assert await api.say(answer.decision_id, **feedback) == ("request_log", False)

    (record,) = await feedback_in(valkey.url)
    assert {name: record[name] for name in feedback} == feedback | {"rating": "0.8"}
    assert record["decision"] == answer.decision_id
    (entry,) = await decisions_in(valkey.url)
    assert '"path":"triage_adapter"' in record["entry"]
    assert entry["id"] == answer.decision_id
    assert gateway.metric("pointsman_feedback_total", stored="request_log") == 1
    await until(lambda: gateway.known("triage", "triage_adapter").ratings == 1, within=10)
    assert gateway.known("triage", "triage_adapter").quality == 0.8


async def test_repeated_feedback_counts_once(api: ApiClient, valkey: Valkey) -> None:
    answer = await api.ask(IN_CHAT)
    assert await api.say(answer.decision_id, rating=0.2) == ("request_log", False)
    assert await api.say(answer.decision_id, rating=0.2) == ("request_log", True)
    assert await api.say(answer.decision_id, id="mine", rating=0.4) == ("request_log", False)
    assert await api.say(answer.decision_id, id="mine", rating=0.4) == ("request_log", True)
    assert await api.say(answer.decision_id, rating=0.2) == (
        "request_log",
        True,
    )  # sending older feedback again changes nothing
    (record,) = await feedback_in(valkey.url)
    assert record["rating"] == "0.4"
    assert await rated_in(valkey.url) == {"small_talk": (1, 0.4)}


async def test_feedback_over_http_and_grpc_is_deduplicated(gateway: Gateway, http: httpx.AsyncClient) -> None:
    name = (await HttpClient(http).ask(IN_CHAT)).decision_id
    await HttpClient(http).say(name, rating=0.8, correction="too long")
    async with open_channel(gateway.grpc_address) as channel:
        assert await GrpcStreamClient(channel).say(name, rating=0.8, correction="too long") == ("request_log", True)


async def test_later_feedback_replaces_earlier_fields(api: ApiClient, valkey: Valkey) -> None:
    answer = await api.ask(IN_CHAT)
    await api.say(answer.decision_id, rating=0.0, right_task="policy")
    await api.say(answer.decision_id, correction="No greeting.")
    await api.say(answer.decision_id, rating=1.0)
    (record,) = await feedback_in(valkey.url)
    assert (record["rating"], record["right_task"], record["correction"]) == ("1", "policy", "No greeting.")


async def test_feedback_may_name_the_answers_id(api: ApiClient) -> None:
    answer = await api.ask(IN_CHAT)
    assert await api.say("chatcmpl-" + answer.decision_id, rating=1.0) == ("request_log", False)
    assert await api.say(answer.decision_id, rating=1.0) == ("request_log", True)


async def test_a_route_accepts_the_correct_task_but_no_rating(api: ApiClient, valkey: Valkey, gateway: Gateway) -> None:
    decided = await api.route(IN_CHAT)
    assert await api.say(decided["id"], right_task="unknown", rating=0.0) == ("request_log", False)
    (record,) = await feedback_in(valkey.url)
    assert (record["right_task"], record["evidence_key"]) == ("unknown", "")


REFUSED: list[tuple[dict[str, Any], str, str | None]] = [
    ({"decision_id": "", "rating": 1.0}, "missing_decision_id", "decision_id"),
    ({"decision_id": "d"}, "empty_feedback", None),
    ({"decision_id": "d", "id": "x"}, "empty_feedback", None),
    ({"decision_id": "d", "rating": 1.5}, "bad_parameter", "rating"),
    ({"decision_id": "d", "rating": -0.5}, "bad_parameter", "rating"),
    ({"decision_id": "d", "right_task": "chatt"}, "unknown_task", "right_task"),
    ({"decision_id": "d" * 129, "rating": 1.0}, "bad_parameter", "decision_id"),
    ({"decision_id": "d", "id": "x" * 129, "rating": 1.0}, "bad_parameter", "id"),
    ({"decision_id": "d", "correction": "é" * 2049}, "bad_parameter", "correction"),
    ({"decision_id": "d", "right_answer": "x" * 65537}, "bad_parameter", "right_answer"),
]


async def test_invalid_feedback_has_the_same_code_everywhere(api: ApiClient, valkey: Valkey) -> None:
    for feedback, code, param in REFUSED:
        with pytest.raises(InvalidArgument) as raised:
            await api.say(**feedback)
        assert (raised.value.code, raised.value.param) == (code, param), feedback
    assert await feedback_in(valkey.url) == []


async def test_not_a_number_is_rejected_as_rating(gateway: Gateway) -> None:
    async with open_channel(gateway.grpc_address) as channel:
        with pytest.raises(InvalidArgument, match="'rating' is nan; it must be from 0 "):
            await GrpcStreamClient(channel).say("d", rating=float("nan"))


async def test_an_unknown_task_is_rejected_with_the_known_ones(api: ApiClient) -> None:
    with pytest.raises(InvalidArgument, match="unknown task 'chatt'; known: triage, policy, chat, unknown"):
        await api.say("d", right_task="chatt")


async def test_an_unknown_decision_is_reported(api: ApiClient, valkey: Valkey) -> None:
    with pytest.raises(NotFound, match="the request log has no decision 'dec_0', or no longer") as raised:
        await api.say("dec_0", rating=1.0)
    assert (raised.value.code, raised.value.param) == ("unknown_decision", "decision_id")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b'{"decision_id": "d", "ratting": 1}', "bad_parameter", "ratting"),
        (b'{"decision_id": "d", "rating": "good"}', "bad_parameter", "rating"),
        (b'{"decision_id": "d", "rating": true}', "bad_parameter", "rating"),
        (b'{"decision_id": 7, "rating": 1}', "bad_parameter", "decision_id"),
        (b'{"decision_id": "d", "correction": "\\ud800"}', "bad_text", "correction"),
        (b'{"decision_id": "d", "rating": NaN}', "bad_parameter", "rating"),
        (b"[]", "bad_parameter", None),
        (b"{", "bad_json", None),
    ],
)
async def test_an_invalid_body_is_rejected(http: httpx.AsyncClient, body: bytes, code: str, param: str | None) -> None:
    answer = await http.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
