"""The console's API: its reports on paths, tasks, decisions and adapters, and its changes of adapters."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_gateway.console import stage
from pointsman_gateway.extensions import Plan, Policy, PolicyContext, Requirements
from pointsman_servicekit.errors import FailedPrecondition, Unavailable

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import ScriptedLoraServer
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

OTHER = "triage@0123456789ab"
OURS = {"x-pointsman-console": "1"}
BEST_VALUE = {
    "paths": ["triage_adapter", "triage_few_shot"], "quality_floor": 0.7, "min_samples": 2,
    "exploration_rate": 0,  # otherwise one request in twenty would go elsewhere
}  # fmt: skip


class Last(Policy):
    """A user's policy, which takes the last path."""

    Options = tuple[str, ...]

    @classmethod
    def summary(cls, options: tuple[str, ...]) -> str:
        return f"the last of {len(options)}"

    @classmethod
    def requirements(cls, options: tuple[str, ...]) -> Requirements:
        return Requirements(quality_floor=0.4, confidence=0.99)

    def __init__(self, options: tuple[str, ...]) -> None:
        self._options = options

    @property
    def paths(self) -> tuple[str, ...]:
        return self._options

    def plan(self, context: PolicyContext) -> Plan:
        return Plan(self._options[-1:], "policy:last", escalates=True)


@pytest.fixture
async def kept(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Runs a gateway with a request log that stores texts, and a `best_value` policy."""
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.config.rest_of_tasks["request_log"] = {"store_messages": True, "store_answers": True}
    neighbours.config.tasks["triage"]["policy"] = {"best_value": BEST_VALUE}
    await neighbours.ready()
    for version in (TRIAGE, OTHER, VOICE):
        name = version.partition("@")[0]
        neighbours.lora_server.versions[version] = pb.AdapterVersion(version=version, name=name, rank=16, bytes=2**20)
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def console(kept: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(kept) as client:
        client.headers.update(OURS)
        yield client


async def ask(client: httpx.AsyncClient, text: str, model: str = "auto") -> str:
    """Sends a request and returns the decision's id."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return str((await client.post("/v1/chat/completions", json=body)).headers.get("x-pointsman-decision-id", ""))


async def overview(client: httpx.AsyncClient, requests: int = 0) -> dict[str, Any]:
    """Waits until the overview includes this many requests, and returns it."""

    async def look() -> dict[str, Any] | None:
        response = await client.get("/console/api/overview")
        assert response.status_code == 200, response.text
        seen: dict[str, Any] = response.json()["overview"]
        return seen if seen["window"]["requests"] >= requests else None

    return await found(look)


def by(what: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row[what]: row for row in rows}


async def test_a_path_is_listed_with_share_latencies_and_price(
    console: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for _ in range(3):
        await ask(console, IN_CHAT)
    engine.says(*answer("Hello")[:2], BREAK)
    await ask(console, IN_CHAT)
    paths = by("path", (await overview(console, 4))["paths"])
    now = paths["small_talk"]["now"]
    assert (now["requests"], now["share"], now["failures"], sum(now["bars"])) == (4, 1.0, 1, 4)
    assert 0 < now["first_token_p50_seconds"] <= now["p50_seconds"] <= now["p95_seconds"]
    assert now["usd_per_1k"] > 0
    assert (paths["small_talk"]["kind"], paths["small_talk"]["tasks"]) == ("prompt", ["chat"])
    assert (paths["triage_adapter"]["now"], paths["triage_adapter"]["version"]) == (None, TRIAGE)


async def test_ratings_make_quality_with_a_lower_bound(console: httpx.AsyncClient) -> None:
    for _ in range(2):
        rated = {"decision_id": await ask(console, IN_TRIAGE), "rating": 1}
        assert (await console.post("/v1/feedback", json=rated)).status_code == 200

    async def is_rated() -> dict[str, Any] | None:
        task = by("task", (await overview(console))["tasks"])["triage"]
        quality = by("path", task["paths"])["triage_adapter"]["quality"]
        return task if quality and quality["ratings"] > 1 else None  # each rating counts once Redis has confirmed it

    task = await found(is_rated)
    assert (task["policy"], task["quality_floor"], task["requests"]) == ("best_value", 0.7, 2)
    assert (task["summary"], task["escalates"]) == ("floor 0.70", False)
    known = by("path", task["paths"])
    adapter = known["triage_adapter"]
    assert (adapter["quality"]["ratings"], adapter["quality"]["mean"], adapter["role"]) == (2, 1.0, "policy")
    assert 0 < adapter["quality"]["bound"] < adapter["quality"]["bound_now"] < 0.7  # two ratings give wide intervals
    assert "not known to reach the floor 0.70" in adapter["explanation"]
    assert (known["triage_few_shot"]["quality"], known["triage_few_shot"]["estimated"]) == (None, True)
    assert known["safe_start"]["role"] == "default"
    assert (task["choice"], task["reason"]) == ("triage_adapter", "policy:none_good_enough")
    shown = by("path", (await overview(console))["paths"])["triage_adapter"]
    assert shown["quality"]["ratings"] == 2


async def test_a_policy_says_itself_what_is_shown_of_it(neighbours: Neighbours) -> None:
    name = f"{Last.__module__}:{Last.__qualname__}"
    neighbours.config.tasks["triage"]["policy"] = {name: ["triage_few_shot", "triage_adapter"]}
    neighbours.config.tasks["chat"]["policy"] = {"split": {"small_talk": 2, "safe_start": 1}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers.update(OURS)
        tasks = by("task", (await overview(client))["tasks"])
    shown = {key: tasks["triage"][key] for key in ("policy", "summary", "quality_floor", "confidence", "escalates")}
    assert shown == {
        "policy": name, "summary": "the last of 2", "quality_floor": 0.4, "confidence": 0.99, "escalates": True,
    }  # fmt: skip
    assert (tasks["chat"]["summary"], tasks["chat"]["quality_floor"]) == (
        "small_talk 66.67 %, safe_start 33.33 %",
        None,
    )


async def test_reading_changes_nothing(console: httpx.AsyncClient, kept: Gateway) -> None:
    router = kept.components.reloader.current.stages.router
    before = router.previews()
    for _ in range(3):
        await overview(console)
    assert router.previews() == before
    assert kept.metric("pointsman_decisions_total") == 0


async def test_an_unavailable_path_has_a_reason_and_another_is_the_choice(
    console: httpx.AsyncClient, neighbours: Neighbours, kept: Gateway
) -> None:
    await neighbours.lora_server.say(pb.ENGINE_STATUS_READY, url=neighbours.engine.url, resident=[VOICE])
    await found(lambda: _away(console))
    task = by("task", (await overview(console))["tasks"])["triage"]
    assert task["choice"] == "triage_few_shot"


async def _away(console: httpx.AsyncClient) -> bool:
    path = by("path", (await overview(console))["paths"])["triage_adapter"]
    return "is not resident" in path["unavailable"]


async def test_decisions_are_listed_newest_first_in_pages_and_one_in_full(console: httpx.AsyncClient) -> None:
    names = [await ask(console, f"{IN_CHAT} {number}") for number in range(5)]
    await overview(console, 5)
    first = (await console.get("/console/api/decisions", params={"count": 3})).json()
    rest = (await console.get("/console/api/decisions", params={"count": 3, "before": first["next"]})).json()
    assert [row["id"] for row in first["decisions"] + rest["decisions"]] == names[::-1]
    assert rest["next"] == ""
    row = first["decisions"][0]
    assert (row["text"], row["outcome"], row["path"]) == (f"{IN_CHAT} 4", "ok", "small_talk")
    await console.post("/v1/feedback", json={"decision_id": names[0], "rating": 0.25, "correction": "too long"})
    whole = (await console.get(f"/console/api/decisions/{names[0]}")).json()
    assert whole["feedback"] == {"rating": "0.25", "correction": "too long"}
    assert whole["entry"]["considered"][0]["path"] == "small_talk"
    gone = await console.get("/console/api/decisions/dec_1")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "unknown_decision")


async def test_a_text_that_is_not_stored_is_not_shown(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers.update(OURS)
        name = await ask(client, IN_CHAT)
        await overview(client, 1)
        assert IN_CHAT not in (await client.get("/console/api/decisions")).text
        assert IN_CHAT not in (await client.get(f"/console/api/decisions/{name}")).text


async def test_a_missing_request_log_is_reported_and_the_rest_is_shown(http: httpx.AsyncClient) -> None:
    http.headers.update(OURS)
    shown = await overview(http)
    assert (shown["request_log"], len(shown["paths"]), len(shown["tasks"])) == ("none", 6, 3)
    refused = await http.get("/console/api/decisions")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_request_log")


async def test_an_unavailable_redis_is_reported_and_the_rest_is_shown(
    console: httpx.AsyncClient, valkey: Valkey
) -> None:
    valkey.kill()
    assert (await overview(console))["request_log"] == "unavailable"
    assert (await console.get("/console/api/decisions")).status_code == 503


# -- adapters


async def adapters(client: httpx.AsyncClient) -> dict[str, Any]:
    (model,) = (await client.get("/console/api/adapters")).json()["models"]
    adapters_of_model: dict[str, Any] = model
    return adapters_of_model


async def test_adapters_are_listed_with_states_and_aliases(console: httpx.AsyncClient) -> None:
    model = await adapters(console)
    assert model["model"] == "tiny"
    states = {version["version"]: version["state"] for version in model["versions"]}
    assert states == {TRIAGE: "serving", OTHER: "ready", VOICE: "serving"} == model["engines"][0]["states"]
    assert by("alias", model["aliases"])["triage@prod"]["version"] == TRIAGE


async def test_an_alias_is_promoted_given_a_canary_and_rolled_back(
    console: httpx.AsyncClient, kept: Gateway, lora_server: ScriptedLoraServer
) -> None:
    named = {"model": "tiny", "alias": "triage@prod"}
    canary = {**named, "version": OTHER, "weight": 0.25, "expected_version": TRIAGE}
    tried = (await console.post("/console/api/adapters/canary", json=canary)).json()
    assert (tried["canary_version"], tried["canary_weight"]) == (OTHER, 0.25)
    moved = await console.post("/console/api/adapters/alias", json={**named, "version": OTHER})
    assert moved.json() | {"revision": 0} == {
        "alias": "triage@prod", "version": OTHER, "revision": 0, "canary_version": "", "canary_weight": 0.0,
        "previous": TRIAGE,
    }  # fmt: skip

    async def serves() -> bool:
        return bool(by("path", (await overview(console))["paths"])["triage_adapter"]["version"] == OTHER)

    await found(serves)
    back = await console.post("/console/api/adapters/rollback", json={**named, "reason": "worse on refunds"})
    assert back.json()["version"] == TRIAGE
    changes = (await adapters(console))["changes"]
    assert [change["kind"] for change in changes] == ["rollback", "alias", "canary"]
    assert (changes[0]["author"], changes[0]["reason"], changes[0]["before"]) == ("console", "worse on refunds", OTHER)


async def test_a_conflicting_change_is_rejected_with_the_lora_servers_message(
    console: httpx.AsyncClient, lora_server: ScriptedLoraServer
) -> None:
    body = {"model": "tiny", "alias": "triage@prod", "version": OTHER, "expected_version": OTHER}
    late = await console.post("/console/api/adapters/alias", json=body)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "alias_moved")
    lora_server.refuses = FailedPrecondition("it is no better than prompting", code="not_better")
    worse = await console.post("/console/api/adapters/alias", json={**body, "expected_version": ""})
    assert worse.json()["error"] | {"type": ""} == {
        "message": "it is no better than prompting", "type": "", "param": None, "code": "not_better"
    }  # fmt: skip
    assert lora_server.changes == []


@pytest.mark.parametrize(
    ("step", "body", "status", "code"),
    [
        ("alias", {"model": "huge", "alias": "triage@prod", "version": OTHER}, 404, "unknown_model"),
        ("alias", {"model": "tiny", "alias": "never@prod", "version": OTHER}, 404, "unknown_alias"),
        ("alias", {"model": "tiny", "alias": "triage@prod"}, 400, "bad_parameter"),
        ("canary", {"model": "tiny", "alias": "triage@prod", "version": OTHER, "weight": 2}, 400, "bad_parameter"),
        ("rollback", {"model": "tiny", "alias": "triage@prod"}, 409, "nothing_to_roll_back"),
        ("rollback", {"model": "tiny", "alias": "triage@prod", "why": "?"}, 400, "bad_parameter"),
    ],
)
async def test_an_impossible_change_is_rejected_by_name(
    console: httpx.AsyncClient, step: str, body: dict[str, Any], status: int, code: str
) -> None:
    response = await console.post(f"/console/api/adapters/{step}", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_an_unavailable_lora_server_is_reported(
    console: httpx.AsyncClient, lora_server: ScriptedLoraServer
) -> None:
    lora_server.refuses = Unavailable("Redis does not answer", code="redis_unavailable")
    (engine,) = (await adapters(console))["engines"]
    assert engine == {"engine": "local", "problem": "Redis does not answer", "states": {}}


# -- search


async def found_by(console: httpx.AsyncClient, **query: Any) -> list[str]:
    page = await console.get("/console/api/decisions", params=query)
    assert page.status_code == 200, page.text
    return [row["id"] for row in page.json()["decisions"]]


async def test_decisions_are_found_by_their_stored_texts_task_path_and_ending(
    console: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*answer("Good", " morning."))
    chat = await ask(console, IN_CHAT)
    engine.says(*answer('{"intent": "lost_item"}'))
    triage = await ask(console, f"{IN_TRIAGE} My STRASSE is long")
    route = (
        await console.post("/v1/route", json={"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]})
    ).json()["id"]
    engine.refuses(500, {"error": {"message": "CUDA said no"}})
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
    await console.post("/v1/chat/completions", json=body)
    await overview(console, 3)
    failed = (await console.get("/console/api/decisions")).json()["decisions"][0]["id"]

    assert await found_by(console, text="my straße") == [triage]
    assert await found_by(console, text="good MORNING") == [chat]
    assert await found_by(console, text=chat[-12:]) == [chat]
    assert await found_by(console, text=TRIAGE) == [triage]
    assert await found_by(console, task="chat", text=IN_CHAT) == [route, chat]
    assert await found_by(console, path="triage_adapter") == [triage]
    assert await found_by(console, ending="failed") == [failed]
    assert await found_by(console, ending="routed") == [route]
    assert await found_by(console, ending="ok") == [triage, chat]
    assert await found_by(console, text="nobody wrote this") == []
    assert (await console.get("/console/api/decisions", params={"ending": "x"})).status_code == 400


async def test_a_search_says_how_far_it_has_looked_and_goes_on_from_there(
    console: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MAX_SCANNED", 2)
    monkeypatch.setattr(stage, "PAGE_SIZE", 2)
    oldest = await ask(console, f"{IN_CHAT} needle")
    for _ in range(4):
        await ask(console, IN_CHAT)
    await overview(console, 5)
    before, pages = "", list[dict[str, Any]]()
    while not pages or pages[-1]["next"]:
        query = {"text": "needle", "before": before}
        pages.append((await console.get("/console/api/decisions", params=query)).json())
        before = pages[-1]["next"]
    assert [[row["id"] for row in page["decisions"]] for page in pages] == [[], [], [oldest]]
    times = [page["since_unix_ms"] for page in pages]
    assert times[0] >= times[1] > times[2] == 0


async def test_an_answer_is_stored_only_if_configured(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers.update(OURS)
        name = await ask(client, IN_CHAT)
        await overview(client, 1)
        assert (await client.get(f"/console/api/decisions/{name}")).json()["entry"]["answer"] is None


async def test_a_stored_answer_is_shown_whole(console: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("Good", " morning."))
    name = await ask(console, IN_CHAT)
    await overview(console, 1)
    entry = (await console.get(f"/console/api/decisions/{name}")).json()["entry"]
    assert entry["answer"] == "Good morning."
    assert entry["messages"] == [{"role": "user", "content": IN_CHAT}]


async def test_each_task_has_an_example_from_the_configuration(console: httpx.AsyncClient) -> None:
    tasks = (await overview(console))["tasks"]
    assert {task["task"] for task in tasks if task["example"]} == {"triage", "policy", "chat"}
