"""If too many documents have changed since its adapter was trained, a task uses a path with retrieval, and reports
that."""

from functools import partial
from typing import Any

import pytest
from pointsman_gateway.adapter_freshness import FreshnessCache, FreshnessMonitor, MonitoredPaths
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Path
from pointsman_servicekit.document_sketch import MANIFEST_KEY_PREFIX, Sketch, sketch_of
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.waiting import found, until


def documents(rewritten: int = 0) -> Sketch:
    """Returns the sketch of ten documents, of which `rewritten` have a new text."""
    return sketch_of((f"d{n}", b"new" if n < rewritten else b"old") for n in range(10))


@pytest.fixture
def topical(neighbours: Neighbours) -> Neighbours:
    """Changes the configuration so that the triage adapter was trained on the handbook."""
    neighbours.config.tasks["triage"]["stale"] = {"after_changed_share": 0.2, "path": "handbook"}
    neighbours.lora_server.facts = {MANIFEST_KEY_PREFIX + "handbook": str(documents())}
    neighbours.retriever.documents = documents()
    neighbours.settings["freshness_seconds"] = 0.02
    return neighbours


async def decided(gateway: Gateway, model: str = "auto") -> dict[str, Any]:
    async with open_http_client(gateway) as client:
        answer = await client.post(
            "/v1/route", json={"model": model, "messages": [{"role": "user", "content": IN_TRIAGE}]}
        )
        body: dict[str, Any] = answer.json()
        return body


async def decided_by(gateway: Gateway, reason: str) -> dict[str, Any] | None:
    """Asks for a decision, and returns it if it has this reason."""
    decision = await decided(gateway)
    return decision if decision["reason"] == reason else None


async def looked(neighbours: Neighbours) -> None:
    """Waits until the gateway has read the current documents."""
    before = neighbours.retriever.looks
    await until(lambda: neighbours.retriever.looks >= before + 2)


async def test_a_task_leaves_a_stale_adapter_and_returns_after_retraining(topical: Neighbours) -> None:
    await topical.ready()
    async with topical.gateway() as gateway:
        first = await decided(gateway)
        assert first["path"] == "triage_adapter"
        topical.retriever.documents = documents(rewritten=3)
        moved = await found(partial(decided_by, gateway, "stale"))
        assert moved["path"] == "handbook"
        seen = {one["path"]: (one["outcome"], one["reason"]) for one in moved["considered"]}
        assert seen["triage_adapter"] == (
            "fallback",
            f"30 % of its topic's documents have changed since {TRIAGE} was trained",
        )
        assert (await decided(gateway, "path:triage_adapter"))["path"] == "triage_adapter"
        topical.retriever.documents = documents()
        assert (await found(partial(decided_by, gateway, first["reason"])))["path"] == "triage_adapter"


async def test_up_to_the_threshold_routing_does_not_change(topical: Neighbours) -> None:
    await topical.ready()
    async with topical.gateway() as gateway:
        topical.retriever.documents = documents(rewritten=2)
        await looked(topical)
        assert (await decided(gateway))["path"] == "triage_adapter"


class _Collection:
    """A document collection, and adapter manifests that refer to it."""

    def __init__(self) -> None:
        self.now: Sketch | None = documents(rewritten=5)
        """The sketch of the present documents; None if the collection is unavailable."""

    async def sketch(self, collection: str) -> Sketch:
        if self.now is None:
            raise Unavailable("away", code="retriever_unavailable")
        return self.now

    def versions_of(self, path: Path) -> list[str]:
        return [TRIAGE]

    async def facts(self, model: str, version: str) -> dict[str, str]:
        return {MANIFEST_KEY_PREFIX + "handbook": str(documents())}


async def test_while_the_retriever_is_down_the_last_state_is_kept() -> None:
    collection, board = _Collection(), FreshnessCache()
    watch = FreshnessMonitor(board, collection)
    watch.monitored = MonitoredPaths([Path("triage_adapter", "tiny", adapter="triage@prod")], collection)
    await watch.measure()
    assert board.changed_share(TRIAGE) == pytest.approx(0.5)
    collection.now = None
    await watch.measure()
    assert board.changed_share(TRIAGE) == pytest.approx(0.5)
    collection.now = documents()
    await watch.measure()
    assert board.changed_share(TRIAGE) == 0.0


@pytest.mark.parametrize("sketch", ["what is this", "5:"])
async def test_an_adapter_that_knows_nothing_of_its_topic_is_never_stale(sketch: str) -> None:
    class Silent(_Collection):
        async def facts(self, model: str, version: str) -> dict[str, str]:
            return {"seed": "7", MANIFEST_KEY_PREFIX + "handbook": sketch}

    collection, board = Silent(), FreshnessCache()
    collection.now = sketch_of([])
    watch = FreshnessMonitor(board, collection)
    watch.monitored = MonitoredPaths([Path("triage_adapter", "tiny", adapter="triage@prod")], collection)
    await watch.measure()
    assert board.changed_share(TRIAGE) == 0.0


@pytest.mark.parametrize(
    ("path", "message"),
    [("hand", "stale names path 'hand'; known: handbook"), ("small_talk", "'small_talk', which has no retrieval")],
)
def test_an_invalid_path_for_stale_tasks_is_rejected(config_folder: ConfigFolder, path: str, message: str) -> None:
    config_folder.tasks["triage"]["stale"] = {"after_changed_share": 0.2, "path": path}
    with pytest.raises(ConfigError, match=message):
        load_config(config_folder.write())
