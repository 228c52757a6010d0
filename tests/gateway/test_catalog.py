"""`GET /v1/tasks` lists the tasks and paths that can be compared."""

from tests.gateway.doubles.config_folder import PRICES
from tests.gateway.doubles.gateway import Neighbours, open_http_client


async def test_tasks_name_all_paths_that_could_answer_and_their_metric(neighbours: Neighbours) -> None:
    tasks = neighbours.config.tasks
    tasks["triage"]["metric"] = {"exact": True}
    tasks["chat"]["metric"] = {"judge": {"model": "path:handbook", "prompt": "persona.txt"}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        body = (await http.get("/v1/tasks")).json()
        configured = (await http.get("/v1/configuration")).json()
    assert body["revision"] == configured["revision"]
    assert body["default_path"] == "safe_start"
    assert body["tasks"] == {
        "triage": {
            "policy": "fixed",
            "paths": ["triage_adapter", "triage_few_shot", "safe_start"],
            "metric": {"exact": True},
        },
        "policy": {"policy": "fixed", "paths": ["handbook", "safe_start"], "metric": None},
        "chat": {
            "policy": "fixed",
            "paths": ["small_talk", "safe_start"],
            "metric": {"judge": {"model": "path:handbook", "prompt": "You are Wren."}},
        },
    }
    assert body["models"] == {"tiny": {"context_window": 4096, "prices": PRICES}}
    assert body["search_usd"] == 0.00005
    letter = body["paths"]["letter"]
    assert letter.pop("fingerprint")
    assert letter == {
        "kind": "hybrid",
        "model": "tiny",
        "adapter": "voice@prod",
        "strategies": ["retrieval"],
        "collections": ["handbook"],
    }
