"""A model that was fully fine-tuned: its paths have the kind `tuned` in the decision, the receipt and the request
log."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pointsman_gateway.domain import Finished, Message, Receipt, Request
from pointsman_gateway.request_log.entry import to_entry
from pointsman_gateway.request_log.wal_records import DecidedRecord, decided_record, from_line, to_line

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Gateway, Neighbours


@pytest.fixture
async def gateway(neighbours: Neighbours, second_engine: ScriptedEngine) -> AsyncIterator[Gateway]:
    config = neighbours.config
    config.models["models"]["support-ft"] = {**config.models["models"]["tiny"], "tuned_from": "gpt-4o-mini"}
    config.models["engines"]["tuned"] = {"model": "support-ft", "url": second_engine.url}
    config.paths["tuned_chat"] = {"model": "support-ft"}
    config.paths["tuned_examples"] = {**config.paths["triage_few_shot"], "model": "support-ft"}
    second_engine.says(*answer("from", " the", " tuned"))
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


async def receipt_of(gateway: Gateway, model: str) -> Receipt:
    request = Request(model, (Message("user", IN_CHAT),), deadline=asyncio.get_running_loop().time() + 10)
    events: list[Any] = [event async for event in gateway.components.pipeline.answer(request)]
    assert isinstance(events[-1], Finished)
    return events[-1].receipt


@pytest.mark.parametrize(
    ("model", "kind"),
    [("support-ft", "tuned"), ("path:tuned_chat", "tuned"), ("path:tuned_examples", "hybrid"), ("tiny", "prompt")],
)
async def test_the_kind_is_in_the_decision_and_survives_the_write_ahead_log(
    gateway: Gateway, model: str, kind: str
) -> None:
    receipt = await receipt_of(gateway, model)
    assert receipt.decision.path.kind == kind

    request = Request(model, (Message("user", IN_CHAT),))
    record = from_line(to_line(decided_record(1, 0.0, request, receipt.decision, receipt)))
    assert isinstance(record, DecidedRecord)
    assert json.loads(to_entry(record.to_pending_entry(), store_messages=False).json)["kind"] == kind
