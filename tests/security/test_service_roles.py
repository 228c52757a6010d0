"""Internal services accept commands only from peers with the right role."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as lora_pb
from pointsman.v1 import lora_server_pb2_grpc, retriever_pb2_grpc, training_pb2_grpc
from pointsman.v1 import retriever_pb2 as retriever_pb
from pointsman.v1 import training_pb2 as training_pb
from pointsman_lora_server.grpc import servicers as lora_servicers
from pointsman_lora_server.jobs.folder import open_inputs
from pointsman_lora_server.jobs.job import JobRequest
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_retriever.grpc import servicer as retriever_servicer
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.service_tokens import Role

from tests.lora_server.tiny_adapters import good_tensors, write_adapter
from tests.security.target import Addresses

ROLES = {
    **lora_servicers.METHOD_ROLES,
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
    """Calls a method and returns the status. UNAUTHENTICATED and PERMISSION_DENIED are decided before the message is
    parsed.
    """
    async with connected(address, token) as channel:
        try:
            await channel.unary_unary(method)(message, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


def address_of(target: Addresses, method: str) -> str:
    return target.retriever if "Retriever" in method else target.lora_server


def test_each_method_has_a_role() -> None:
    assert sorted(ROLES) == sorted(METHODS)


@pytest.mark.parametrize("method", METHODS)
async def test_no_method_can_be_called_without_a_known_token(target: Addresses, method: str) -> None:
    for token in ("", "0" * 64, target.key, target.tokens["admin"][:-1]):
        assert await status_of(address_of(target, method), method, token) == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", [method for method in METHODS if ROLES[method] > Role.READ])
async def test_a_lower_role_does_not_suffice(target: Addresses, method: str) -> None:
    for role in Role:
        if role < ROLES[method]:
            token = target.tokens[role.name.lower()]
            assert await status_of(address_of(target, method), method, token) == "PERMISSION_DENIED"


async def test_health_and_reflection_stay_open(target: Addresses) -> None:
    for address in (target.lora_server, target.retriever):
        assert await status_of(address, "/grpc.health.v1.Health/Check") == "OK"


async def test_the_gateway_has_the_rights_that_it_needs(target: Addresses) -> None:
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


async def test_other_tenants_collections_need_the_role_admin(target: Addresses) -> None:
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


async def test_the_author_of_a_change_is_the_peer(target: Addresses, tmp_path: Path) -> None:
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


@pytest.fixture
def roots(target: Addresses) -> Iterator[Path]:
    """Yields a folder from which the lora-server reads training data."""
    folder = Path(target.folder) / "training" / "attack"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def training(target: Addresses) -> AsyncIterator[Any]:
    async with connected(target.lora_server, target.tokens["admin"]) as channel:
        yield training_pb2_grpc.TrainingStub(channel)


def jobs_named(name: str, target: Addresses) -> list[Path]:
    """Returns the folders of the lora-server's jobs."""
    return list(Path(target.folder).glob(f"lora-server/jobs/{name}-*"))


async def refusal(training: Any, data: object, **more: Any) -> tuple[str, str]:
    """Starts a job that must be rejected; returns the error's code and message."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await training.CreateJob(training_pb.CreateTrainingJobRequest(name="attack", data=str(data), **more))
    error = from_rpc_error(refused.value, "lora-server")
    return error.code, error.message


async def test_training_reads_nothing_outside_the_data_roots_and_does_not_say_what_is_there(
    target: Addresses, training: Any, roots: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "rows.jsonl"
    outside.write_text('{"text": "a", "output": "b"}\n')
    link, folder, pipe = roots / "link.jsonl", roots / "folder", roots / "pipe"
    link.symlink_to(outside)
    folder.symlink_to(tmp_path)
    os.mkfifo(pipe)
    good = roots / "good.jsonl"
    good.write_text(outside.read_text())
    missing = ["/etc/no-such-file", "/no/where", roots / "missing", roots / "missing" / "rows.jsonl"]
    there = ["/etc/shadow", "/etc/passwd", "/proc/self/environ", "/root/.ssh/id_rsa", "/dev/zero", "/tmp", outside]
    odd = [link, folder / "rows.jsonl", roots / ".." / ".." / "tokens", roots, pipe, "rows.jsonl", "", f"{roots}/a\0b"]
    answers = {str(path): await refusal(training, path) for path in (*missing, *there, *odd)}
    as_system = await refusal(training, good, system="/etc/passwd")
    assert len(set(answers.values())) == 1, answers
    assert {code for code, _ in answers.values()} == {"bad_path"}
    assert as_system[0] == "bad_path"
    assert not jobs_named("attack", target)


@pytest.mark.parametrize(
    "content", [b"root:*:19000:0:99999\n", b"HOME=/root\0PATH=/bin\0", b"", b"[1]\n", b"\xff\xfe{}"]
)
async def test_the_first_line_is_checked_before_anything_is_copied_and_is_not_quoted(
    target: Addresses, training: Any, roots: Path, content: bytes
) -> None:
    data = roots / "bad.jsonl"
    data.write_bytes(content)
    assert await refusal(training, data) == ("bad_data", "the first line of 'data' is not a JSON object")
    assert not jobs_named("attack", target)


async def test_copies_of_training_data_are_private(target: Addresses, training: Any, roots: Path) -> None:
    data = roots / "rows.jsonl"
    data.write_text('{"text": "a", "output": "b"}\n')
    data.chmod(0o644)
    request = training_pb.CreateTrainingJobRequest(name="fine", data=str(data), author="somebody else")
    job = await training.CreateJob(request)
    copy = Path(target.folder) / "lora-server" / "jobs" / job.id / "input" / "data" / "rows.jsonl"
    assert (copy.stat().st_mode & 0o777, copy.read_text()) == (0o600, data.read_text())
    assert copy.parents[2].stat().st_mode & 0o777 == 0o700
    assert job.author == "admin (somebody else)"
    await training.Cancel(training_pb.CancelTrainingJobRequest(id=job.id))


def test_without_data_roots_no_training_data_is_accepted(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("{}")
    assert LoraSettings.model_fields["data_roots"].default == ()
    with ExitStack() as files, pytest.raises(InvalidArgument, match="POINTSMAN_LORA_DATA_ROOTS is empty"):
        open_inputs(JobRequest("x", data=data), (), files)


async def test_a_refusal_names_the_role_that_is_needed(target: Addresses) -> None:
    async with connected(target.lora_server, target.tokens["read"]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lora_server_pb2_grpc.LoraServerStub(channel).Delete(lora_pb.DeleteAdapterRequest())
    error = from_rpc_error(refused.value, "lora-server")
    assert (error.code, error.message) == ("role_too_low", "'read' has the role read, and Delete needs the role admin")
