"""Canaries over HTTP and gRPC: which users get one, how answers are marked, and what is reported for its analysis."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path as FilePath
from typing import Any, cast

import pytest
from pointsman_gateway.domain import Path, ResolvedAdapter
from pointsman_gateway.engines.engine_state import Engine, EngineState, LoraServer
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import CanaryReporter, EngineMetrics
from pointsman_gateway.extensions.policy import hash_to_unit_interval
from pointsman_gateway.metering.canary_outcomes import MAX_VERSIONS, CanaryOutcomes
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable
from pointsman_servicekit.statistics import CANARY_LATENCY_BUCKETS
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.api_clients import ApiClient, HttpClient, open_api_client
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, Refusal, Step, answer, beginning
from tests.gateway.doubles.engine_pair import NEW, OLD, PROD, alias
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

WEIGHT = 0.25


def user(canary: bool, number: int = 0) -> str:
    """Returns a user who gets the canary, or one who does not."""
    drawn = (
        name
        for name in (f"user-{n}" for n in range(1000))
        if (hash_to_unit_interval(f"canary {PROD} {name}") < WEIGHT) == canary
    )
    return [name for _, name in zip(range(number + 1), drawn, strict=False)][-1]


def script(body: Mapping[str, Any]) -> Refusal | list[Step]:
    """Answers as the last message demands; the base model always gives a valid answer."""
    wanted = body["messages"][-1]["content"]
    if "@" not in body["model"]:
        return answer("the base model")
    match wanted:
        case "break":
            return Refusal(500, {"error": {"message": "out of luck"}})
        case "cut":
            return [*beginning("{"), BREAK]
        case "mistake":
            return Refusal(400, {"error": {"message": "no such tool"}})
        case "hang":
            return [*beginning("{"), asyncio.Event()]
        case "nonsense":
            return answer("nonsense")
    return answer('{"model": "', body["model"], '"}')


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    """Runs a gateway in which the adapter's task has a validator, and its alias has a canary that the engine holds."""
    neighbours.config.tasks["triage"]["validators"] = [{"json_schema": {"type": "object"}}]
    neighbours.config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}
    neighbours.engine.script = script
    await tell(neighbours, OLD, NEW)
    async with neighbours.gateway() as gateway:
        yield gateway


async def tell(neighbours: Neighbours, *resident: str, revision: int = 3) -> None:
    moved = alias(OLD, revision, NEW, WEIGHT)
    await neighbours.lora_server.say(READY, url=neighbours.engine.url, resident=resident, aliases={PROD: moved})


async def ask(api: ApiClient, what: str, who: str) -> Any:
    """Sends the text `what` from the user `who`; a rule assigns it to the adapter's task."""
    return await api.ask(what, metadata={"source": "inbox"}, user=who)


async def test_users_of_the_canary_are_answered_by_it_and_informed(api: ApiClient) -> None:
    for canary, version in ((True, NEW), (False, OLD)):
        for number in range(5):
            got = await ask(api, "hello", user(canary, number))
            assert (got.model, got.path) == (version, "triage_adapter")
    decision = await api.route(IN_TRIAGE, user=user(True))
    assert decision["notes"] == [f"{PROD}: canary 25 %, {NEW}", "left out: user"]
    assert not [note for note in (await api.route(IN_TRIAGE, user=user(False)))["notes"] if "canary" in note]


async def test_a_named_alias_has_its_canary_and_a_named_version_does_not(api: ApiClient) -> None:
    assert (await api.ask("hello", PROD, user=user(True))).model == NEW
    assert (await api.ask("hello", OLD, user=user(True))).model == OLD


async def test_without_the_canary_the_stable_version_answers(
    api: ApiClient, gateway: Gateway, neighbours: Neighbours
) -> None:
    await tell(neighbours, OLD)
    await until(lambda: gateway.components.engines.get("local").resident == {OLD})
    assert (await ask(api, "hello", user(True))).model == OLD
    decision = await api.route(IN_TRIAGE, user=user(True))
    assert decision["notes"] == [f"{PROD}: canary 25 %, {NEW}, is on no engine; {OLD} answers", "left out: user"]


# -- what is counted


@pytest.fixture(params=["http", "http-stream", "grpc"])
async def one_door(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[ApiClient]:
    async with open_api_client(request.param, gateway.url, gateway.grpc_address) as api:
        yield api


def summed(lora_server: ScriptedLoraServer) -> dict[str, tuple[int, int, int, int]]:
    """Returns, by version, the reported numbers of requests, errors, invalid answers and timed requests."""
    sums: dict[str, tuple[int, int, int, int]] = {}
    for one in lora_server.reported:
        assert (one.alias, one.revision) == (PROD, 3)
        requests, errors, invalid, timed = sums.get(one.version, (0, 0, 0, 0))
        timed += sum(one.milliseconds.values())
        sums[one.version] = (requests + one.requests, errors + one.errors, invalid + one.invalid, timed)
    return sums


async def test_outcomes_are_counted_exactly_without_callers_errors(
    one_door: ApiClient, gateway: Gateway, neighbours: Neighbours
) -> None:
    for what, times in (("hello", 7), ("nonsense", 3), ("break", 2), ("mistake", 4)):
        for _ in range(times):
            if what == "mistake":
                with pytest.raises(InvalidArgument):
                    await ask(one_door, what, user(True))
            else:
                got = await ask(one_door, what, user(True))
                assert got.path == ("triage_few_shot" if what == "break" else "triage_adapter")
    for _ in range(5):
        await ask(one_door, "hello", user(False))
    await until(lambda: len(summed(neighbours.lora_server)) == 2)
    await until(lambda: gateway.metric("pointsman_canary_outcomes_total", outcome="sent") == 17)
    assert summed(neighbours.lora_server) == {NEW: (12, 2, 3, 10), OLD: (5, 0, 0, 5)}


async def test_an_incomplete_answer_is_an_error_and_a_disconnect_is_not(
    gateway: Gateway, neighbours: Neighbours
) -> None:
    async with open_api_client("http-stream", gateway.url, gateway.grpc_address) as http:
        with pytest.raises(PointsmanError, match="failed"):
            await ask(http, "cut", user(True))
        await hang_up(http, neighbours)
    async with open_api_client("grpc", gateway.url, gateway.grpc_address) as api:
        with pytest.raises(Unavailable):
            await ask(api, "cut", user(True))
        await hang_up(api, neighbours)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 2)
    await until(lambda: gateway.metric("pointsman_canary_outcomes_total", outcome="sent") == 2)
    assert summed(neighbours.lora_server) == {NEW: (2, 2, 0, 0)}


async def hang_up(api: ApiClient, neighbours: Neighbours) -> None:
    asking = asyncio.create_task(ask(api, "hang", user(True)))
    await until(lambda: neighbours.engine.running == 1)
    asking.cancel()
    await asyncio.wait([asking])
    await until(lambda: neighbours.engine.running == 0)


async def test_an_escalated_answer_is_counted_as_refused(
    neighbours: Neighbours,
) -> None:
    neighbours.config.tasks["triage"] |= {
        "validators": [{"json_schema": {"type": "object"}}],
        "policy": {"escalate": {"paths": ["triage_adapter", "triage_few_shot"]}},
    }
    neighbours.engine.script = script
    await tell(neighbours, OLD, NEW)
    async with neighbours.gateway() as gateway, open_api_client("http", gateway.url, gateway.grpc_address) as api:
        assert (await ask(api, "nonsense", user(True))).text == "the base model"
        assert (await ask(api, "hello", user(True))).model == NEW
        await until(lambda: gateway.metric("pointsman_canary_outcomes_total", outcome="sent") == 2)
    assert summed(neighbours.lora_server) == {NEW: (2, 0, 1, 2)}


async def test_a_timeout_while_loading_is_not_counted_for_the_version(
    neighbours: Neighbours,
) -> None:
    loading = asyncio.Event()

    async def load(version: str) -> None:
        loading.set()
        await asyncio.Event().wait()

    neighbours.lora_server.loads = load
    aliases = {PROD: alias(OLD, 3, NEW, WEIGHT)}
    await neighbours.lora_server.say(READY, url=neighbours.engine.url, loadable=[OLD], aliases=aliases)
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        body = {"model": PROD, "user": user(False), "messages": [{"role": "user", "content": "x"}]}
        late = await client.post("/v1/chat/completions", json=body, headers={"x-request-timeout": "0.2"})
        assert (late.status_code, loading.is_set()) == (504, True)
        assert gateway.metric("pointsman_phase_duration_seconds_sum", phase="adapter") >= 0.15
        assert gateway.components.canary_outcomes.take() == {}


async def test_an_alias_without_a_canary_is_not_reported(neighbours: Neighbours) -> None:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_api_client("http", gateway.url, gateway.grpc_address) as api:
        await api.ask("hello", PROD)
        assert gateway.components.canary_outcomes.take() == {}


async def test_a_report_that_failed_is_sent_again_once(gateway: Gateway, neighbours: Neighbours) -> None:
    away = [Unavailable("Redis is away", code="redis_unavailable")] * 2
    neighbours.lora_server.reports = lambda: away.pop() if away else None
    async with open_api_client("http", gateway.url, gateway.grpc_address) as api:
        for _ in range(3):
            await ask(api, "hello", user(True))
        await until(lambda: not away)
        await ask(api, "hello", user(True))
        await until(lambda: gateway.metric("pointsman_canary_outcomes_total", outcome="sent") == 4)
    assert summed(neighbours.lora_server) == {NEW: (4, 0, 0, 4)}
    assert gateway.metric("pointsman_canary_outcomes_total", outcome="lost") == 0


# -- the counting itself

PATH = Path("triage", "tiny", adapter=PROD)
AIM = ResolvedAdapter(NEW, 3, has_canary=True)


async def test_ratings_of_both_versions_are_reported(
    neighbours: Neighbours, valkey: Valkey, tmp_path: FilePath
) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.engine.script = script
    await tell(neighbours, OLD, NEW)
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)
        for canary, rating in ((True, 0.25), (False, 1.0), (True, 0.5)):
            got = await ask(api, "hello", user(canary))
            await api.say(got.decision_id, rating=rating)

        def reported() -> dict[str, tuple[int, int]]:
            sums: dict[str, tuple[int, int]] = {}
            for one in neighbours.lora_server.reported:
                rated, rating = sums.get(one.version, (0, 0))
                sums[one.version] = rated + one.rated, rating + one.rating
            return sums

        await until(lambda: reported() == {NEW: (2, 750), OLD: (1, 1000)})


@pytest.mark.parametrize(("milliseconds", "bucket"), [(0.0, 0), (1.0, 0), (1.1, 1), (2.0, 4), (2.01, 5), (1000, 40)])
def test_times_are_counted_in_buckets_that_grow_by_a_fourth_root_of_two(milliseconds: float, bucket: int) -> None:
    assert CANARY_LATENCY_BUCKETS.index(milliseconds / 1000) == bucket
    assert milliseconds <= 2 ** (bucket / 4)
    assert bucket == 0 or milliseconds > 2 ** ((bucket - 1) / 4)


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        ("ok", (1, 0)), ("engine_error", (1, 1)), ("engine_unavailable", (1, 1)), ("connect_timeout", (1, 1)),
        ("first_token_timeout", (1, 1)), ("stream_idle_timeout", (1, 1)), ("deadline_exceeded", (1, 1)),
        ("cancelled", None), ("engine_refused", None), ("context_length_exceeded", None), ("engine_overloaded", None),
        ("breaker_open", None), ("engine_not_ready", None), ("adapter_not_resident", None), ("internal", None),
    ],
)  # fmt: skip
def test_only_outcomes_caused_by_the_version_are_counted(outcome: str, counted: tuple[int, int] | None) -> None:
    trials = CanaryOutcomes()
    trials.add(PATH, AIM, outcome, False, 0.5)
    seen = [(one.counts.requests, one.counts.errors) for reports in trials.take().values() for one in reports]
    assert seen == ([] if counted is None else [counted])
    assert trials.take() == {}


def test_reports_beyond_the_limit_are_dropped_with_a_log_line() -> None:
    lost: list[int] = []
    trials = CanaryOutcomes(lambda: lost.append(1))
    for revision in range(MAX_VERSIONS + 5):
        trials.add(PATH, ResolvedAdapter(NEW, revision, has_canary=True), "ok", False, 0.5)
    assert [len(reports) for reports in trials.take().values()] == [MAX_VERSIONS]
    assert len(lost) == 5


class Server:
    """Implements the engines' `LoraServer`; `became` scripts the answers to its reports."""

    def __init__(self, *became: str) -> None:
        self.became = list(became)
        self.reported: list[CanaryReport] = []

    def cooldown_left(self, version: str) -> float:
        return 0.0

    async def ensure(self, version: str, seconds: float) -> None:
        raise Unavailable("never", code="never")

    async def report(self, reports: Any) -> str:
        became = self.became.pop(0)
        if became == "sent":
            self.reported.extend(reports)
        return became


def reporter(*servers: Server, trials: CanaryOutcomes) -> tuple[CanaryReporter, CollectorRegistry]:
    states = [EngineState(Engine(f"engine-{number}", "tiny", ready=True)) for number in range(len(servers))]
    for state, server in zip(states, servers, strict=True):
        state.lora_server = cast(LoraServer, server)  # it has the methods that the reporter calls
    registry = CollectorRegistry()
    engines = Engines(states)
    return CanaryReporter(trials, lambda: engines, EngineMetrics(registry)), registry


async def test_a_report_goes_to_the_first_lora_server_that_can_be_reached() -> None:
    trials, away, there = CanaryOutcomes(), Server("kept", "kept"), Server("sent")
    reporting, registry = reporter(away, there, trials=trials)
    trials.add(PATH, AIM, "ok", False, 0.5)
    await reporting.report()
    assert [(one.alias, one.version, one.counts.requests) for one in there.reported] == [(PROD, NEW, 1)]
    assert registry.get_sample_value("pointsman_canary_outcomes_total", {"outcome": "sent"}) == 1
    assert trials.take() == {}


async def test_a_report_that_may_have_arrived_is_never_repeated() -> None:
    trials, server = CanaryOutcomes(), Server("lost", "sent")
    reporting, registry = reporter(server, trials=trials)
    trials.add(PATH, AIM, "ok", False, 0.5)
    await reporting.report()
    trials.add(PATH, AIM, "engine_error", False, 0.5)
    await reporting.report()
    assert [(one.counts.requests, one.counts.errors) for one in server.reported] == [(1, 1)]
    assert registry.get_sample_value("pointsman_canary_outcomes_total", {"outcome": "lost"}) == 1


async def test_an_undelivered_report_is_merged_with_later_ones() -> None:
    trials, server = CanaryOutcomes(), Server("kept", "sent")
    reporting, _ = reporter(server, trials=trials)
    trials.add(PATH, AIM, "ok", True, 0.5)
    await reporting.report()
    trials.add(PATH, AIM, "ok", False, 0.5)
    await reporting.report()
    (found,) = server.reported
    assert found.counts == RequestCounts(2, 0, 1, {CANARY_LATENCY_BUCKETS.index(0.5): 2})
