"""After any change of something that a certificate covers, the certificate is invalid; a real gateway is changed."""

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.certificate.checks import Check, Outcome, overall
from pointsman_cli.certificate.sample import Sampling
from pointsman_cli.certificate.statement import digest_of
from pointsman_cli.certificate.verification import ConfigurationSource, Verification, verify

from tests.cli.certificate.conftest import ROWS, as_trained
from tests.gateway.doubles.config_folder import PRICES, ConfigFolder
from tests.gateway.doubles.engine import Refusal, ScriptedEngine, answer
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.waiting import until

SEEDS = 50


async def verified(certificate: Path, gateway: Gateway, data: Path, rows: int = 0) -> list[Check]:
    given = Verification(data, Sampling(rows, 1), None, {})
    _, checks = await verify(certificate, ConfigurationSource(gateway.url, ""), given)
    return checks


def with_outcome(checks: list[Check], outcome: Outcome) -> dict[str, str]:
    """Returns the details of the checks with this outcome, by the check's subject."""
    return {check.subject: check.detail for check in checks if check.outcome is outcome}


@dataclass
class Certified:
    """The things that a certificate covers and that a test may change."""

    config: ConfigFolder
    data: Path
    triage: str = TRIAGE
    """The adapter version to which the alias points."""


def change_data(draw: random.Random, certified: Certified) -> str:
    rows = [dict(row) for row in ROWS]
    place = draw.randrange(len(rows))
    match draw.randrange(4):
        case 0:
            rows[place]["text"] = f"{rows[place]['text']}{draw.choice('.!?')}"
        case 1:
            rows[place]["output"] = {"intent": draw.choice(["delay_claim", "payment_problem"])}
        case 2:
            del rows[place]
        case _:
            rows.insert(place, {"text": f"another message {draw.random()}", "output": {"intent": "refund"}})
    certified.data.write_text("".join(json.dumps({"task": "triage"} | row) + "\n" for row in rows))
    return "data"


def change_prompt(draw: random.Random, certified: Certified) -> str:
    prompts = certified.config.prompts
    name = draw.choice(["triage.txt", "steps.txt", "passages.txt"])
    prompts[name] = draw.choice([f"{prompts[name]} Be brief.", f"Please: {prompts[name]}", prompts[name] + "\n\nNow."])
    return "path triage_few_shot" if name == "triage.txt" else "path safe_start"


def change_example(draw: random.Random, certified: Certified) -> str:
    examples = certified.config.examples["triage"]
    place = draw.randrange(len(examples))
    examples[place] = (f"{examples[place][0]} {draw.randrange(1000)}", examples[place][1])
    return "path triage_few_shot"


def change_adapter(draw: random.Random, certified: Certified) -> str:
    certified.triage = f"triage@{draw.getrandbits(48):012x}"
    return "adapter of triage_adapter"


def change_price(draw: random.Random, certified: Certified) -> str:
    kind = draw.choice(["prompt", "completion"])
    factor = draw.choice([draw.uniform(0.1, 0.79), draw.uniform(1.21, 5)])
    certified.config.models["models"]["tiny"]["usd_per_million_tokens"] = {**PRICES, kind: PRICES[kind] * factor}
    return f"price tiny {kind}"


def change_search_price(draw: random.Random, certified: Certified) -> str:
    certified.config.models["retrieval"]["usd_per_search"] *= draw.uniform(1.3, 10)
    return "price of searches"


def change_base(draw: random.Random, certified: Certified) -> str:
    certified.config.models["models"]["tiny"]["upstream"] = f"other-{draw.randrange(1000)}"
    return "base model tiny"


def change_setting(draw: random.Random, certified: Certified) -> str:
    name = draw.choice(["triage_adapter", "triage_few_shot", "safe_start"])
    certified.config.paths[name] |= draw.choice([{"temperature": 0.5}, {"max_tokens": 77}, {"top_p": 0.4}])
    return f"path {name}"


CHANGES: list[Callable[[random.Random, Certified], str]] = [
    change_data, change_prompt, change_adapter, change_price, change_example, change_search_price, change_base,
    change_setting,
]  # fmt: skip
"""Functions that each make one change, and return the subject of the check that must find it."""


async def test_a_certificate_of_what_is_still_there_is_valid(certificate: Path, gateway: Gateway, data: Path) -> None:
    checks = await verified(certificate, gateway, data, rows=10)
    assert overall(checks) == "valid", checks
    assert set(with_outcome(checks, Outcome.NOT_CHECKED)) == {"signature"}
    sampled = with_outcome(checks, Outcome.OK)
    assert sampled["sample of triage_adapter"] == "it scores 1.000 on 10 rows, which had 1.000"


async def test_each_of_fifty_seeded_changes_of_data_prompt_adapter_price_or_model_is_found(
    certificate: Path, gateway: Gateway, neighbours: Neighbours, data: Path
) -> None:
    unchanged = read(data)
    for seed in range(SEEDS):
        certified = Certified(copy.deepcopy(neighbours.config), data)
        subject = CHANGES[seed % len(CHANGES)](random.Random(seed), certified)
        await use(certified, gateway, neighbours)
        found = with_outcome(await verified(certificate, gateway, data), Outcome.INVALID)
        assert subject in found, f"seed {seed}: {subject} is not in {found}"
        write(data, unchanged)
    await use(Certified(neighbours.config, data), gateway, neighbours)
    assert overall(await verified(certificate, gateway, data)) == "valid"


def read(file: Path) -> str:
    return file.read_text()


def write(file: Path, text: str) -> None:
    file.write_text(text)


async def use(certified: Certified, gateway: Gateway, neighbours: Neighbours) -> None:
    """Makes the gateway and the engine use the changed things."""
    certified.config.write()
    await gateway.components.reloader.reload()
    assert not gateway.components.reloader.status.problem
    await neighbours.lora_server.say(
        READY,
        url=neighbours.engine.url,
        resident=sorted({TRIAGE, VOICE, certified.triage}),
        aliases={"triage@prod": certified.triage, "voice@prod": VOICE},
    )
    await until(lambda: version_of_triage(gateway) == certified.triage)


def version_of_triage(gateway: Gateway) -> str:
    current = gateway.components.reloader.current
    return current.engines.version_of(current.catalog.paths["triage_adapter"])


async def test_a_task_with_another_path_or_metric_is_no_longer_the_certified_one(
    certificate: Path, gateway: Gateway, neighbours: Neighbours, data: Path
) -> None:
    tasks = neighbours.config.tasks
    tasks["triage"]["fallback"] = ["triage_few_shot", "handbook"]
    await use(Certified(neighbours.config, data), gateway, neighbours)
    checks = await verified(certificate, gateway, data)
    assert overall(checks) == "weakened"
    assert with_outcome(checks, Outcome.WEAKENED) == {
        "task triage": "handbook may answer it too now, and was not evaluated"
    }
    tasks["triage"]["metric"] = {"json_fields": True}
    await use(Certified(neighbours.config, data), gateway, neighbours)
    checks = await verified(certificate, gateway, data)
    assert with_outcome(checks, Outcome.INVALID) == {"task triage": "its metric has changed"}


def wrong(body: Mapping[str, Any]) -> Any:
    return answer("Here you are.", prompt_tokens=10)


def refusing(body: Mapping[str, Any]) -> Any:
    error = {"error": {"message": "too hot", "type": "BadRequestError", "param": None, "code": 400}}
    return Refusal(400, error) if body["model"] == TRIAGE else as_trained(body)


@pytest.mark.parametrize(
    ("script", "outcome", "subject", "detail"),
    [
        (
            wrong,
            Outcome.INVALID,
            "sample of triage_adapter",
            "it scores 0.000 on 15 rows, which had 1.000: surely a change of more than 0.1",
        ),
        (refusing, Outcome.WEAKENED, "sample of triage_adapter", "15 of 15 requests failed (engine_refused 15)"),
    ],
)
async def test_a_sample_notices_what_no_fingerprint_shows(
    certificate: Path,
    gateway: Gateway,
    engine: ScriptedEngine,
    data: Path,
    script: Callable[[Mapping[str, Any]], Any],
    outcome: Outcome,
    subject: str,
    detail: str,
) -> None:
    engine.script = script
    checks = await verified(certificate, gateway, data, rows=15)
    assert (subject, detail) in [(check.subject, check.detail) for check in checks if check.outcome is outcome]
    assert overall(checks) == outcome.value


async def test_a_sample_notices_that_the_same_rows_cost_more(
    certificate: Path, gateway: Gateway, engine: ScriptedEngine, data: Path
) -> None:
    def dearer(body: Mapping[str, Any]) -> Any:
        if body["model"] != TRIAGE:
            return as_trained(body)
        number = next(place for place, row in enumerate(ROWS) if row["text"] == body["messages"][-1]["content"])
        return answer(json.dumps(ROWS[number]["output"]), prompt_tokens=30)

    engine.script = dearer
    checks = await verified(certificate, gateway, data, rows=5)
    (detail,) = with_outcome(checks, Outcome.WEAKENED).values()
    assert detail.startswith("the same rows cost $0.0340 per 1,000 now (+143%)")


async def test_a_metric_that_is_code_runs_only_for_a_trusted_signature(
    certificate: Path, gateway: Gateway, engine: ScriptedEngine, data: Path, tmp_path: Path
) -> None:
    whole = json.loads(read(certificate))
    metric = {"entry_point": f"{tmp_path}/own.py:score"}
    whole["statement"]["report"]["tasks"][0]["metric_settings"] = metric
    write(certificate, json.dumps(whole | {"sha256": digest_of(whole["statement"])}))
    engine.bodies.clear()

    checks = await verified(certificate, gateway, data, rows=5)

    assert engine.bodies == []
    assert with_outcome(checks, Outcome.NOT_CHECKED)["sample"].startswith("no row was sent: a metric is code")


async def test_a_data_set_that_cannot_be_parsed_any_more_is_a_changed_one(
    certificate: Path, gateway: Gateway, data: Path
) -> None:
    write(data, read(data) + "{\n")
    assert "data" in with_outcome(await verified(certificate, gateway, data, rows=5), Outcome.INVALID)


async def test_a_gateway_that_cannot_be_reached_weakens_a_certificate(certificate: Path, data: Path) -> None:
    given = Verification(data, Sampling(20, 1), None, {})
    _, checks = await verify(certificate, ConfigurationSource("http://127.0.0.1:9", ""), given)
    (detail,) = with_outcome(checks, Outcome.WEAKENED).values()
    assert detail.startswith("paths, prompts and prices were not compared: no gateway answers at http://127.0.0.1:9")
