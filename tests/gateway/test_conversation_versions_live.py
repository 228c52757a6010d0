"""Conversations through the real HTTP gateway while an alias moves. They finish on their version; they leave it if it
was rolled back, if its canary was ended, or if no engine holds it."""

from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from pointsman.v1 import lora_server_pb2 as pb

from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import answer
from tests.gateway.doubles.engine_pair import NEW, OLD, PROD
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.waiting import until

BOTH = (OLD, NEW)
IN_CANARY = 1.0
"""The canary's share of the users."""


class Conversation:
    """A conversation over HTTP in the adapter's task."""

    def __init__(self, http: httpx.AsyncClient, first: str) -> None:
        self._http, self._first = http, first
        self._messages: list[dict[str, Any]] = []

    async def goes_on(self) -> str:
        """Sends the next message; returns the version that has answered."""
        self._messages.append({"role": "user", "content": self._first if not self._messages else "And then?"})
        response = await self._http.post("/v1/chat/completions", json=self._body)
        said = response.raise_for_status().json()
        self._messages.append(said["choices"][0]["message"])
        assert said["model"] == said["choices"][0]["message"]["content"]
        return str(response.headers["x-pointsman-adapter"])

    async def notes(self) -> list[str]:
        """Returns the notes of the decision on a further message, which is not sent."""
        messages = [*self._messages, {"role": "user", "content": "And then?"}]
        response = await self._http.post("/v1/route", json={**self._body, "messages": messages})
        return [note for note in response.raise_for_status().json()["notes"] if note.startswith(PROD)]

    @property
    def _body(self) -> dict[str, Any]:
        return {"model": "auto", "messages": self._messages, "metadata": {"source": "inbox"}}


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.engine.script = lambda body: answer(body["model"])
    return neighbours


async def move(gateway: Gateway, neighbours: Neighbours, alias: dict[str, Any], resident: Sequence[str] = BOTH) -> None:
    """Publishes a state of the alias and of the engine, and waits until the gateway has received it."""
    told = pb.Alias(alias=PROD, **alias)
    await neighbours.lora_server.say(READY, url=neighbours.engine.url, resident=resident, aliases={PROD: told})
    engines = gateway.components.engines
    path = gateway.components.reloader.current.paths[0]
    await until(lambda: engines.get("local").resident == set(resident))
    await until(lambda: (found := engines.alias_of(path)) is not None and found.revision == told.revision)


async def test_a_conversation_finishes_on_its_version_after_a_promotion(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    await move(gateway, neighbours, {"version": OLD, "revision": 1})
    begun = Conversation(http, IN_TRIAGE)
    assert await begun.goes_on() == OLD
    await move(gateway, neighbours, {"version": NEW, "revision": 2, "previous": OLD})
    assert await begun.notes() == [f"{PROD}: the conversation stays on {OLD}, with which it began"]
    assert await begun.goes_on() == OLD
    assert await Conversation(http, f"{IN_TRIAGE} today").goes_on() == NEW
    await move(gateway, neighbours, {"version": NEW, "revision": 3, "previous": OLD}, resident=[NEW])
    assert await begun.notes() == [f"{PROD}: the conversation leaves {OLD}, which is on no engine now"]
    assert await begun.goes_on() == NEW


async def test_a_conversation_leaves_a_version_that_was_rolled_back(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    await move(gateway, neighbours, {"version": NEW, "revision": 2, "previous": OLD})
    begun = Conversation(http, IN_TRIAGE)
    assert [await begun.goes_on() for _ in range(2)] == [NEW, NEW]
    await move(gateway, neighbours, {"version": OLD, "revision": 3, "previous": NEW})
    assert await begun.notes() == [f"{PROD}: the conversation leaves {NEW}, which was rolled back"]
    assert await begun.goes_on() == OLD


async def test_a_conversation_leaves_a_canary_that_was_ended_and_keeps_one_that_was_promoted(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    canary = {"version": OLD, "canary_version": NEW, "canary_weight": IN_CANARY}
    await move(gateway, neighbours, {**canary, "revision": 2})
    begun, other = Conversation(http, IN_TRIAGE), Conversation(http, f"{IN_TRIAGE} today")
    assert [await one.goes_on() for one in (begun, other)] == [NEW, NEW]
    await move(gateway, neighbours, {"version": NEW, "revision": 3, "previous": OLD})
    assert await other.goes_on() == NEW
    await move(gateway, neighbours, {"version": OLD, "revision": 4, "previous": NEW})
    assert await begun.goes_on() == OLD


async def test_a_task_may_let_its_conversations_follow_the_alias(neighbours: Neighbours) -> None:
    neighbours.config.tasks["triage"]["pin_versions"] = False
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        await move(gateway, neighbours, {"version": OLD, "revision": 1})
        begun = Conversation(http, IN_TRIAGE)
        assert await begun.goes_on() == OLD
        await move(gateway, neighbours, {"version": NEW, "revision": 2, "previous": OLD})
        assert await begun.goes_on() == NEW
