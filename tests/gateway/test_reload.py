"""The configuration is reloaded while requests are in progress."""

import asyncio
import gc
import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from pointsman_gateway.prompts.templates import PromptEnvironment
from pydantic._internal._model_construction import ModelMetaclass

from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY
from tests.gateway.doubles.engine import ScriptedEngine, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until

SOON = 0.05


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.settings["reload_seconds"] = SOON
    return neighbours


async def path_of(http: httpx.AsyncClient, text: str) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answered = await http.post("/v1/chat/completions", json=body)
    assert answered.status_code == 200, answered.text
    return answered.headers["x-pointsman-path"]


async def status(http: httpx.AsyncClient) -> Mapping[str, Any]:
    body: Mapping[str, Any] = (await http.get("/v1/configuration")).json()
    return body


async def swapped(gateway: Gateway, before: str) -> None:
    await until(lambda: gateway.components.reloader.current.revision != before, within=60)  # fits a classifier


async def test_an_edit_is_applied_without_losing_requests(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    before = gateway.components.reloader.current.revision
    paths: list[str] = []

    async def ask_on() -> None:
        while paths[-8:] != ["handbook"] * 8:
            paths.append(await path_of(http, IN_CHAT))

    asking = [asyncio.create_task(ask_on()) for _ in range(4)]
    await until(lambda: len(paths) > 20)
    neighbours.config.tasks["chat"]["policy"] = {"fixed": "handbook"}
    neighbours.config.write()
    await asyncio.gather(*asking)  # raises if any request failed

    assert paths[0] == "small_talk"
    serving = await status(http)
    assert (serving["revision"] != before, serving["problem"]) == (True, "")
    assert gateway.metric("pointsman_config_reloads_total", outcome="swapped") == 1
    assert gateway.metric("pointsman_config_revision", revision=serving["revision"]) == 1
    assert gateway.metric("pointsman_config_revision", revision=before) == 0


async def test_earlier_configurations_are_freed(gateway: Gateway, neighbours: Neighbours) -> None:
    def count() -> Counter[str]:
        """Returns the numbers of objects that a configuration creates. Models of libraries are not counted, because
        they may be imported at any time.
        """
        objects = gc.get_objects()
        models = [one for one in objects if isinstance(one, ModelMetaclass) and one.__name__ == "Entry"]
        return Counter(environments=sum(isinstance(one, PromptEnvironment) for one in objects), models=len(models))

    counts = []
    gc.disable()  # a gateway collects so rarely
    try:
        for number in range(5):
            revision = gateway.components.reloader.current.revision
            neighbours.config.paths["small_talk"]["max_tokens"] = 100 + number
            neighbours.config.write()
            await swapped(gateway, revision)
            counts.append(count())
    finally:
        gc.enable()
    assert counts[1:] == counts[:1] * 4


async def test_a_request_uses_one_configuration_throughout(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    go_on = asyncio.Event()
    engine.says(*beginning("Hel"), go_on, chunk("lo", finish="stop"), usage(20, 2), b"data: [DONE]\n\n")
    before = gateway.components.reloader.current.revision
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
    await until(lambda: engine.running == 1)

    del neighbours.config.tasks["chat"]
    neighbours.config.tasks["small_talk"] = {"examples": "tasks/chat.jsonl", "policy": {"fixed": "handbook"}}
    del neighbours.config.paths["small_talk"]
    neighbours.config.models["models"]["tiny"]["usd_per_million_tokens"] = {
        "prompt": 1000,
        "cached": 1000,
        "completion": 1000,
    }
    neighbours.config.write()
    await swapped(gateway, before)
    go_on.set()

    answered = await asking
    assert answered.status_code == 200
    assert answered.json()["choices"][0]["message"]["content"] == "Hello"
    assert answered.headers["x-pointsman-path"] == "small_talk"
    assert float(answered.headers["x-pointsman-cost-usd"]) == pytest.approx((20 * 1.0 + 2 * 4.0) / 1e6)
    assert gateway.metric("pointsman_in_flight") == 0


async def test_an_invalid_edit_is_rejected_with_a_reason_and_the_last_valid_one_kept(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    before = gateway.components.reloader.current.revision
    neighbours.config.tasks["chat"]["policy"] = {"fixed": "no_such_path"}
    neighbours.config.write()
    await until(lambda: gateway.components.reloader.status.problem)

    result = await status(http)
    assert result["revision"] == before
    assert "task 'chat' names path 'no_such_path'; known: " in result["problem"]
    assert gateway.metric("pointsman_config_reloads_total", outcome="refused") == 1
    assert await path_of(http, IN_CHAT) == "small_talk"

    neighbours.config.tasks["chat"]["policy"] = {"fixed": "small_talk"}
    neighbours.config.write()
    await until(lambda: not gateway.components.reloader.status.problem)
    assert gateway.components.reloader.current.revision == before


async def test_a_prompt_that_does_not_render_is_rejected(gateway: Gateway, neighbours: Neighbours) -> None:
    neighbours.config.prompts["persona.txt"] = "{{ nobody }}"
    neighbours.config.write()
    await until(lambda: "persona.txt" in gateway.components.reloader.status.problem)


async def test_a_removed_folder_does_not_stop_the_gateway(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    shutil.rmtree(neighbours.config.folder)
    await until(lambda: "there is no configuration folder" in gateway.components.reloader.status.problem)
    assert await path_of(http, IN_CHAT) == "small_talk"


async def test_an_edit_is_found_even_if_a_folder_disappears_during_the_scan(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    """Kubernetes replaces a mounted ConfigMap in this way."""
    folder, before, stop = neighbours.config.folder, gateway.components.reloader.current.revision, threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for number in range(50):
                (folder / f"..{number}" / "within").mkdir(parents=True)
            for number in range(50):
                shutil.rmtree(folder / f"..{number}")

    async with asyncio.timeout(60), asyncio.TaskGroup() as both:
        both.create_task(asyncio.to_thread(come_and_go))
        await asyncio.sleep(20 * SOON)
        stop.set()
    neighbours.config.tasks["chat"]["policy"] = {"fixed": "handbook"}
    neighbours.config.write()
    await swapped(gateway, before)
    assert await path_of(http, IN_CHAT) == "handbook"


async def test_new_examples_take_effect_with_their_configuration(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    assert await path_of(http, IN_NONE) == "safe_start"
    before = gateway.components.reloader.current.revision
    neighbours.config.examples["sql"] = [
        ("SELECT name FROM customer WHERE id = 7", None),
        ("SELECT invoice.total FROM invoice INNER JOIN customer USING (customer_id)", None),
        ("UPDATE booking SET state = 'paid' WHERE id = 3", None),
        ("DELETE FROM ticket WHERE expired", None),
        ("SELECT count(*) FROM trains GROUP BY line", None),
        ("INSERT INTO seat (coach, number) VALUES (4, 12)", None),
    ]
    neighbours.config.tasks["sql"] = {"examples": "tasks/sql.jsonl", "policy": {"fixed": "small_talk"}}
    neighbours.config.write()
    await swapped(gateway, before)
    assert await path_of(http, IN_NONE) == "small_talk"
    assert await path_of(http, IN_POLICY) == "handbook"


async def test_the_state_of_a_renamed_engine_is_known_before_it_is_used(
    gateway: Gateway, neighbours: Neighbours, http: httpx.AsyncClient, second_engine: ScriptedEngine
) -> None:
    before = gateway.components.reloader.current.revision
    second_engine.says(*answer("from the second"))
    neighbours.config.models["engines"] = {"cloud": {"model": "tiny", "url": second_engine.url}}
    for name in ("triage_adapter", "letter"):
        neighbours.config.paths[name].pop("adapter")
    neighbours.config.write()
    await swapped(gateway, before)
    assert [engine.name for engine in gateway.components.engines.all()] == ["cloud"]
    assert await path_of(http, IN_CHAT) == "small_talk"
    assert second_engine.bodies


async def test_a_lora_server_in_both_configurations_keeps_its_stream(gateway: Gateway, neighbours: Neighbours) -> None:
    watchers, before = neighbours.lora_server.watchers, gateway.components.reloader.current.revision
    resident = gateway.components.engines.get("local").resident
    neighbours.config.prompts["persona.txt"] = "You are Finch."
    neighbours.config.write()
    await swapped(gateway, before)
    assert gateway.components.engines.get("local").resident == resident
    assert neighbours.lora_server.watchers == watchers
