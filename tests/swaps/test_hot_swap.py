"""Points are moved under load on the real engine, behind the real gateway: nobody notices but by what is answered.

The adapters are those of `benchmarks/adapters`: each version says its own text, so that a single wrong token is seen.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pointsman.v1 import lora_server_pb2 as pb

from benchmarks.adapters import adapters, swap
from benchmarks.adapters.asking import Answer, ask
from benchmarks.adapters.house import House, Plan, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = swap.Extent(calm=3.0, moves=24.0)
HELD, BATCH, GUESTS, TOKENS = 6, 2, 9, 6
"""More versions serve at once than a batch can use, and there are more than the engine can hold."""
LETTER = 4
"""Tokens: enough to know whose words they are."""
LETTERS = {
    "examples": "tasks/triage.jsonl",
    "policy": {"escalate": {"paths": ["red", "base"]}},
    "validators": [{"regex": "^ruby"}],
    "rules": [{"name": "letters", "metadata": {"kind": "letter"}}],
}
"""A task whose answers must be the words of one version."""
NEEDED = 8
"""Requests of the stable version and of the canary until it may be judged."""
PLAN = Plan(
    held=HELD,
    batch=BATCH,
    adapters=("red", "green", "blue"),
    smoke=False,  # trials have tests of their own, and would take most of the time of this one
    tasks={"letters": LETTERS},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with running(tmp_path_factory.mktemp("house"), PLAN) as house:
        yield house


async def test_no_answer_fails_and_no_token_is_wrong_while_points_are_moved(house: House) -> None:
    made = adapters.trained()
    sets = {"red": made["red"], "green": made["green"][:2], "blue": made["blue"][:2]}

    found = await swap.under_load(house, sets, SHORT, PLAN)

    assert found.verdict.failed == 0, found.verdict.errors
    assert found.verdict.wrong_tokens == 0, found.verdict.examples
    assert not found.moved.refused
    assert found.moved.done("promote") >= 3
    assert found.moved.done("rollback") >= 1
    assert {model.partition("@")[0] for model in found.verdict.by_model} == {"smollm2-135m", "red", "green", "blue"}
    assert len(found.verdict.by_model) > 4  # more than one version of some adapter did answer


async def test_more_adapters_than_the_engine_holds_are_loaded_on_demand(house: House) -> None:
    guests = {}
    for number, guest in enumerate(adapters.constants(GUESTS)):
        guests[await house.register(f"guest{number}", guest.folder)] = guest

    async def asked(version: str, number: int) -> Answer:
        return await ask(house.gateways[0], version, f"{number} people ask for the platform.", TOKENS)

    for _ in range(2):
        answers = await asyncio.gather(*(asked(version, number) for version in guests for number in range(2)))
        for answer in answers:
            assert not answer.error
            assert (answer.model, answer.text) == (answer.asked, guests[answer.asked].text(TOKENS))

    held = await house.resident()
    assert len(held) <= HELD
    away = next(version for version in guests if version not in held)
    before = _loads_of(house, away)
    crowd = await asyncio.gather(*(asked(away, number) for number in range(24)))
    assert {(answer.error, answer.text) for answer in crowd} == {("", guests[away].text(TOKENS))}
    assert _loads_of(house, away) == before + 1


async def test_a_canary_that_breaks_is_taken_back_and_the_stable_version_serves(house: House) -> None:
    red = adapters.trained()["red"]
    stable, broken = [await house.register("red", adapter.folder) for adapter in red[:2]]
    await house.promote("red@prod", stable)
    await house.stub.SetCanary(
        pb.SetCanaryRequest(
            alias="red@prod", version=broken, weight=0.5, terms=pb.CanaryTerms(min_requests=NEEDED), author="test"
        ),
        timeout=60,
    )

    by: dict[str, int] = {}
    deadline = time.monotonic() + 120
    while (await _alias(house)).canary_version:
        assert time.monotonic() < deadline, f"it is still there after {by}"
        for answer in await asyncio.gather(*(_letter(house, f"user {len(by)} {time.time_ns()} {n}") for n in range(8))):
            assert not answer.error
            by[answer.model] = by.get(answer.model, 0) + 1

    assert by[stable] >= NEEDED
    assert broken not in by  # each of its answers was refused, and answered once more by the base model
    assert by["smollm2-135m"] >= NEEDED
    after = await _alias(house)
    assert (after.version, after.canary_version) == (stable, "")
    last = (await house.stub.History(pb.HistoryRequest(name="red", limit=1))).changes[0]
    assert (last.kind, last.author) == ("rollback", "pointsman")
    assert last.reason
    async with asyncio.timeout(5):
        while not await _all_by(house, stable, red[0].known.text):
            pass


async def _letter(house: House, user: str) -> Answer:
    more = {"metadata": {"kind": "letter"}, "user": user}
    return await ask(house.gateways[0], "auto", "Write me a letter.", LETTER, more)


async def _all_by(house: House, version: str, text: str) -> bool:
    answers = await asyncio.gather(*(_letter(house, f"after {number}") for number in range(8)))
    return all(not each.error and each.model == version and text.startswith(each.text) for each in answers)


def _loads_of(house: House, version: str) -> int:
    """As the lora-server's log tells of them: its metrics count those of all versions."""
    return house.log.read_text().count(f"{version} is resident")


async def _alias(house: House) -> pb.Alias:
    listed = await house.stub.List(pb.ListAdaptersRequest(name="red"))
    alias: pb.Alias = next(alias for alias in listed.aliases if alias.alias == "red@prod")
    return alias
