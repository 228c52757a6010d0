"""A gateway in front of two engines whose endpoint picker chooses, while adapter versions move under load."""

import asyncio
import json
import operator
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.endpoint_picker import PickerDouble, connections_to, serving
from tests.gateway.doubles.engine_pair import EnginePair, alias, run_engine_pair
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.waiting import until

SWAPS = 20
KILLED_AT = 12
"""The swap before which the picker is killed."""
WORKERS = 8
NAMES = ("local", "second")
NOWHERE = "127.0.0.1:9"
"""The address of no engine."""
PICKS = "pointsman_endpoint_picks_total"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


def version(number: int) -> str:
    return f"triage@{number:012x}"


@dataclass
class Fleet:
    """The gateway, two engines, and their picker. Engine `local` holds even versions, `second` odd ones."""

    pair: EnginePair
    picker: PickerDouble
    url: str
    server: Any
    http: httpx.AsyncClient
    answers: list[tuple[int, str]] = field(default_factory=list)
    """Status and text of each answer of `work`."""
    rounds: dict[int, int] = field(default_factory=dict)
    """The number of requests that each worker has completed."""

    def metric(self, **labels: str) -> float:
        return self.pair.gateway.metric(PICKS, **labels)

    def address(self, name: str) -> str:
        return self.pair.sides[name].engine.url.removeprefix("http://")

    async def ask(self, model: str = "path:triage_adapter") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": IN_CHAT}]}
        return await self.http.post("/v1/chat/completions", json=body)

    async def work(self, worker: int) -> None:
        """Asks for the adapter, one request after the other, until cancelled."""
        while True:
            answer = await self.ask()
            body = answer.json()
            text = body["choices"][0]["message"]["content"] if answer.status_code == 200 else body["error"]["code"]
            self.answers.append((answer.status_code, text))
            self.rounds[worker] = self.rounds.get(worker, 0) + 1

    async def all_have_asked(self, times: int = 2) -> None:
        """Waits until every worker has completed `times` more requests, so that none is older than this call."""
        before = dict(self.rounds)
        await until(lambda: all(self.rounds.get(n, 0) >= before.get(n, 0) + times for n in range(WORKERS)))

    async def swap(self, number: int) -> None:
        """Moves the alias to a new version, which only the other engine holds."""
        new, old = self.pair.sides[NAMES[number % 2]], self.pair.sides[NAMES[(number + 1) % 2]]
        now = alias(version(number), number + 1)
        assert new.engine.adapters is not None
        # As a lora-server drains: the version before the last one is unloaded, which no request uses any more.
        new.engine.adapters.discard(version(number - 4))
        new.engine.adapters.add(version(number))
        await new.say(now, [version(number)])
        await until(lambda: self.pair.version == version(number))
        await old.say(now, [])
        await until(lambda: not self.pair.holds(NAMES[(number + 1) % 2]))


@asynccontextmanager
async def running_fleet(neighbours: Neighbours, picker: PickerDouble, **settings: Any) -> AsyncIterator[Fleet]:
    async with serving(picker) as (url, server):
        config = {"endpoint_picker": {"url": url, **settings}}
        held = {NAMES[0]: [version(0)]}
        async with (
            run_engine_pair(neighbours, held, reported=alias(version(0), 1), settings=config) as pair,
            open_http_client(pair.gateway) as http,
        ):
            for name in NAMES:
                pair.sides[name].engine.adapters = set(held.get(name, ()))
            fleet = Fleet(pair, picker, url, server, http)
            picker.pool[:] = [fleet.address(name) for name in NAMES]
            yield fleet


@asynccontextmanager
async def load_on(fleet: Fleet) -> AsyncIterator[None]:
    workers = [asyncio.create_task(fleet.work(number)) for number in range(WORKERS)]
    try:
        yield
        for worker in workers:
            assert not worker.done() or worker.result()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)


def often_wrong() -> Any:
    """Returns the choice of a picker that names, in turn, only engines of the hint, an engine outside of it first, and
    nobody but others.
    """
    turns = 0

    def choose(pool: Sequence[str], subset: Sequence[str]) -> Sequence[str]:
        nonlocal turns
        turns += 1
        right, wrong = [a for a in pool if a in subset], [*(a for a in pool if a not in subset), NOWHERE]
        return [right, [*wrong, *right], wrong][turns % 3]

    return choose


async def test_no_engine_gets_a_version_that_it_does_not_hold_during_20_swaps_under_load(
    neighbours: Neighbours,
) -> None:
    picker = PickerDouble([])
    picker.chooses = often_wrong()
    async with running_fleet(neighbours, picker) as fleet, load_on(fleet):
        await fleet.all_have_asked()
        for number in range(1, SWAPS + 1):
            if number == KILLED_AT:
                await fleet.server.stop(None)
            await fleet.swap(number)
            await fleet.all_have_asked()
    known = {version(number) for number in range(SWAPS + 1)}
    assert {status for status, _ in fleet.answers} == {200}
    assert {text for _, text in fleet.answers} == {f"{name}." for name in known}
    for side, name in enumerate(NAMES):
        assert set(fleet.pair.sides[name].asked) == {version(n) for n in range(side, SWAPS + 1, 2)}
    for asked in picker.asked:
        holder = NAMES[int(asked.body["model"].partition("@")[2], 16) % 2]
        assert asked.subset == [fleet.address(holder)]
        assert asked.served in ("", fleet.address(holder))
    picked, failed = fleet.metric(result="picked"), fleet.metric(result="failed")
    assert picked > len(picker.asked) / 2
    assert failed > len(picker.asked) / 4
    assert fleet.metric(result="no_endpoint") == fleet.metric(result="shed") == 0


async def test_requests_get_503_after_the_picker_was_killed_under_load_if_it_must_choose(
    neighbours: Neighbours,
) -> None:
    async with running_fleet(neighbours, PickerDouble([]), failure_mode="close") as fleet:
        async with load_on(fleet):
            await fleet.all_have_asked()
            await fleet.server.stop(None)
            await fleet.all_have_asked()
        refused = await fleet.ask()
    assert set(fleet.answers) == {(200, f"{version(0)}."), (503, "picker_unavailable")}
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"].startswith(f"the endpoint picker {fleet.url} ")


async def test_the_picker_chooses_among_all_engines_that_hold_the_model(neighbours: Neighbours) -> None:
    picker = PickerDouble([])
    async with running_fleet(neighbours, picker) as fleet:
        for name in NAMES * 3:
            asked = len(fleet.pair.sides[name].asked)
            picker.pool.sort(key=partial(operator.ne, fleet.address(name)))  # its address comes first
            await fleet.ask("path:small_talk")
            assert len(fleet.pair.sides[name].asked) == asked + 1
            assert sorted(picker.asked[-1].subset) == sorted(picker.pool)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": IN_CHAT}], "tools": [TOOL], "seed": 7}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "?"}]}]}),
        ("/v1/completions", {"prompt": IN_CHAT, "max_tokens": 5}),
        ("/v1/responses", {"input": IN_CHAT}),
        ("/v1/messages", {"messages": [{"role": "user", "content": IN_CHAT}], "max_tokens": 5}),
    ],
    ids=["tools", "picture", "completions", "responses", "messages"],
)
async def test_the_picker_gets_the_request_that_the_engine_gets(
    neighbours: Neighbours, path: str, body: dict[str, Any]
) -> None:
    picker = PickerDouble([])
    neighbours.config.models["models"]["tiny"]["input"] = ["text", "image"]
    async with running_fleet(neighbours, picker) as fleet:
        answer = await fleet.http.post(path, json={"model": "tiny", **body})
        engine = fleet.pair.sides[NAMES[0]].engine
        assert answer.status_code == 200, answer.text
        assert json.dumps(picker.asked[0].body) == json.dumps(engine.bodies[-1])
        assert picker.asked[0].headers[":path"] == engine.paths[-1]


async def test_no_picker_is_asked_for_embeddings_reranking_and_decisions(neighbours: Neighbours) -> None:
    own = {"url": neighbours.engine.url, "usd_per_million_tokens": 0.5}
    neighbours.config.models |= {"embeddings": {"small": own}, "rerankers": {"best": own}}
    picker = PickerDouble([])
    async with running_fleet(neighbours, picker) as fleet:
        for path, body in {
            "/v1/embeddings": {"model": "small", "input": IN_CHAT},
            "/v1/rerank": {"model": "best", "query": IN_CHAT, "documents": ["a", "b"]},
            "/v1/route": {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]},
        }.items():
            assert (await fleet.http.post(path, json=body)).status_code == 200, path
        assert picker.asked == []


async def test_a_reload_closes_the_connection_to_a_picker_that_is_no_longer_configured(neighbours: Neighbours) -> None:
    neighbours.settings["reload_seconds"] = 0.05
    async with running_fleet(neighbours, PickerDouble([])) as fleet:
        for _ in range(3):
            await fleet.ask()
            await until(lambda: fleet.picker.streams == 0)
        assert (connections_to(fleet.url), len(fleet.picker.peers)) == (1, 1)
        for name in NAMES:
            del neighbours.config.models["engines"][name]["endpoint_picker"]
        neighbours.config.write()
        await until(lambda: connections_to(fleet.url) == 0)
        assert (await fleet.ask()).status_code == 200


async def test_a_gateway_that_stops_closes_its_connections_to_pickers(neighbours: Neighbours) -> None:
    picker = PickerDouble([])
    async with serving(picker) as (url, _):
        config = {"endpoint_picker": {"url": url}}
        async with (
            run_engine_pair(
                neighbours, {NAMES[0]: [version(0)]}, reported=alias(version(0), 1), settings=config
            ) as pair,
            open_http_client(pair.gateway) as http,
        ):
            picker.pool.append(neighbours.engine.url.removeprefix("http://"))
            await Fleet(pair, picker, url, None, http).ask()
            assert connections_to(url) == 1
        await until(lambda: connections_to(url) == 0)
        assert picker.streams == 0
