"""Each search and each embedded question is charged once, whichever path answers, and even if none does."""

from typing import Any

import pytest
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.valkey import Valkey

SEARCH, EMBEDDING = 0.01, 0.001


async def asked(neighbours: Neighbours, text: str, model: str = "auto", times: int = 1) -> list[dict[str, Any]]:
    """Sends the request `times` times; returns what each answer reports about its cost and path."""
    await neighbours.ready()
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        answers = [await http.post("/v1/chat/completions", json=body) for _ in range(times)]
    return [answer.raise_for_status().json()["pointsman"] for answer in answers]


@pytest.fixture(autouse=True)
def prices(neighbours: Neighbours) -> None:
    neighbours.config.models["retrieval"] = {"usd_per_search": SEARCH, "usd_per_embedding": EMBEDDING}


async def test_a_search_without_results_is_charged_on_the_fallbacks_receipt(
    neighbours: Neighbours, retriever: ScriptedRetriever
) -> None:
    neighbours.config.paths["handbook"]["strategies"][1]["retrieval"]["on_empty"] = "next_path"
    neighbours.config.tasks["policy"]["fallback"] = ["small_talk"]
    retriever.relevant = False
    (result,) = await asked(neighbours, IN_POLICY)
    assert (result["path"], len(retriever.asked)) == ("small_talk", 1)
    assert result["cost_parts_usd"]["retrieval"] == SEARCH
    assert result["seconds"]["retrieval"] > 0


async def test_a_failed_search_is_not_charged(neighbours: Neighbours, retriever: ScriptedRetriever) -> None:
    retriever.error = Unavailable("down", code="retriever_unavailable")
    for receipt in await asked(neighbours, IN_NONE, times=6):
        assert receipt["path"] == "safe_start"
        assert "retrieval" not in receipt["cost_parts_usd"]
        assert receipt["seconds"]["retrieval"] > 0


@pytest.mark.parametrize(("path", "text"), [("triage_few_shot", IN_TRIAGE), ("small_talk", IN_CHAT)])
async def test_a_question_is_embedded_once_for_its_examples_and_for_the_cache(
    neighbours: Neighbours, valkey: Valkey, path: str, text: str
) -> None:
    """The caller names the path, so that no classifier has embedded the question before."""
    neighbours.settings |= {"redis_url": valkey.url}
    neighbours.config.models["cache"] = {"usd_per_hit": 0}
    neighbours.config.paths[path] |= {"temperature": 0, "cache": {"similarity_threshold": 0.95}}
    first, again = await asked(neighbours, text, f"path:{path}", times=2)
    assert first["cost_parts_usd"]["embedding"] == EMBEDDING
    assert (first["cached"], again["cached"]) == ("", "exact")
