"""Training jobs of the lora-server, over real gRPC."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pointsman.v1 import training_pb2 as pb
from pointsman.v1 import training_pb2_grpc
from pointsman_servicekit.errors import FailedPrecondition, NotFound

Cli = Callable[..., Any]
GrpcServer = Callable[..., str]

STEP = {"step": 1, "steps": 2, "loss": 0.5, "tokens_per_second": 260, "eta_seconds": 61}


class Training(training_pb2_grpc.TrainingServicer):
    """Reports one job with scripted states."""

    def __init__(self) -> None:
        self.started: list[pb.CreateTrainingJobRequest] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def CreateJob(self, request: pb.CreateTrainingJobRequest, context: Any) -> pb.TrainingJob:
        self.started.append(request)
        return pb.TrainingJob(id="triage-1", name=request.name, state=pb.TRAINING_STATE_QUEUED)

    async def List(self, request: pb.ListTrainingJobsRequest, context: Any) -> pb.ListTrainingJobsResponse:
        job = pb.TrainingJob(
            id="triage-1", name="triage", method="dpo", state=pb.TRAINING_STATE_RUNNING, resumed=2,
            started_unix_ms=1795575600000,
        )  # fmt: skip
        waiting = pb.TrainingJob(id="triage-2", name="triage", method="lora", state=pb.TRAINING_STATE_QUEUED)
        return pb.ListTrainingJobsResponse(jobs=[waiting, job])

    async def Watch(self, request: pb.WatchTrainingJobRequest, context: Any) -> AsyncIterator[pb.TrainingEvent]:
        if request.id != "triage-1":
            raise NotFound(f"there is no training job '{request.id}' here", code="unknown_job")
        for number, (kind, facts) in enumerate(self.events):
            yield pb.TrainingEvent(number=number, event=kind, facts=ParseDict(facts, Struct()))

    async def Cancel(self, request: pb.CancelTrainingJobRequest, context: Any) -> pb.TrainingJob:
        if request.id == "done-1":
            raise FailedPrecondition("'done-1' is trained, and is being registered", code="too_late")
        return pb.TrainingJob(id=request.id, state=pb.TRAINING_STATE_CANCELLED)


@pytest.fixture
def training(grpc_server: GrpcServer) -> tuple[Training, str]:
    servicer = Training()
    address = grpc_server(
        "pointsman.v1.Training", lambda server: training_pb2_grpc.add_TrainingServicer_to_server(servicer, server)
    )
    return servicer, address


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "lost my bag", "output": "lost_item"}\n')
    return file


def test_a_remote_training_is_started_and_followed_until_its_version_exists(
    cli: Cli, data: Path, training: tuple[Training, str]
) -> None:
    servicer, address = training
    servicer.events = [
        ("state", {"state": "running"}),
        ("step", STEP),
        ("state", {"state": "succeeded", "version": "triage@3f9a1c0b77de"}),
    ]

    outcome = cli(
        "train", "--name", "triage", "--data", data, "--on-server", "--lora-server", address, "--method", "qlora",
        "--init-from", "triage@000000000000", "--alias", "canary", "--epochs", 5, "--learning-rate", 0.001,
        "--min-epochs", 0, "--max-rows", 40,
    )  # fmt: skip

    assert outcome.code == 0, outcome.err
    [request] = servicer.started
    assert (request.name, request.data, request.method) == ("triage", str(data), "qlora")
    assert (request.parent, request.alias, request.force) == ("triage@000000000000", "canary", False)
    assert (request.recipe.epochs, request.recipe.learning_rate, request.recipe.HasField("beta")) == (5, 0.001, False)
    assert (request.recipe.HasField("min_epochs"), request.recipe.min_epochs, request.recipe.max_rows) == (True, 0, 40)
    assert "loss 0.5000" in outcome.out
    assert "succeeded, version triage@3f9a1c0b77de" in outcome.out


def test_a_training_on_the_server_that_does_not_fit_is_not_asked_about(
    cli: Cli, data: Path, training: tuple[Training, str]
) -> None:
    servicer, address = training
    servicer.events = [
        ("too_short", {"epochs": 3, "minutes": 25, "max_minutes": 8, "epochs_within": 0.2, "rows_within": 24}),
        ("state", {"state": "failed", "error": "3 epochs (51 steps) take about 25 minutes here"}),
    ]

    outcome = cli("train", "--name", "triage", "--data", data, "--on-server", "--lora-server", address)

    assert outcome.code == 1
    assert outcome.err.endswith("failed: 3 epochs (51 steps) take about 25 minutes here\n")
    assert "too_short" not in outcome.out + outcome.err
    assert "stop (default)" not in outcome.out + outcome.err


def test_a_detached_training_prints_its_id_only(cli: Cli, data: Path, training: tuple[Training, str]) -> None:
    outcome = cli("train", "--name", "triage", "--data", data, "--on-server", "--detach", "--lora-server", training[1])
    assert (outcome.code, outcome.out) == (0, "triage-1\n")


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        (
            [("state", {"state": "failed", "error": "data.jsonl:3: not JSON"})],
            "triage-1 failed: data.jsonl:3: not JSON",
        ),
        ([("state", {"state": "cancelled"})], "triage-1 cancelled: it was stopped"),
        ([("state", {"state": "running"})], "the lora-server stopped; triage-1 continues when it is back"),
    ],
)
def test_a_failed_job_is_an_error_with_its_reason(
    cli: Cli, training: tuple[Training, str], events: list[tuple[str, dict[str, Any]]], complaint: str
) -> None:
    training[0].events = events

    outcome = cli("jobs", "watch", "triage-1", "--lora-server", training[1])

    assert outcome.code == 1
    assert complaint in outcome.err


def test_jobs_are_listed_with_method_state_and_start(cli: Cli, training: tuple[Training, str]) -> None:
    lines = cli("jobs", "list", "--lora-server", training[1]).out.splitlines()
    assert lines[0].split() == ["job", "method", "state", "started", "result"]
    assert lines[1].split() == ["triage-2", "lora", "queued", "-"]
    assert "triage-1" in lines[2]
    assert "running, resumed 2 times" in lines[2]
    assert "2026-11-25 03:00 UTC" in lines[2]


def test_a_job_can_be_cancelled_until_its_registration(cli: Cli, training: tuple[Training, str]) -> None:
    assert cli("jobs", "cancel", "triage-1", "--lora-server", training[1]).out == "triage-1 cancelled\n"
    refused = cli("jobs", "cancel", "done-1", "--lora-server", training[1])
    assert (refused.code, refused.err) == (1, "error: 'done-1' is trained, and is being registered (too_late)\n")


def test_an_unknown_job_and_an_unreachable_server_are_reported(
    cli: Cli, training: tuple[Training, str], tmp_path: Path
) -> None:
    unknown = cli("jobs", "watch", "nobody", "--lora-server", training[1])
    assert (unknown.code, unknown.err) == (1, "error: there is no training job 'nobody' here (unknown_job)\n")
    missing = cli("jobs", "list", "--data-dir", tmp_path)
    assert missing.code == 2
    assert "there is no lora-server" in missing.err


def test_options_of_local_training_are_rejected_for_remote_training(
    cli: Cli, data: Path, training: tuple[Training, str], tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--on-server", "--out", tmp_path, "--lora-server", training[1]
    )
    assert outcome.code == 2
    assert "leave out --out" in outcome.err
    assert training[0].started == []
