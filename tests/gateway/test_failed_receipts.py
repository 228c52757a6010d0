"""A request whose receipt cannot be written still gives back its slot, its place at the engine and its caller's
quota."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pointsman_gateway.domain import Caller, Message, Receipt, Request, UndecidedReceipt, Usage
from pointsman_gateway.metering.meter import Meter, Metering
from pointsman_gateway.pipeline.batch import RequestBatch
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.pipeline.sinks import CollectedAnswer
from pointsman_gateway.ports import RequestLog
from pointsman_servicekit.errors import Internal, PointsmanError

from tests.gateway.doubles.broken_clients import Bug
from tests.gateway.doubles.gateway import Gateway

REQUEST = Request("tiny", (Message("user", "Hello"),))


class BrokenMetering(Metering):
    def start(self, request: Request) -> Meter:
        return BrokenMeter(self, request)


class BrokenMeter(Meter):
    def finish(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        raise Bug

    def finish_route(self, outcome: str, error: PointsmanError | None = None) -> Receipt | UndecidedReceipt:
        raise Bug


class BrokenLog:
    """Implements the methods of `RequestLog` that are called, and fails to store receipts."""

    def wants_answers(self, *of: Any) -> bool:
        return False

    def note(self, *what: Any) -> None:
        raise Bug


@dataclass
class Limits:
    """A tenancy with one caller; records the reservations that are settled."""

    settled: list[tuple[Usage, float | None, str]] = field(default_factory=list)
    has_budget = True

    def enter_now(self, caller: Caller, tokens: int) -> "Limits":
        return self

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    def afford_now(self, usd: float | None) -> bool:
        return True

    def settle(self, usage: Usage, usd: float | None, outcome: str) -> None:
        self.settled.append((usage, usd, outcome))


def with_limits(gateway: Gateway, limits: Any, request_log: RequestLog | None = None) -> Pipeline:
    pipeline = gateway.components.pipeline
    return replace(pipeline, tenancy=limits, request_log=request_log or pipeline.request_log)


def break_metering(gateway: Gateway) -> None:
    reloader = gateway.components.reloader
    stages = reloader.current.stages
    broken = BrokenMetering(
        stages.metering.pricing, stages.metering.expected_cost, stages.metering.aggregator, stages.metering.canary
    )
    reloader.current = replace(reloader.current, stages=replace(stages, metering=broken))


def nothing_is_held(gateway: Gateway) -> bool:
    return gateway.metric("pointsman_in_flight") == gateway.metric("pointsman_engine_in_flight") == 0


async def test_nothing_is_charged_if_the_usage_is_not_known(gateway: Gateway) -> None:
    break_metering(gateway)
    limits = Limits()
    with pytest.raises(Internal):
        async for _ in with_limits(gateway, limits).answer(REQUEST):
            pass
    assert limits.settled == [(Usage(), 0.0, "internal")]
    assert nothing_is_held(gateway)


async def test_the_usage_is_charged_if_its_receipt_cannot_be_logged(gateway: Gateway) -> None:
    limits, broken_log = Limits(), BrokenLog()
    with pytest.raises(Internal):
        async for _ in with_limits(gateway, limits, broken_log).answer(REQUEST):  # type: ignore[arg-type]
            pass
    ((usage, _, outcome),) = limits.settled
    assert (usage.prompt_tokens, usage.completion_tokens, outcome) == (20, 2, "ok")
    assert nothing_is_held(gateway)


async def test_a_decision_without_a_receipt_gives_back_its_reservation(gateway: Gateway) -> None:
    break_metering(gateway)
    limits = Limits()
    with pytest.raises(Bug):
        await with_limits(gateway, limits).decide(REQUEST)
    assert limits.settled == [(Usage(), 0.0, "internal")]
    assert nothing_is_held(gateway)


async def test_a_batch_whose_answer_cannot_be_sent_ends(gateway: Gateway) -> None:
    class BrokenSink(CollectedAnswer):
        def finished(self, finished: Any) -> None:
            raise Bug

    sink = BrokenSink()
    sink.run = batch = RequestBatch(gateway.components.pipeline, [REQUEST, REQUEST], 1, sink)
    batch.start()
    with pytest.raises(Internal):
        await sink.whole()
    assert nothing_is_held(gateway)
