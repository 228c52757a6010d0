"""Adapters are swapped under load on the real engine behind the real gateway, without failed requests or wrong
tokens.

The adapters are those of `benchmarks/adapters`: each version generates its own text, so a single wrong token is
detected.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pointsman.v1 import lora_server_pb2 as pb

from benchmarks.adapters import adapters, swap
from benchmarks.adapters.services import Services, ServicesPlan, run_services
from benchmarks.adapters.streaming_client import Answer, stream_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMOTIONS, ROLLBACKS = 3, 1
SHORT = swap.Extent(calm=3.0, moves=24.0, needed_moves={"promote": PROMOTIONS, "rollback": ROLLBACKS})
HELD, BATCH, GUESTS, TOKENS = 6, 2, 9, 6
"""How many adapters the engine holds and how many fit into a batch; how many versions there are besides the tested one;
tokens of an answer. More versions serve at once than fit into a batch, and more exist than the engine can hold."""
LETTER = 4
"""Number of tokens of an answer that identify the version."""
LETTERS = {
    "examples": "tasks/triage.jsonl",
    "policy": {"escalate": {"paths": ["red", "base"]}},
    "validators": [{"regex": "^ruby"}],
    "rules": [{"name": "letters", "metadata": {"kind": "letter"}}],
}
"""A task whose validator accepts only the text of one version."""
NEEDED = 8
"""Requests that the stable version and the canary need before canary analysis."""
PLAN = ServicesPlan(
    held=HELD,
    batch=BATCH,
    adapters=("red", "green", "blue"),
    smoke=False,  # smoke tests have their own tests and would take most of the time
    tasks={"letters": LETTERS},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    async with run_services(tmp_path_factory.mktemp("services"), PLAN) as services:
        yield services


async def test_no_answer_fails_and_no_token_is_wrong_while_aliases_change(services: Services) -> None:
    made = adapters.trained_adapters()
    sets = {"red": made["red"], "green": made["green"][:2], "blue": made["blue"][:2]}

    found = await swap.under_load(services, sets, SHORT, PLAN)

    assert found.verdict.failed == 0, found.verdict.errors
    assert found.verdict.wrong_tokens == 0, found.verdict.examples
    assert not found.moves.refused
    assert found.moves.count("promote") >= PROMOTIONS
    assert found.moves.count("rollback") >= ROLLBACKS
    assert {model.partition("@")[0] for model in found.verdict.by_model} == {"smollm2-135m", "red", "green", "blue"}
    assert len(found.verdict.by_model) > 4  # more than one version of some adapter has answered


async def test_more_adapters_than_the_engine_holds_are_loaded_on_demand(services: Services) -> None:
    guests = {}
    for number, guest in enumerate(adapters.constant_adapters(GUESTS)):
        guests[await services.register(f"guest{number}", guest.folder)] = guest

    async def asked(version: str, number: int) -> Answer:
        return await stream_answer(services.gateways[0], version, f"{number} people ask for the platform.", TOKENS)

    for _ in range(2):
        answers = await asyncio.gather(*(asked(version, number) for version in guests for number in range(2)))
        for answer in answers:
            assert not answer.error
            assert (answer.model, answer.text) == (answer.requested, guests[answer.requested].text(TOKENS))

    held = await services.resident()
    assert len(held) <= HELD
    away = next(version for version in guests if version not in held)
    before = _loads_of(services, away)
    crowd = await asyncio.gather(*(asked(away, number) for number in range(24)))
    assert {(answer.error, answer.text) for answer in crowd} == {("", guests[away].text(TOKENS))}
    assert _loads_of(services, away) == before + 1


async def test_a_failing_canary_is_rolled_back_and_the_stable_version_serves(services: Services) -> None:
    red = adapters.trained_adapters()["red"]
    stable, broken = [await services.register("red", adapter.folder) for adapter in red[:2]]
    await services.promote("red@prod", stable)
    await services.stub.SetCanary(
        pb.SetCanaryRequest(
            alias="red@prod", version=broken, weight=0.5, terms=pb.CanaryTerms(min_requests=NEEDED), author="test"
        ),
        timeout=60,
    )

    by: dict[str, int] = {}
    deadline = time.monotonic() + 120
    while (await _alias(services)).canary_version:
        assert time.monotonic() < deadline, f"it is still there after {by}"
        for answer in await asyncio.gather(
            *(_letter(services, f"user {len(by)} {time.time_ns()} {n}") for n in range(8))
        ):
            assert not answer.error
            by[answer.model] = by.get(answer.model, 0) + 1

    assert by[stable] >= NEEDED
    assert broken not in by  # each of its answers was refused, and the base model answered instead
    assert by["smollm2-135m"] >= NEEDED
    after = await _alias(services)
    assert (after.version, after.canary_version) == (stable, "")
    last = (await services.stub.History(pb.HistoryRequest(name="red", limit=1))).changes[0]
    assert (last.kind, last.author) == ("rollback", "pointsman")
    assert last.reason
    # Requests that are sent 5 s after the rollback, or later, go to the stable version, however long they then take.
    deadline = time.monotonic() + 5
    sent = time.monotonic()
    while not await _all_by(services, stable, red[0].known.text):
        assert sent < deadline
        sent = time.monotonic()


async def _letter(services: Services, user: str) -> Answer:
    more = {"metadata": {"kind": "letter"}, "user": user}
    return await stream_answer(services.gateways[0], "auto", "Write me a letter.", LETTER, more)


async def _all_by(services: Services, version: str, text: str) -> bool:
    answers = await asyncio.gather(*(_letter(services, f"after {number}") for number in range(8)))
    return all(not each.error and each.model == version and text.startswith(each.text) for each in answers)


def _loads_of(services: Services, version: str) -> int:
    """Counts loads in the lora-server's log, because its metrics do not distinguish versions."""
    return services.log.read_text().count(f"{version} is resident")


async def _alias(services: Services) -> pb.Alias:
    listed = await services.stub.List(pb.ListAdaptersRequest(name="red"))
    alias: pb.Alias = next(alias for alias in listed.aliases if alias.alias == "red@prod")
    return alias
