"""The gRPC API of adapters, with doubles of the components that it calls: invalid requests are rejected first."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_lora_server.adapters.service import AdapterListing, AdapterService
from pointsman_lora_server.domain import (
    AdapterVersion,
    Alias,
    Canary,
    CanaryTerms,
    Change,
    EngineState,
    EngineStatus,
    Placement,
    VersionReport,
    VersionState,
)
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc.messages import EngineIdentity
from pointsman_lora_server.grpc.servicers import ADAPTERS, LoraServerServicer
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.grpc_server import serving

OLD, NEW = "triage@111111111111", "triage@222222222222"
PROD = "triage@prod"
VERSION = AdapterVersion(
    "triage",
    "1" * 64,
    "tiny-base",
    2,
    ("q_proj",),
    100,
    1_795_000_000_000,
    {"seed": "7"},
    "b" * 64,
    "c" * 64,
    "d" * 64,
    {"heldout_exact": 0.25},
    NEW,
    "ann",
)


@dataclass
class Asked:
    """A component that answers each call with `answer`, and records the arguments."""

    answer: Any = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    async def count_canary_requests(self, alias: Alias) -> int:
        return 9 if alias.canary else 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, *arguments, named) if named else (name, *arguments))
            return self.answer

        return call


@pytest.fixture
def rollout() -> Asked:
    return Asked()


@pytest.fixture
async def stub(rollout: Asked) -> AsyncIterator[lora_server_pb2_grpc.LoraServerStub]:
    identity = EngineIdentity("local", "tiny-base", "http://127.0.0.1:1", 512)
    servicer = LoraServerServicer(cast(AdapterService, rollout), EngineStateStore(), identity)
    async with (
        serving(
            "127.0.0.1:0",
            [ADAPTERS],
            lambda server: lora_server_pb2_grpc.add_LoraServerServicer_to_server(servicer, server),
            grace=0.1,
        ) as server,
        open_channel(server.address) as channel,
    ):
        yield lora_server_pb2_grpc.LoraServerStub(channel)


ALL, COPIES, ON_DEMAND = pb.PLACEMENT_KIND_ALL, pb.PLACEMENT_KIND_COPIES, pb.PLACEMENT_KIND_ON_DEMAND
AUTO = pb.PLACEMENT_KIND_AUTO


def _place(**placement: Any) -> pb.SetPlacementRequest:
    return pb.SetPlacementRequest(placement=pb.Placement(name="triage", **placement))


async def test_a_placement_is_passed_unchanged(stub: Any, rollout: Asked) -> None:
    request = _place(kind=COPIES, copies=3)
    request.author = "ann"
    assert await stub.SetPlacement(request) == pb.Placement(name="triage", kind=COPIES, copies=3)
    assert await stub.SetPlacement(_place(kind=ON_DEMAND)) == pb.Placement(name="triage", kind=ON_DEMAND)
    assert await stub.SetPlacement(_place(kind=AUTO)) == pb.Placement(name="triage", kind=AUTO)
    request = _place(kind=ALL)
    request.expected.kind = ON_DEMAND
    assert await stub.SetPlacement(request) == pb.Placement(name="triage", kind=ALL)
    assert rollout.calls == [
        ("set_placement", "triage", Placement(3), None, "ann"),
        ("set_placement", "triage", Placement(0), None, ""),
        ("set_placement", "triage", Placement(by_demand=True), None, ""),
        ("set_placement", "triage", Placement(), Placement(0), ""),
    ]


async def test_a_version_is_encoded_completely(stub: Any, rollout: Asked) -> None:
    rollout.answer = VersionReport(VERSION, VersionState.FAILED, (PROD,), True, "not_finite", "a weight is NaN")

    assert await stub.Get(pb.GetAdapterRequest(version=PROD)) == pb.AdapterVersion(
        version=OLD,
        name="triage",
        sha256="1" * 64,
        base_model="tiny-base",
        rank=2,
        target_modules=["q_proj"],
        bytes=100,
        created_unix_ms=1_795_000_000_000,
        state=pb.ADAPTER_STATE_FAILED,
        last_error="a weight is NaN",
        facts={"seed": "7"},
        aliases=[PROD],
        base_digest="b" * 64,
        chat_template_sha256="c" * 64,
        training_data_sha256="d" * 64,
        metrics={"heldout_exact": 0.25},
        parent=NEW,
        author="ann",
        pinned=True,
        last_error_code="not_finite",
    )
    assert rollout.calls == [("get", PROD)]


@pytest.mark.parametrize("state", VersionState)
async def test_each_state_has_a_protobuf_name(stub: Any, rollout: Asked, state: VersionState) -> None:
    rollout.answer = VersionReport(VERSION, state, ())

    response = await stub.Pin(pb.PinRequest(version=OLD, pinned=True, author="ann"))

    assert pb.AdapterState.Name(response.state) == f"ADAPTER_STATE_{state.name}"
    assert rollout.calls == [("pin", OLD, True, "ann")]


async def test_a_registration_is_passed_unchanged(stub: Any, rollout: Asked) -> None:
    rollout.answer = VersionReport(VERSION, VersionState.SERVING, (PROD,))

    await stub.Register(
        pb.RegisterRequest(
            name="triage", folder="/a/b", alias="prod", facts={"seed": "7"}, parent=NEW, author="ann", force=True
        )
    )

    others = {"alias_suffix": "prod", "facts": {"seed": "7"}, "parent": NEW, "author": "ann", "force": True}
    assert rollout.calls == [("register", "triage", "/a/b", others)]


async def test_an_alias_is_encoded_with_canary_and_previous_version(stub: Any, rollout: Asked) -> None:
    rollout.answer = Alias(PROD, OLD, 7, Canary(NEW, 0.1), "triage@333333333333")

    response = await stub.SetCanary(
        pb.SetCanaryRequest(
            alias=PROD,
            version=NEW,
            weight=0.1,
            terms=pb.CanaryTerms(min_requests=5, max_error_excess=0),
            author="ann",
            expected_version=OLD,
            force=True,
        )
    )

    assert response == pb.Alias(
        alias=PROD, version=OLD, revision=7, canary_version=NEW, canary_weight=0.1, previous="triage@333333333333"
    )
    terms = CanaryTerms(min_requests=5, max_error_excess=0)  # 0 is an explicit value, and the others are not set
    others = {"author": "ann", "expected": OLD, "force": True}
    assert rollout.calls == [("set_canary", PROD, NEW, 0.1, terms, others)]


async def test_promotions_rollbacks_and_canary_ends_are_passed(stub: Any, rollout: Asked) -> None:
    rollout.answer = Alias(PROD, OLD, 1)
    await stub.SetAlias(pb.SetAliasRequest(alias=PROD, version=OLD, expected_version=NEW, author="ann", force=True))
    await stub.Rollback(pb.RollbackRequest(alias=PROD, expected_version=NEW, author="ann", reason="why"))
    rollout.answer = VersionReport(VERSION, VersionState.RETIRED, ())
    await stub.Retire(pb.RetireRequest(version=OLD, author="ann", reason="worse"))
    await stub.Delete(pb.DeleteAdapterRequest(version=OLD, author="ann"))
    rollout.answer = AdapterListing(
        [VersionReport(VERSION, VersionState.WARM, ())],
        [Alias(PROD, OLD, 1)],
        {"triage": Placement(2), "voice": Placement(0), "letter": Placement()},
    )
    listed = await stub.List(pb.ListAdaptersRequest(name="triage"))

    assert ([each.version for each in listed.versions], [each.alias for each in listed.aliases]) == ([OLD], [PROD])
    assert [(each.name, each.kind, each.copies) for each in listed.placements] == [
        ("triage", COPIES, 2),
        ("voice", ON_DEMAND, 0),
        ("letter", ALL, 0),
    ]
    assert rollout.calls == [
        ("set_alias", PROD, OLD, NEW, "ann", True),
        ("roll_back", PROD, NEW, "ann", "why"),
        ("retire", OLD, "ann", "worse"),
        ("delete", OLD, "ann"),
        ("list", "triage"),
    ]


async def test_the_history_has_a_hundred_changes_unless_another_number_is_named(stub: Any, rollout: Asked) -> None:
    rollout.answer = [Change("1-0", 1, "alias", PROD, OLD, NEW, "ann", "why")]

    response = await stub.History(pb.HistoryRequest())
    await stub.History(pb.HistoryRequest(name="triage", limit=7))

    assert list(response.changes) == [
        pb.Change(id="1-0", at_unix_ms=1, kind="alias", subject=PROD, before=OLD, after=NEW, author="ann", reason="why")
    ]
    assert rollout.calls == [("history", "", 100), ("history", "triage", 7)]


async def test_the_engine_state_lists_loaded_and_loadable_versions(stub: Any, rollout: Asked) -> None:
    rollout.answer = EngineState(
        EngineStatus.READY, 3, "fine", frozenset({OLD}), ready={OLD: None, NEW: None}, aliases=(Alias(PROD, OLD, 1),)
    )

    assert await stub.EnsureLoaded(pb.EnsureLoadedRequest(version=OLD)) == pb.EngineState(
        engine="local",
        status=pb.ENGINE_STATUS_READY,
        base_model="tiny-base",
        url="http://127.0.0.1:1",
        resident=[OLD],
        aliases=[pb.Alias(alias=PROD, version=OLD, revision=1)],
        sequence=1,
        engine_restarts=2,
        detail="fine",
        max_model_len=512,
        loadable=[NEW],
    )


async def test_canary_metrics_are_passed(stub: Any, rollout: Asked) -> None:
    outcome = pb.Outcomes(
        alias=PROD, revision=7, version=OLD, requests=9, errors=1, invalid=2, milliseconds={0: 1, 40: 7}
    )

    await stub.ReportCanaryMetrics(pb.ReportCanaryMetricsRequest(outcomes=[outcome]))

    assert rollout.calls == [
        ("report_canary_metrics", [CanaryReport(PROD, 7, OLD, RequestCounts(9, 1, 2, {0: 1, 40: 7}))])
    ]


def _outcome(**changed: Any) -> pb.ReportCanaryMetricsRequest:
    fields: dict[str, Any] = {"alias": PROD, "version": OLD, "requests": 9}
    return pb.ReportCanaryMetricsRequest(outcomes=[pb.Outcomes(**(fields | changed))])


def _canary(**changed: Any) -> pb.SetCanaryRequest:
    fields: dict[str, Any] = {"alias": PROD, "version": NEW, "weight": 0.1}
    return pb.SetCanaryRequest(**(fields | changed))


def _register(**changed: Any) -> pb.RegisterRequest:
    return pb.RegisterRequest(**({"name": "triage", "folder": "/a"} | changed))


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Register", _register(folder=""), "bad_folder"),
        ("Register", _register(folder="a\0b"), "bad_folder"),
        ("Register", _register(folder="a" * 5000), "bad_folder"),
        ("Register", _register(parent="triage@prod"), "bad_version"),
        ("Register", _register(author="a" * 201), "bad_author"),
        ("Register", _register(facts={"a": "b" * 1001}), "bad_facts"),
        ("Register", _register(facts={"": "b"}), "bad_facts"),
        ("Register", _register(facts={str(number): "" for number in range(65)}), "bad_facts"),
        ("List", pb.ListAdaptersRequest(name="../x"), "bad_name"),
        ("Get", pb.GetAdapterRequest(version="triage"), "bad_alias"),
        ("Get", pb.GetAdapterRequest(), "bad_alias"),
        ("SetAlias", pb.SetAliasRequest(alias=PROD, version=OLD, author="a" * 201), "bad_author"),
        ("SetCanary", _canary(weight=-0.1), "bad_weight"),
        ("SetCanary", _canary(weight=1.1), "bad_weight"),
        ("SetCanary", _canary(weight=float("nan")), "bad_weight"),
        ("SetCanary", _canary(weight=0), "bad_weight"),
        ("SetCanary", _canary(expected_version="x"), "bad_version"),
        ("SetCanary", _canary(terms=pb.CanaryTerms(min_requests=0)), "bad_min_requests"),
        ("SetCanary", _canary(terms=pb.CanaryTerms(max_error_excess=1.1)), "bad_max_error_excess"),
        ("SetCanary", _canary(terms=pb.CanaryTerms(max_invalid_excess=float("nan"))), "bad_max_invalid_excess"),
        ("SetCanary", _canary(terms=pb.CanaryTerms(max_latency_ratio=0.5)), "bad_max_latency_ratio"),
        ("SetCanary", _canary(terms=pb.CanaryTerms(max_latency_ratio=float("inf"))), "bad_max_latency_ratio"),
        ("SetPlacement", _place(), "bad_placement"),
        ("SetPlacement", _place(kind=COPIES), "bad_placement"),
        ("SetPlacement", _place(kind=COPIES, copies=10_001), "bad_placement"),
        ("SetPlacement", _place(kind=ALL, copies=1), "bad_placement"),
        ("Rollback", pb.RollbackRequest(alias=PROD, reason="a" * 1001), "bad_reason"),
        ("Rollback", pb.RollbackRequest(alias=PROD, expected_version="x"), "bad_version"),
        ("History", pb.HistoryRequest(limit=1001), "bad_limit"),
        ("History", pb.HistoryRequest(name="Ünicode"), "bad_name"),
        ("ReportCanaryMetrics", _outcome(alias="triage"), "bad_alias"),
        ("ReportCanaryMetrics", _outcome(version="triage"), "bad_version"),
        ("ReportCanaryMetrics", _outcome(errors=10), "bad_outcomes"),
        ("ReportCanaryMetrics", _outcome(invalid=10), "bad_outcomes"),
        ("ReportCanaryMetrics", _outcome(milliseconds={1: 10}), "bad_outcomes"),
        ("ReportCanaryMetrics", _outcome(milliseconds={121: 1}), "bad_outcomes"),
        ("ReportCanaryMetrics", _outcome(requests=2**41), "bad_outcomes"),
        ("ReportCanaryMetrics", pb.ReportCanaryMetricsRequest(outcomes=[pb.Outcomes()] * 1001), "bad_outcomes"),
    ],
)
async def test_out_of_range_values_are_rejected(
    stub: Any, rollout: Asked, method: str, request_: Any, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub, method)(request_)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value, "lora-server").code == code
    assert rollout.calls == []
