"""Finding 4 of the security review: internal services that anyone who reached their ports could command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as lora_pb
from pointsman.v1 import lora_server_pb2_grpc, retriever_pb2_grpc
from pointsman.v1 import retriever_pb2 as retriever_pb
from pointsman.v1 import training_pb2 as training_pb
from pointsman_lora_server.grpc import adapter_servicer, training_servicer
from pointsman_retriever.grpc import servicer as retriever_servicer
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.service_tokens import Role

from tests.lora_server.tiny_adapters import good_tensors, write_adapter
from tests.security.target import Addresses

ROLES = {
    **adapter_servicer.METHOD_ROLES,
    **training_servicer.METHOD_ROLES,
    **retriever_servicer.METHOD_ROLES,
}
DESCRIPTORS = [
    *lora_pb.DESCRIPTOR.services_by_name.values(),
    *training_pb.DESCRIPTOR.services_by_name.values(),
    *retriever_pb.DESCRIPTOR.services_by_name.values(),
]
METHODS = [f"/{service.full_name}/{method.name}" for service in DESCRIPTORS for method in service.methods]


@asynccontextmanager
async def connected(address: str, token: str = "") -> AsyncIterator[Any]:
    async with open_channel(address, token=(lambda: token) if token else None) as channel:
        yield channel


async def status_of(address: str, method: str, token: str = "", message: bytes = b"") -> str:
    """The status of a call; UNAUTHENTICATED and PERMISSION_DENIED come before the message is looked at."""
    async with connected(address, token) as channel:
        try:
            await channel.unary_unary(method)(message, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


def address_of(target: Addresses, method: str) -> str:
    return target.retriever if "Retriever" in method else target.lora_server


def test_finding_4_each_method_has_a_role() -> None:
    assert sorted(ROLES) == sorted(METHODS)


@pytest.mark.parametrize("method", METHODS)
async def test_finding_4_no_method_can_be_called_without_a_known_token(target: Addresses, method: str) -> None:
    for token in ("", "0" * 64, target.key, target.tokens["admin"][:-1]):
        assert await status_of(address_of(target, method), method, token) == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", [method for method in METHODS if ROLES[method] > Role.READ])
async def test_finding_4_a_lower_role_does_not_suffice(target: Addresses, method: str) -> None:
    for role in Role:
        if role < ROLES[method]:
            token = target.tokens[role.name.lower()]
            assert await status_of(address_of(target, method), method, token) == "PERMISSION_DENIED"


async def test_finding_4_health_and_reflection_stay_open(target: Addresses) -> None:
    for address in (target.lora_server, target.retriever):
        assert await status_of(address, "/grpc.health.v1.Health/Check") == "OK"


async def test_finding_4_the_gateway_has_the_rights_that_it_needs(target: Addresses) -> None:
    token = target.tokens["write"]
    async with connected(target.retriever, token) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        found = await stub.Search(retriever_pb.SearchRequest(collection="handbook", query="bicycle"))
        assert found.passages
    async with connected(target.lora_server, token) as channel:
        lora_server = lora_server_pb2_grpc.LoraServerStub(channel)
        async for state in lora_server.Watch(lora_pb.WatchRequest(), timeout=30):
            assert state.status == lora_pb.ENGINE_STATUS_READY
            break


async def test_finding_4_other_tenants_collections_need_the_role_admin(target: Addresses) -> None:
    create = retriever_pb.CreateCollectionRequest(tenant="t2", name="theirs", if_missing=True)
    delete = retriever_pb.DeleteCollectionRequest(tenant="t2", name="theirs")
    document = retriever_pb.Document(id="one", text="Of tenant t2.")
    upsert = retriever_pb.UpsertRequest(tenant="t2", collection="theirs", documents=[document])
    service = "/pointsman.v1.Retriever"
    attempts = {"DeleteCollection": delete.SerializeToString(), "Upsert": upsert.SerializeToString()}
    async with connected(target.retriever, target.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        await stub.CreateCollection(create)
        for name, message in attempts.items():
            assert await status_of(target.retriever, f"{service}/{name}", "", message) == "UNAUTHENTICATED"
            read = target.tokens["read"]
            assert await status_of(target.retriever, f"{service}/{name}", read, message) == "PERMISSION_DENIED"
        listed = await stub.ListCollections(retriever_pb.ListCollectionsRequest(tenant="t2"))
        assert [(one.name, one.documents) for one in listed.collections] == [("theirs", 0)]
        await stub.DeleteCollection(delete)


async def test_finding_4_the_author_of_a_change_is_the_peer(target: Addresses, tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "tiny", "answer_ids": [1, 2]}
    adapter = write_adapter(tmp_path / "mine", good_tensors(), config=config)
    async with connected(target.lora_server, target.tokens["admin"]) as channel:
        stub = lora_server_pb2_grpc.LoraServerStub(channel)
        request = lora_pb.RegisterRequest(name="mine", folder=str(adapter), author="root")
        version = await stub.Register(request, timeout=60)
        for pinned, claimed in ((True, ""), (False, "admin"), (True, "gateway")):
            await stub.Pin(lora_pb.PinRequest(version=version.version, pinned=pinned, author=claimed))
        history = await stub.History(lora_pb.HistoryRequest(name="mine"))
    assert version.author == "admin (root)"
    pins = [change.author for change in history.changes if change.kind == "pin"]
    assert pins == ["admin (gateway)", "admin", "admin"]


async def test_finding_4_a_refusal_names_the_role_that_is_needed(target: Addresses) -> None:
    async with connected(target.lora_server, target.tokens["read"]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lora_server_pb2_grpc.LoraServerStub(channel).Delete(lora_pb.DeleteAdapterRequest())
    told = from_rpc_error(refused.value, "lora-server")
    assert (told.code, told.message) == ("role_too_low", "'read' has the role read, and Delete needs the role admin")
