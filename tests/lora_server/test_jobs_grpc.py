"""Training jobs over gRPC with the real trainer, in a server that is killed meanwhile."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from pointsman.v1 import training_pb2 as pb
from pointsman.v1 import training_pb2_grpc
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs the engine's environment")

SECONDS = 120.0

SERVER = """
import asyncio, os, sys
from pathlib import Path
from pointsman.v1 import training_pb2_grpc
from pointsman_lora_server.grpc.servicers import TRAINING, TrainingServicer
from pointsman_lora_server.jobs.job import JobEnvironment
from pointsman_lora_server.jobs.queue import running_queue
from pointsman_lora_server.training.methods import installed_methods
from pointsman_servicekit.grpc_server import serving

async def register(result):
    assert (result.folder / "adapter_model.safetensors").stat().st_size > 1000
    return f"{result.name}@0123456789ab"

async def find(version):
    raise AssertionError("no job of this test has a parent")

async def main(folder, python, base):
    methods = installed_methods()
    environment = JobEnvironment(
        Path(folder), Path(python), Path(base), "tiny", os.environ, methods, (Path("/"),), checkpoint_seconds=0
    )
    async with running_queue(environment, register, find) as queue:
        add = training_pb2_grpc.add_TrainingServicer_to_server
        async with serving("127.0.0.1:0", [TRAINING], lambda server: add(TrainingServicer(queue), server)) as server:
            print(server.address, flush=True)
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""

Serve = Callable[[], tuple[subprocess.Popen[str], Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainings.make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def serve(base: Path, tmp_path: Path) -> Iterator[Serve]:
    """Returns a function that starts a server with a client; all servers use the same folder."""
    servers: list[subprocess.Popen[str]] = []
    channels: list[grpc.Channel] = []

    def start() -> tuple[subprocess.Popen[str], Any]:
        program = [sys.executable, "-c", SERVER, str(tmp_path / "jobs"), str(PYTHON), str(base)]
        servers.append(subprocess.Popen(program, stdout=subprocess.PIPE, text=True))
        output = servers[-1].stdout
        assert output is not None
        channels.append(grpc.insecure_channel(output.readline().strip()))
        return servers[-1], training_pb2_grpc.TrainingStub(channels[-1])

    yield start
    for channel in channels:
        channel.close()
    for server in servers:
        server.kill()
        server.communicate()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"text": f"The {alias_suffix} {n}", "output": alias_suffix}
        for alias_suffix in ("bag", "ramp", "refund", "seat")
        for n in range(8)
    ]
    return trainings.write_rows(tmp_path / "rows.jsonl", *rows)


def test_a_job_survives_the_kill_of_its_server_and_is_registered_once_it_is_done(serve: Serve, data: Path) -> None:
    server, stub = serve()
    recipe = pb.TrainingRecipe(epochs=60, tokens_per_step=600, learning_rate=0.01, max_minutes=3, threads=1)
    job = stub.CreateJob(pb.CreateTrainingJobRequest(name="triage", data=str(data), recipe=recipe), timeout=SECONDS)
    assert (job.state, job.method) == (pb.TRAINING_STATE_QUEUED, "lora")
    pid = 0
    checkpoint = data.parent / "jobs" / job.id / "checkpoint" / "checkpoint.pt"
    for event in stub.Watch(pb.WatchTrainingJobRequest(id=job.id), timeout=SECONDS):
        if event.event == "step" and checkpoint.exists():
            pid = server.pid
            os.kill(pid, signal.SIGKILL)
            break
    assert pid, "it ended before there was a checkpoint"
    server.wait()

    _, stub = serve()
    events = list(stub.Watch(pb.WatchTrainingJobRequest(id=job.id), timeout=SECONDS))
    ended = stub.Get(pb.GetTrainingJobRequest(id=job.id), timeout=SECONDS)

    assert (ended.state, ended.resumed, ended.error) == (pb.TRAINING_STATE_SUCCEEDED, 1, "")
    assert ended.version == "triage@0123456789ab"
    starts = [MessageToDict(event.facts) for event in events if event.event == "start"]
    assert "resumed_at" not in starts[0]
    assert starts[1]["resumed_at"] > 0
    assert [event.number for event in events] == list(range(len(events)))
    received: dict[int, set[float]] = {}
    for event in events:
        if event.event == "step":
            received.setdefault(int(event.facts["step"]), set()).add(event.facts["loss"])
    assert all(len(losses) == 1 for losses in received.values()), "a step that was done again had another loss"
    assert list(received) == list(range(1, int(starts[0]["steps"]) + 1))


def test_a_method_is_described_by_the_engine_environment(serve: Serve) -> None:
    _, stub = serve()
    found = stub.DescribeMethod(pb.DescribeTrainingMethodRequest(name="dpo"), timeout=SECONDS)
    assert (found.name, found.learns_from_pairs, found.must_be_merged) == ("dpo", True, False)
    assert stub.DescribeMethod(pb.DescribeTrainingMethodRequest(), timeout=SECONDS).name == "lora"


def test_errors_come_with_their_codes_and_names(serve: Serve, data: Path) -> None:
    _, stub = serve()
    for call, request, status, code in (
        (stub.Get, pb.GetTrainingJobRequest(id="nobody"), grpc.StatusCode.NOT_FOUND, "unknown_job"),
        (
            stub.CreateJob,
            pb.CreateTrainingJobRequest(name="x", data="rows"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "bad_path",
        ),
        (
            stub.CreateJob,
            pb.CreateTrainingJobRequest(name="x", data=str(data), recipe=pb.TrainingRecipe(epochs=0)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "bad_option",
        ),
    ):
        with pytest.raises(grpc.RpcError) as failed:
            call(request, timeout=SECONDS)
        assert failed.value.code() is status
        error = cast(grpc.aio.AioRpcError, failed.value)  # it has what is read
        assert from_rpc_error(error, "lora-server").code == code
    assert list(stub.List(pb.ListTrainingJobsRequest(), timeout=SECONDS).jobs) == []


def test_a_running_job_is_cancelled_over_grpc_and_leaves_no_process(serve: Serve, data: Path) -> None:
    _, stub = serve()
    recipe = pb.TrainingRecipe(epochs=5000, tokens_per_step=600, max_minutes=10, threads=1)
    job = stub.CreateJob(pb.CreateTrainingJobRequest(name="triage", data=str(data), recipe=recipe), timeout=SECONDS)
    for event in stub.Watch(pb.WatchTrainingJobRequest(id=job.id), timeout=SECONDS):
        if event.event == "step":
            break
    ended = stub.Cancel(pb.CancelTrainingJobRequest(id=job.id), timeout=SECONDS)
    assert ended.state == pb.TRAINING_STATE_CANCELLED
    assert [found.state for found in stub.List(pb.ListTrainingJobsRequest(name="triage"), timeout=SECONDS).jobs] == [
        pb.TRAINING_STATE_CANCELLED
    ]
    assert not (data.parent / "jobs" / job.id / "out").exists()
    assert not (data.parent / "jobs" / job.id / "checkpoint").exists()
