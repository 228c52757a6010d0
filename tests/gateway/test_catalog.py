"""`GET /v1/tasks` lists the tasks and paths that can be compared."""

import json
from datetime import date
from typing import Any

import pytest
from pointsman_gateway.__main__ import print_catalog
from pointsman_gateway.bootstrap import to_catalog
from pointsman_gateway.config.load import load_config
from pointsman_gateway.http.catalog import catalog_body

from tests.gateway.doubles.config_folder import PRICES, ConfigFolder
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Neighbours, open_http_client


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
    fingerprint = body["models"]["tiny"].pop("fingerprint")
    assert body["models"] == {"tiny": {"context_window": 4096, "prices": PRICES, "other_prices": ""}}
    assert len(fingerprint) == 12
    assert body["search_usd"] == 0.00005
    letter = body["paths"]["letter"]
    assert letter.pop("fingerprint")
    assert letter == {
        "kind": "hybrid",
        "model": "tiny",
        "adapter": "voice@prod",
        "versions": [VOICE],
        "strategies": ["retrieval"],
        "collections": ["handbook"],
    }


def test_the_fingerprint_of_a_model_changes_with_what_the_engines_serve_and_not_with_its_price(
    config_folder: ConfigFolder,
) -> None:
    model = config_folder.models["models"]["tiny"]
    first = catalog_of(config_folder)
    model["usd_per_million_tokens"] = {**PRICES, "prompt": 2.0}
    dearer = catalog_of(config_folder)
    model["upstream"] = "other-model"
    other = catalog_of(config_folder)
    assert dearer["models"]["tiny"]["prices"]["prompt"] == 2.0
    assert dearer["models"]["tiny"]["fingerprint"] == first["models"]["tiny"]["fingerprint"]
    assert other["models"]["tiny"]["fingerprint"] != first["models"]["tiny"]["fingerprint"]
    config_folder.models["engines"]["local"]["upstream"] = "engines-own-name"
    of_engine = catalog_of(config_folder)
    assert of_engine["models"]["tiny"]["fingerprint"] != other["models"]["tiny"]["fingerprint"]


def test_prices_of_requests_images_and_tools_are_listed_by_the_component_of_the_cost(
    config_folder: ConfigFolder,
) -> None:
    charges = {"usd_per_image": 0.01, "usd_per_request": 0.002, "usd_per_tool_request": 0.03}
    config_folder.models["models"]["tiny"] |= charges
    listed = catalog_of(config_folder)["models"]["tiny"]["prices"]
    assert listed == {**PRICES, "image": 0.01, "request": 0.002, "tool": 0.03}


def test_the_prices_are_those_of_the_day(config_folder: ConfigFolder) -> None:
    dearer = {**PRICES, "prompt": 2.0}
    config_folder.models["models"]["tiny"]["price_changes"] = [
        {"starting": "2027-01-01", "usd_per_million_tokens": dearer, "usd_per_request": 0.002}
    ]
    assert catalog_of(config_folder, date(2026, 12, 31))["models"]["tiny"]["prices"] == PRICES
    assert catalog_of(config_folder, date(2027, 1, 1))["models"]["tiny"]["prices"] == {**dearer, "request": 0.002}


@pytest.mark.parametrize(
    "change",
    [
        {"models": {"usd_per_million_tokens": {**PRICES, "long_prompts": [{"above": 1000, **PRICES}]}}},
        {"models": {"service_tiers": {"flex": PRICES}}},
        {"retrieval": {"usd_per_embedding": 0.001}},
        {"training": {"usd_per_hour": 1, "expected_requests": 1000, "expected_days": 9}},
    ],
)
def test_prices_that_are_not_listed_have_a_hash(config_folder: ConfigFolder, change: dict[str, Any]) -> None:
    models = config_folder.models
    models["models"]["tiny"] |= change.pop("models", {})
    for name, values in change.items():
        models[name] = models.get(name, {}) | values
    changed = catalog_of(config_folder)["models"]["tiny"]
    assert changed["prices"] == PRICES
    assert len(changed["other_prices"]) == 12


async def test_a_configuration_lists_its_catalog_without_running_anything(
    neighbours: Neighbours, capsys: pytest.CaptureFixture[str]
) -> None:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        running = (await http.get("/v1/tasks")).json()
        capsys.readouterr()
        assert print_catalog(gateway.folder) == 0
    printed = json.loads(capsys.readouterr().out)
    assert running["paths"]["letter"].pop("versions") == [VOICE]
    assert printed["paths"]["letter"].pop("versions") == ["voice@prod"]
    assert running["paths"]["triage_adapter"].pop("versions") == [TRIAGE]
    assert printed["paths"]["triage_adapter"].pop("versions") == ["triage@prod"]
    assert printed == running


def catalog_of(folder: ConfigFolder, day: date = date(2026, 12, 1)) -> Any:
    config = load_config(folder.write())
    return catalog_body(to_catalog(config), config.revision, lambda path: (), day)
